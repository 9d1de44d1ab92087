//! A shard's thread: its executor, what it runs, and how it ends.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join;
use glommio::net::TcpListener;
use glommio::timer::sleep;
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares};

use super::acceptor::Acceptor;
use super::connection_table::ConnectionTable;
use super::context::ShardContext;
use super::handshake_log::HandshakeLog;
use super::listener::Listen;
use super::origin::Balancers;
use super::stop::Stop;
use super::yielding::preempt_if_due;
use super::{clock, listener};
use crate::audit::recording::Recording;
use crate::audit::waiter::Waiter;
use crate::keystore::KeyStores;
use crate::limits::{DEADLINE_TICK, IO_MEMORY_BYTES, RING_DEPTH};
use crate::pipeline::Pipeline;
use crate::policy::blocklist::BlockList;
use crate::sched::{Inbox, Mailbox};
use crate::telemetry::{Level, Log, ShardMetrics};
use crate::tls;

/// How long tasks run at most before the executor looks for I/O, timers and other threads' wake-ups
/// again. Lanes' outcomes do not wait for it ([`Inbox::look`]). No queue of its own asks for less:
/// of a queue with a latency goal every socket that becomes readable stops the one that runs, and
/// each stop costs system calls.
const PREEMPTION: Duration = Duration::from_millis(1);
/// Pause after accept(2) failed: the usual cause is a lack of descriptors, and accept would fail
/// again at once.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// What a shard is made of.
pub struct ShardSeed {
    /// Number, from 0.
    pub index: usize,
    /// Core it is pinned to.
    pub core: usize,
    /// Where connections come from.
    pub listen: Listen,
    /// Connections it may have open at once.
    pub connections_max: usize,
    /// What is served.
    pub stores: Arc<ArcSwap<KeyStores>>,
    /// What is blocked.
    pub blocks: Arc<ArcSwap<BlockList>>,
    /// TLS configuration for new connections.
    pub tls: Arc<ArcSwap<tls::Server>>,
    /// Whose new connections begin with a PROXY protocol header.
    pub balancers: Arc<ArcSwap<Balancers>>,
    /// Where lanes put outcomes for this shard.
    pub mailbox: Arc<Mailbox>,
    /// Figures.
    pub metrics: Arc<ShardMetrics>,
    /// Log.
    pub log: Log,
    /// Where records of requests go, if anywhere.
    pub audit: Arc<Recording>,
    /// Tells the shard to drain.
    pub stop: Arc<Stop>,
    /// See [`ShardThread::heartbeat`]; a new counter.
    pub heartbeat: Arc<AtomicU64>,
}

impl ShardSeed {
    /// Starts the shard's thread. `started` is called once, on that thread: with the address when
    /// it listens, or why it does not.
    ///
    /// # Errors
    /// When no thread or io_uring can be had.
    pub fn start(
        self,
        started: impl FnOnce(Result<SocketAddr, String>) + Send + 'static,
    ) -> Result<ShardThread, String> {
        let alive = Arc::new(());
        let held = alive.clone();
        let heartbeat = self.heartbeat.clone();
        let core = self.core;
        let run = move || async move {
            self.run(started).await;
            drop(held);
        };
        LocalExecutorBuilder::new(Placement::Fixed(core))
            .name("xksd-shard")
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(RING_DEPTH)
            .preempt_timer(PREEMPTION)
            .spawn(run)
            .map(|handle| ShardThread { handle, alive, heartbeat })
            .map_err(|error| error.to_string())
    }

    async fn run(self, started: impl FnOnce(Result<SocketAddr, String>)) {
        let listener = match listener::listen(&self.listen) {
            Ok((address, listener)) => {
                started(Ok(address));
                listener
            }
            Err(error) => {
                return started(Err(format!("cannot listen on {}: {error}", self.listen)));
            }
        };
        let queue = |name| {
            glommio::executor().create_task_queue(Shares::default(), Latency::NotImportant, name)
        };
        let (requests, handshakes) = (queue("requests"), queue("handshakes"));
        let connections = Rc::new(ConnectionTable::default());
        let inbox = Inbox::new(self.index, self.mailbox);
        let audit = Waiter::new(self.audit, self.index);
        let shard = Rc::new(ShardContext {
            pipeline: Pipeline::new(
                self.index,
                self.stores,
                self.blocks,
                inbox.clone(),
                self.metrics.clone(),
                self.log.clone(),
                audit.clone(),
            ),
            tls: self.tls,
            balancers: self.balancers,
            metrics: self.metrics,
            handshakes: HandshakeLog::new(self.log.clone()),
        });
        let delivering = {
            let (inbox, audit) = (inbox.clone(), audit.clone());
            glommio::spawn_local_into(join(inbox.deliver(), audit.deliver()), requests)
        };
        let keeping_time = {
            glommio::spawn_local_into(
                clock::keep_time(shard.clone(), inbox, audit, connections.clone(), self.heartbeat),
                requests,
            )
        };
        let (Ok(delivering), Ok(keeping_time)) = (delivering, keeping_time) else {
            return self.log.event(Level::Error, "a shard could not start its tasks");
        };

        let acceptor = Acceptor {
            shard: shard.clone(),
            connections: connections.clone(),
            connections_max: self.connections_max,
            log: self.log,
            requests,
            handshakes,
        };
        accept_all(&acceptor, listener, &self.listen, &self.stop).await;
        connections.drain();
        while !connections.is_empty() {
            sleep(DEADLINE_TICK).await;
        }
        shard.metrics.connections_open.store(0, Ordering::Relaxed);
        // What is pending when an executor ends would leak.
        delivering.cancel().await;
        keeping_time.cancel().await;
    }
}

/// Admits connections until the shard is to stop, then closes the listener.
async fn accept_all(acceptor: &Acceptor, listener: TcpListener, from: &Listen, stop: &Stop) {
    while let Some(accepted) = listener::accept(&listener, stop).await {
        // Nothing is waited for while connections stand in the backlog: without this those that are
        // open would wait for all of them.
        preempt_if_due();
        glommio::yield_if_needed().await;
        match accepted {
            Ok(stream) => acceptor.admit(stream).await,
            Err(error) => {
                acceptor.failed(&error);
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    if let Listen::Passed(_) = from
        && let Some(stream) = listener::settle(&listener).await
    {
        acceptor.admit(stream).await;
    }
}

/// A running shard.
pub struct ShardThread {
    handle: glommio::ExecutorJoinHandle<()>,
    /// The shard holds the other one.
    alive: Arc<()>,
    heartbeat: Arc<AtomicU64>,
}

impl ShardThread {
    /// Whether the shard has ended, by itself or because it was asked to.
    pub fn is_finished(&self) -> bool {
        Arc::strong_count(&self.alive) == 1
    }

    /// Grows while the shard moves, at least every 20 ms. A shard that panicked leaks what it holds
    /// and never says so: it just stops.
    pub fn heartbeat(&self) -> u64 {
        self.heartbeat.load(Ordering::Relaxed)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the shard panicked, or could not start.
    pub fn join(self) -> Result<(), String> {
        self.handle.join().map_err(|error| error.to_string())
    }
}
