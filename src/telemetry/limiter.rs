//! What unauthenticated clients can cause at will is logged in a bounded number of lines within an
//! interval, and the rest as a number: without a credential nobody may fill a disk, or hide one
//! thing behind a flood of another.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Of each reason its own share of lines.
pub struct Shares {
    lines_max: u32,
    interval: Duration,
    of: BTreeMap<&'static str, Share>,
}

/// What one reason may log within an interval.
struct Share {
    since: Instant,
    told: u32,
    left_out: u64,
}

impl Shares {
    /// `lines_max` of each reason within `interval`.
    pub fn new(lines_max: u32, interval: Duration) -> Shares {
        Shares { lines_max, interval, of: BTreeMap::new() }
    }

    /// Whether another line may be logged; if not, it is counted. Intervals end in
    /// [`Shares::sweep`].
    pub fn take(&mut self, reason: &'static str, now: Instant) -> bool {
        let share = self.of.entry(reason).or_insert(Share { since: now, told: 0, left_out: 0 });
        let may = share.told < self.lines_max;
        if may {
            share.told += 1;
        } else {
            share.left_out += 1;
        }
        may
    }

    /// Ends the intervals that are over; where lines were left out, `tell` hears of which reason
    /// and how many.
    pub fn sweep(&mut self, now: Instant, mut tell: impl FnMut(&'static str, u64)) {
        self.of.retain(|reason, share| {
            let over = now.saturating_duration_since(share.since) >= self.interval;
            if over && share.left_out > 0 {
                tell(reason, share.left_out);
            }
            !over
        });
    }
}
