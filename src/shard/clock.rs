//! A shard's clock: answers jobs whose deadline has come, and ends connections whose time is over.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use glommio::timer::sleep;

use super::connection_table::ConnectionTable;
use super::context::ShardContext;
use crate::audit::waiter::Waiter;
use crate::limits::DEADLINE_TICK;
use crate::sched::Inbox;

/// An idle shard looks at its clock this often.
const IDLE_TICK: Duration = Duration::from_millis(20);

/// Runs as long as the shard. `heartbeat` counts its turns.
pub(super) async fn keep_time(
    shard: Rc<ShardContext>,
    inbox: Rc<Inbox>,
    audit: Rc<Waiter>,
    connections: Rc<ConnectionTable>,
    heartbeat: Arc<AtomicU64>,
) {
    loop {
        heartbeat.fetch_add(1, Ordering::Relaxed);
        let waiting = inbox.pending() + audit.pending();
        sleep(if waiting > 0 { DEADLINE_TICK } else { IDLE_TICK }).await;
        let now = Instant::now();
        inbox.expire(now);
        audit.look(now);
        // Here and not at accept: connections also end while none comes.
        shard.metrics.connections_open.store(connections.len() as u64, Ordering::Relaxed);
        connections.sweep(now);
        shard.handshakes.sweep(now);
        shard.pipeline.sweep(now);
    }
}
