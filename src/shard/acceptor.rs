//! Which connections a shard takes, and what runs them.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use glommio::TaskQueueHandle;
use glommio::net::TcpStream;

use super::connection_table::ConnectionTable;
use super::context::ShardContext;
use super::handshake::Handshake;
use super::origin::Origin;
use super::yielding::in_turns;
use crate::limits::EVICTED_CONNECTIONS_MAX;
use crate::telemetry::{Level, Log};

/// Takes connections within the shard's bounds.
pub(super) struct Acceptor {
    pub(super) shard: Rc<ShardContext>,
    pub(super) connections: Rc<ConnectionTable>,
    pub(super) connections_max: usize,
    pub(super) log: Log,
    pub(super) requests: TaskQueueHandle,
    /// Of their own, so that thousands at once, some 0.2 ms each, take every other turn and not all
    /// of them from the requests of others.
    pub(super) handshakes: TaskQueueHandle,
}

/// Runs what belongs to one connection.
fn spawn(task: impl Future<Output = ()> + 'static, queue: TaskQueueHandle, log: &Log) {
    let own_log = log.clone();
    // A panic would end the shard, and with it every other connection.
    let guarded = AssertUnwindSafe(task).catch_unwind().map(move |ended| {
        if ended.is_err() {
            own_log.event(
                Level::Error,
                "a connection ended in a panic: this is a defect of xksd, please report it",
            );
        }
    });
    match glommio::spawn_local_into(in_turns(guarded), queue) {
        Ok(task) => drop(task.detach()),
        Err(error) => log.event(Level::Error, format!("a connection could not be served: {error}")),
    }
}

impl Acceptor {
    /// Serves a connection, in another's place where the shard is full, or closes it.
    pub(super) async fn admit(&self, stream: TcpStream) {
        let (shard, connections) = (&self.shard, &self.connections);
        // A client that has reset its connection meanwhile has no address any more. That is its own
        // affair: to pause for it would keep everybody behind it waiting.
        let Ok(client) = stream.peer_addr() else { return };
        let most = self.connections_max + EVICTED_CONNECTIONS_MAX;
        if connections.len() >= most {
            // Those that were evicted have not had their turn to end.
            glommio::executor().yield_task_queue_now().await;
        }
        if connections.len() >= self.connections_max {
            if shard.metrics.connections_refused.fetch_add(1, Ordering::Relaxed) == 0 {
                let message = "a shard has as many connections as it may: it closes those that \
                            have not authenticated for newer ones, and where there are none, the \
                            newer ones (further ones are counted in \
                            xksd_connections_refused_total)";
                self.log.event(Level::Error, message);
            }
            // Who holds connections without ever signing a request keeps nobody out. If all have
            // authenticated, the newcomer is closed at once: its client may try another instance,
            // and in the backlog it would wait out KMS's 250 ms.
            if connections.len() >= most || !connections.evict() {
                return;
            }
        }
        shard.metrics.connections_accepted.fetch_add(1, Ordering::Relaxed);
        let (requests, handshakes, log) = (self.requests, self.handshakes, self.log.clone());
        let handshake = Handshake::new(shard.clone(), Origin::of_peer(client), connections.add());
        let serving = async move {
            let Some(greeted) = handshake.greet(stream).await else { return };
            let serve_log = log.clone();
            let answering = async move {
                if let Some(connection) = greeted.answer().await {
                    spawn(connection.serve(), requests, &serve_log);
                }
            };
            spawn(answering, handshakes, &log);
        };
        spawn(serving, glommio::executor().current_task_queue(), &self.log);
    }

    /// accept(2) failed.
    pub(super) fn failed(&self, error: &str) {
        if self.shard.metrics.accept_errors.fetch_add(1, Ordering::Relaxed) == 0 {
            let message = format!(
                "accept fails: {error} (further failures are counted in xksd_accept_errors_total)"
            );
            self.log.event(Level::Error, message);
        }
    }
}
