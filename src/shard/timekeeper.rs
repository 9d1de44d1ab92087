//! A shard's clock: answers jobs whose deadline has come, ends connections whose time is over, and keeps the executor from oversleeping.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use glommio::timer::{Timer, sleep};

use super::watch::{SWEEP, Watches};
use crate::limits::DEADLINE_TICK;
use crate::sched::Inbox;
use crate::telemetry::ShardMetrics;

/// An idle shard looks at its clock this often.
const IDLE_TICK: Duration = Duration::from_millis(20);
/// Distance of the alarms that wake an executor which overslept.
const ALARM_DISTANCE: Duration = Duration::from_millis(1);
/// Alarms that are set at each tick of a shard at work: they reach beyond the next two ticks.
const ALARMS: u32 = 12;

/// Runs as long as the shard. `beats` counts its turns.
pub(super) async fn keep_time(inbox: Rc<Inbox>, watches: Rc<Watches>, beats: Arc<AtomicU64>, metrics: Arc<ShardMetrics>) {
    let mut next_sweep = Instant::now() + SWEEP;
    let mut seen = watches.activity();
    loop {
        beats.fetch_add(1, Ordering::Relaxed);
        let at_work = inbox.pending() > 0 || watches.activity() != seen;
        seen = watches.activity();
        let tick = if at_work { DEADLINE_TICK } else { IDLE_TICK };
        let _alarms = at_work.then(alarms);
        sleep(tick).await;
        let now = Instant::now();
        inbox.expire(now);
        // Here and not at accept: connections also end while none comes.
        metrics.connections_open.store(watches.len() as u64, Ordering::Relaxed);
        if now >= next_sweep {
            watches.sweep(now);
            next_sweep = now + SWEEP;
        }
    }
}

/// Timers that wake nobody but the executor.
///
/// glommio-ng 0.12 can go to sleep with tasks in its queues: when its preemption timer (200 µs here) fires before it has run the first of
/// them, it takes "ran nothing" for "nothing to run". Every task then waits for the next event from outside, and when all clients
/// wait for answers there is none: seen as seconds of standstill on a machine with fewer cores than busy threads. The timer of a task
/// that is itself in such a queue has fired already; an alarm still to come ends the sleep.
fn alarms() -> Vec<Timer> {
    let mut alarms: Vec<Timer> = (1..=ALARMS).map(|n| Timer::new(ALARM_DISTANCE * n)).collect();
    for alarm in &mut alarms {
        // A timer is set by its first poll.
        let _ = Pin::new(alarm).poll(&mut Context::from_waker(Waker::noop()));
    }
    alarms
}
