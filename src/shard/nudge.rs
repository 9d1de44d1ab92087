//! Gets a shard out of a sleep it should not be in.
//!
//! glommio-ng 0.12.0 goes to sleep with tasks ready to run when its preemption timer fires before the first of them is run: it takes
//! "preempted" for "nothing to do" (glommio/glommio#53, mended after that release). Nothing of the shard's own ends that sleep, for its timers
//! have fired already. With the 200 µs that requests need it takes no more than a machine with other work to do. So another thread wakes each
//! shard every [`NUDGE_INTERVAL`]: a wake finds the tasks still queued, and costs some microseconds.

use std::future::poll_fn;
use std::sync::{OnceLock, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

/// The longest that work waits because of it; a small part of a request's budget.
pub const NUDGE_INTERVAL: Duration = Duration::from_millis(2);

/// One shard's.
#[derive(Default)]
pub struct Nudge {
    /// Never taken out: a wake must not depend on the task having been run since the last one.
    waker: OnceLock<Waker>,
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

    fn nudge(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

/// Starts the thread that wakes the shards; it ends when they have.
///
/// # Errors
/// When no thread can be started.
pub fn start(shards: Vec<Weak<Nudge>>) -> std::io::Result<()> {
    let run = move || {
        loop {
            std::thread::sleep(NUDGE_INTERVAL);
            let mut any = false;
            for nudge in shards.iter().filter_map(Weak::upgrade) {
                any = true;
                nudge.nudge();
            }
            if !any {
                break;
            }
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
        (0..3).for_each(|_| nudge.nudge());
        assert_eq!(count.0.load(Ordering::SeqCst), 3);
    }
}
