//! What unauthenticated clients can cause at will is logged in a bounded number of lines within an
//! interval, and the rest as a number: without a credential nobody may fill a disk, or hide one
//! thing behind a flood of another.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Each reason has its own lines.
pub struct LogLimiter {
    lines_max: u32,
    interval: Duration,
    windows: BTreeMap<&'static str, Window>,
}

/// What one reason may log within an interval.
struct Window {
    since: Instant,
    logged: u32,
    suppressed: u64,
}

impl LogLimiter {
    /// `lines_max` of each reason within `interval`.
    pub fn new(lines_max: u32, interval: Duration) -> LogLimiter {
        LogLimiter { lines_max, interval, windows: BTreeMap::new() }
    }

    /// Whether another line may be logged; if not, it is counted. Intervals end in
    /// [`LogLimiter::sweep`].
    pub fn take(&mut self, reason: &'static str, now: Instant) -> bool {
        let window =
            self.windows.entry(reason).or_insert(Window { since: now, logged: 0, suppressed: 0 });
        let may = window.logged < self.lines_max;
        if may {
            window.logged += 1;
        } else {
            window.suppressed += 1;
        }
        may
    }

    /// Ends the intervals that are over; where lines were suppressed, `summarize` is called with
    /// the reason and their number.
    pub fn sweep(&mut self, now: Instant, mut summarize: impl FnMut(&'static str, u64)) {
        self.windows.retain(|reason, window| {
            let over = now.saturating_duration_since(window.since) >= self.interval;
            if over && window.suppressed > 0 {
                summarize(reason, window.suppressed);
            }
            !over
        });
    }
}
