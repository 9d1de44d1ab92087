//! A pool's condition, to be read on every request without its lock. Written by whoever held the
//! lock, before it lets go.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::model::{Counts, SHORT_OUTAGE, Scheduler};

/// A pool's condition at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// When a job submitted now may be expected to be done; none while no lane serves.
    pub expected_time: Option<Duration>,
    /// No lane serves, and has not for so long that jobs are refused.
    pub is_unavailable: bool,
    /// With a session, whether idle or at work.
    pub lanes_open: usize,
    /// In a call for suspiciously long, or abandoned with a call that has not returned.
    pub lanes_hung: usize,
}

#[cfg(test)]
impl Snapshot {
    /// For a scheduler without a pool, in a model of one.
    pub(crate) fn of<J>(scheduler: &Scheduler<J>, start: Instant, now: Instant) -> Snapshot {
        let cell = SnapshotCell::new(start);
        cell.set(scheduler);
        cell.get(now)
    }
}

/// Each field is exact by itself; they need not be of the same moment. No thread waits for what
/// stands here, so that the order of the stores means nothing.
pub(super) struct SnapshotCell {
    start: Instant,
    /// Nanoseconds; `u64::MAX` for none.
    expected: AtomicU64,
    /// Nanoseconds after `start`; `u64::MAX` while a lane serves.
    outage: AtomicU64,
    open: AtomicU32,
    hung: AtomicU32,
}

impl SnapshotCell {
    pub(super) fn new(start: Instant) -> SnapshotCell {
        let (open, hung) = (AtomicU32::new(0), AtomicU32::new(0));
        SnapshotCell {
            start,
            expected: AtomicU64::new(u64::MAX),
            outage: AtomicU64::new(0),
            open,
            hung,
        }
    }

    pub(super) fn set<J>(&self, scheduler: &Scheduler<J>) {
        let Counts { idle, awake, busy, stalled, abandoned, .. } = scheduler.counts();
        self.expected
            .store(scheduler.expected_time().map_or(u64::MAX, nanoseconds), Ordering::Relaxed);
        let outage = scheduler
            .outage()
            .map_or(u64::MAX, |since| nanoseconds(since.saturating_duration_since(self.start)));
        self.outage.store(outage, Ordering::Relaxed);
        self.open.store((idle + awake + busy + stalled) as u32, Ordering::Relaxed);
        self.hung.store((stalled + abandoned) as u32, Ordering::Relaxed);
    }

    pub(super) fn get(&self, now: Instant) -> Snapshot {
        let some =
            |nanoseconds| (nanoseconds != u64::MAX).then(|| Duration::from_nanos(nanoseconds));
        let outage = some(self.outage.load(Ordering::Relaxed));
        Snapshot {
            expected_time: some(self.expected.load(Ordering::Relaxed)),
            is_unavailable: outage.is_some_and(|since| {
                now.saturating_duration_since(self.start) >= since + SHORT_OUTAGE
            }),
            lanes_open: self.open.load(Ordering::Relaxed) as usize,
            lanes_hung: self.hung.load(Ordering::Relaxed) as usize,
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX - 1)
}
