//! Gets a shard out of a sleep it should not be in.
//!
//! glommio-ng 0.12.0 goes to sleep with tasks ready to run when its preemption timer fires before the first of them is run: it takes
//! "preempted" for "nothing to do" (glommio/glommio#53, mended after that release). Nothing of the shard's own ends that sleep, for its timers
//! have fired already. It takes no more than a machine with other work to do. So another thread wakes each shard every `NUDGE_INTERVAL`: a wake
//! finds the tasks still queued, and costs some 20 µs of a shard that sleeps. While no shard has anything to do it wakes them every `IDLE_NUDGE_INTERVAL`.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

/// The longest that work waits because of it; a small part of a request's budget.
const NUDGE_INTERVAL: Duration = Duration::from_millis(2);
/// Where the first request after [`QUIET_AFTER`] meets with that sleep, it waits for so long.
const IDLE_NUDGE_INTERVAL: Duration = Duration::from_millis(20);
/// Without bytes from a client: longer than any request may take to answer.
const QUIET_AFTER: Duration = Duration::from_secs(1);

/// One shard's.
#[derive(Default)]
pub struct Nudge {
    /// Never taken out: a wake must not depend on the task having been run since the last one.
    waker: OnceLock<Waker>,
    /// A client has sent something since the last nudge.
    stirred: AtomicBool,
}

impl Nudge {
    /// From now on nudges wake the task that calls this: the shard's first, in a queue without latency requirements, where a wake costs a system
    /// call only while the shard sleeps. To be called before anything else that could sleep.
    pub(super) async fn enlist(&self) {
        poll_fn(|cx| {
            self.waker.get_or_init(|| cx.waker().clone());
            Poll::Ready(())
        })
        .await
    }

    /// The shard has something to do.
    pub(super) fn stir(&self) {
        // The cache line changes hands once a nudge, not once a request.
        if !self.stirred.load(Ordering::Relaxed) {
            self.stirred.store(true, Ordering::Relaxed);
        }
    }

    /// Wakes the shard; whether it had something to do since the last time.
    fn nudge(&self) -> bool {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
        self.stirred.swap(false, Ordering::Relaxed)
    }
}

/// How long to wait until the next nudge.
#[derive(Default)]
struct Pace {
    quiet: Duration,
}

impl Pace {
    fn next(&mut self, stirred: bool) -> Duration {
        let interval = if stirred || self.quiet < QUIET_AFTER { NUDGE_INTERVAL } else { IDLE_NUDGE_INTERVAL };
        self.quiet = if stirred { Duration::ZERO } else { self.quiet + interval };
        interval
    }
}

/// Starts the thread that wakes the shards; it ends when they have.
///
/// # Errors
/// When no thread can be started.
pub fn start(shards: Vec<Weak<Nudge>>) -> std::io::Result<()> {
    let run = move || {
        let (mut pace, mut interval) = (Pace::default(), NUDGE_INTERVAL);
        loop {
            std::thread::sleep(interval);
            let (mut any, mut stirred) = (false, false);
            for nudge in shards.iter().filter_map(Weak::upgrade) {
                any = true;
                stirred |= nudge.nudge();
            }
            if !any {
                break;
            }
            interval = pace.next(stirred);
        }
    };
    std::thread::Builder::new().name("xksd-nudge".into()).spawn(run).map(drop)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::task::Context;

    use super::super::fair::tests::Count;
    use super::*;

    #[test]
    fn every_nudge_wakes_whether_the_task_was_run_or_not() {
        let (nudge, count) = (Nudge::default(), Arc::new(Count::default()));
        nudge.nudge();
        let waker = Waker::from(count.clone());
        assert!(pin!(nudge.enlist()).poll(&mut Context::from_waker(&waker)).is_ready());
        (0..3).for_each(|_| assert!(!nudge.nudge()));
        assert_eq!(count.0.load(Ordering::SeqCst), 3);
        nudge.stir();
        assert!(nudge.nudge() && !nudge.nudge());
    }

    #[test]
    fn nudges_are_rare_once_nothing_has_stirred_for_a_second() {
        let mut pace = Pace::default();
        let until_rare = |pace: &mut Pace| (0..).take_while(|_| pace.next(false) == NUDGE_INTERVAL).count();
        let quiet = (QUIET_AFTER.as_millis() / NUDGE_INTERVAL.as_millis()) as usize;
        assert_eq!(until_rare(&mut pace), quiet);
        assert_eq!(pace.next(false), IDLE_NUDGE_INTERVAL);
        assert_eq!(pace.next(true), NUDGE_INTERVAL);
        assert_eq!(until_rare(&mut pace), quiet);
    }
}
