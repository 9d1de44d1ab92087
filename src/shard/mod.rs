//! A shard: one pinned thread, one executor, its own listener on the shared port. Shards share
//! nothing on the way of a request but what is immutable (key stores, TLS configuration) and the
//! key managers' queues.

mod clock;
mod connection;
mod connection_table;
mod handshakes;
mod listener;
mod yielding;

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use futures_util::task::AtomicWaker;
use glommio::net::TcpStream;
use glommio::timer::sleep;
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};

use self::connection_table::Watches;
use self::handshakes::HandshakeLog;
use crate::keystore::KeyStores;
use crate::limits::{DEADLINE_TICK, DISPLACED_CONNECTIONS_MAX, IO_MEMORY_BYTES, RING_DEPTH};
use crate::pipeline::Pipeline;
use crate::sched::{Inbox, Mailbox};
use crate::telemetry::{Level, Log, ShardMetrics};
use crate::tls::{self, HandshakeFailure};

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
    /// Address of the listener.
    pub listen: SocketAddr,
    /// Connections it may have open at once.
    pub connections_max: usize,
    /// What is served.
    pub stores: Arc<ArcSwap<KeyStores>>,
    /// TLS configuration for new connections.
    pub tls: Arc<ArcSwap<tls::Server>>,
    /// Where lanes put outcomes for this shard.
    pub mailbox: Arc<Mailbox>,
    /// Figures.
    pub metrics: Arc<ShardMetrics>,
    /// Log.
    pub log: Log,
    /// Tells the shard to drain.
    pub stop: Arc<Stop>,
    /// See [`ShardThread::beats`]; a new counter.
    pub beats: Arc<AtomicU64>,
}

/// Tells a shard, from another thread, to take no more connections and end when the open ones are
/// done.
#[derive(Default)]
pub struct Stop {
    requested: AtomicBool,
    waker: AtomicWaker,
}

impl Stop {
    /// Asks for it.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }
}

/// What the connections of a shard share.
struct Shard {
    pipeline: Pipeline,
    tls: Arc<ArcSwap<tls::Server>>,
    metrics: Arc<ShardMetrics>,
    handshakes: HandshakeLog,
}

impl Shard {
    fn handshake_failed(&self, client: SocketAddr, failure: &HandshakeFailure) {
        self.metrics.handshake_failed(failure.reason());
        self.handshakes.tell(client, failure, Instant::now());
    }
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
        let beats = self.beats.clone();
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
            .map(|handle| ShardThread { handle, alive, beats })
            .map_err(|error| error.to_string())
    }

    async fn run(self, started: impl FnOnce(Result<SocketAddr, String>)) {
        let listener = match listener::listen(self.listen) {
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
        let watches = Rc::new(Watches::default());
        let inbox = Inbox::new(self.index, self.mailbox);
        let shard = Rc::new(Shard {
            pipeline: Pipeline::new(
                self.index,
                self.stores,
                inbox.clone(),
                self.metrics.clone(),
                self.log.clone(),
            ),
            tls: self.tls,
            metrics: self.metrics,
            handshakes: HandshakeLog::new(self.log.clone()),
        });
        let delivering = {
            let inbox = inbox.clone();
            glommio::spawn_local_into(async move { inbox.deliver().await }, requests)
        };
        let keeping_time = {
            glommio::spawn_local_into(
                clock::keep_time(shard.clone(), inbox, watches.clone(), self.beats),
                requests,
            )
        };
        let (Ok(delivering), Ok(keeping_time)) = (delivering, keeping_time) else {
            return self.log.event(Level::Error, "a shard could not start its tasks");
        };

        let door = Door {
            shard: shard.clone(),
            watches: watches.clone(),
            connections_max: self.connections_max,
            log: self.log,
            requests,
            handshakes,
        };
        while let Some(accepted) = listener::accept(&listener, &self.stop).await {
            // Nothing is waited for while connections stand in the backlog: without this those that
            // are open would wait for all of them.
            glommio::yield_if_needed().await;
            match accepted {
                Ok(stream) => door.admit(stream).await,
                Err(error) => {
                    door.failed(&error);
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
        drop(listener);
        watches.drain();
        while !watches.is_empty() {
            sleep(DEADLINE_TICK).await;
        }
        shard.metrics.connections_open.store(0, Ordering::Relaxed);
        // What is pending when an executor ends would leak.
        delivering.cancel().await;
        keeping_time.cancel().await;
    }
}

/// Who comes in.
struct Door {
    shard: Rc<Shard>,
    watches: Rc<Watches>,
    connections_max: usize,
    log: Log,
    requests: TaskQueueHandle,
    /// Of their own, so that thousands at once, some 0.2 ms each, take every other turn and not all
    /// of them from the requests of others.
    handshakes: TaskQueueHandle,
}

/// Runs what belongs to one connection.
fn spawn(task: impl Future<Output = ()> + 'static, queue: TaskQueueHandle, log: &Log) {
    let told = log.clone();
    // A panic would end the shard, and with it every other connection.
    let guarded = AssertUnwindSafe(task).catch_unwind().map(move |ended| {
        if ended.is_err() {
            told.event(
                Level::Error,
                "a connection ended in a panic: this is a defect of xksd, please report it",
            );
        }
    });
    match glommio::spawn_local_into(guarded, queue) {
        Ok(task) => drop(task.detach()),
        Err(error) => log.event(Level::Error, format!("a connection could not be served: {error}")),
    }
}

impl Door {
    /// Serves a connection, in another's place where the shard is full, or closes it.
    async fn admit(&self, stream: TcpStream) {
        let (shard, watches) = (&self.shard, &self.watches);
        // A client that has reset its connection meanwhile has no address any more. That is its own
        // affair: to pause for it would keep everybody behind it waiting.
        let Ok(client) = stream.peer_addr() else { return };
        let most = self.connections_max + DISPLACED_CONNECTIONS_MAX;
        if watches.len() >= most {
            // Those that were displaced have not had their turn to end.
            glommio::executor().yield_task_queue_now().await;
        }
        if watches.len() >= self.connections_max {
            if shard.metrics.connections_refused.fetch_add(1, Ordering::Relaxed) == 0 {
                let told = "a shard has as many connections as it may: strangers' are closed for \
                    newer ones, and where there are none, the \
                            newer (further ones are counted in xksd_connections_refused_total)";
                self.log.event(Level::Error, told);
            }
            // Who holds connections without ever signing a request keeps nobody out. If all are
            // known, the newcomer is closed at once: its client may try another instance, where in
            // the backlog it would wait out KMS's 250 ms.
            if watches.len() >= most || !watches.displace() {
                return;
            }
        }
        shard.metrics.connections_accepted.fetch_add(1, Ordering::Relaxed);
        let (requests, log) = (self.requests, self.log.clone());
        let accepting = connection::accept(shard.clone(), stream, client, watches.add());
        let serving = async move {
            if let Some(connection) = accepting.await {
                spawn(connection.serve(), requests, &log);
            }
        };
        spawn(serving, self.handshakes, &self.log);
    }

    fn failed(&self, error: &str) {
        if self.shard.metrics.accept_errors.fetch_add(1, Ordering::Relaxed) == 0 {
            let told = format!(
                "accept fails: {error} (further failures are counted in xksd_accept_errors_total)"
            );
            self.log.event(Level::Error, told);
        }
    }
}

/// A running shard.
pub struct ShardThread {
    handle: glommio::ExecutorJoinHandle<()>,
    /// The shard holds the other one.
    alive: Arc<()>,
    beats: Arc<AtomicU64>,
}

impl ShardThread {
    /// Whether the shard has ended, by itself or because it was asked to.
    pub fn is_finished(&self) -> bool {
        Arc::strong_count(&self.alive) == 1
    }

    /// Grows while the shard moves, at least every 20 ms. A shard that panicked leaks what it holds
    /// and never says so: it just stops.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the shard panicked, or could not start.
    pub fn join(self) -> Result<(), String> {
        self.handle.join().map_err(|error| error.to_string())
    }
}
