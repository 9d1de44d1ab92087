//! What xksd says of its key managers, over a stretch of time.

use serde::{Deserialize, Serialize};

use super::FULL;
use super::metrics::Metrics;

/// Times of the key manager as xksd tells them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyManager {
    /// Mean wait for a session, microseconds.
    pub queue_mean_us: f64,
    /// Mean time in the key manager, microseconds.
    pub hsm_mean_us: f64,
    /// Sessions in use at once, on average: time in the key manager over time (Little's law).
    pub sessions_busy: f64,
    /// Sessions open; 0 for the key manager inside xksd, which has none.
    pub sessions_open: u64,
    /// Sessions this load needs, so that each is in use for 70 % of the time; more than that where
    /// [`KeyManager::is_full`]. `None` if there are none, and where the load was not carried:
    /// sessions serve what is let through to them, so nobody knows then what it would have taken.
    pub sessions_needed: Option<u64>,
}

/// Share of the time that a session should be in use at most: above it, waits grow out of
/// proportion.
const SESSION_USE: f64 = 0.7;
/// A request may wait for a session this long, microseconds, even where calls are quicker, before
/// the wait counts as the limit.
const SESSION_WAIT_US: f64 = 1_000.0;

impl KeyManager {
    /// From two readings of the metrics, `seconds` apart; `None` where nothing was done between.
    pub(super) fn between(from: &Metrics, to: &Metrics, seconds: f64) -> Option<KeyManager> {
        let grown = |name: &str| to.sum(name, "") - from.sum(name, "");
        let jobs = grown("xksd_hsm_duration_seconds_count");
        if jobs <= 0.0 {
            return None;
        }
        let hsm = grown("xksd_hsm_duration_seconds_sum");
        let busy = hsm / seconds;
        let open = to.sum("xksd_sessions", "state=\"open\"") as u64;
        Some(KeyManager {
            queue_mean_us: grown("xksd_queue_duration_seconds_sum") / jobs * 1e6,
            hsm_mean_us: hsm / jobs * 1e6,
            sessions_busy: busy,
            sessions_open: open,
            sessions_needed: (open > 0).then(|| (busy / SESSION_USE).ceil().max(1.0) as u64),
        })
    }

    /// Whether the sessions are what requests wait for.
    pub fn is_full(&self) -> bool {
        let open = self.sessions_open as f64;
        open > 0.0
            && (self.sessions_busy >= FULL * open
                || self.queue_mean_us > self.hsm_mean_us.max(SESSION_WAIT_US))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_follow_littles_law() {
        let at = |count: u32, sum: f64| {
            Metrics::parse(&format!(
                "xksd_hsm_duration_seconds_count{{operation=\"encrypt\"}} \
                 {count}\nxksd_hsm_duration_seconds_sum{{operation=\"encrypt\"}} {sum}\n\
                 xksd_queue_duration_seconds_sum \
                 0\nxksd_sessions{{key_manager=\"a\",state=\"open\"}} 16\n\
                 xksd_sessions{{key_manager=\"a\",state=\"busy\"}} 3\n"
            ))
        };
        let figures = KeyManager::between(&at(0, 0.0), &at(20_000, 40.0), 10.0).unwrap();
        assert_eq!(
            (figures.hsm_mean_us, figures.sessions_busy, figures.sessions_open),
            (2000.0, 4.0, 16)
        );
        assert_eq!(figures.sessions_needed, Some(6));
        assert_eq!(KeyManager::between(&at(5, 1.0), &at(5, 1.0), 1.0), None);
    }

    #[test]
    fn sessions_are_the_limit_when_they_are_in_use_or_waited_for() {
        let full = |sessions_busy: f64, queue_mean_us: f64, hsm_mean_us: f64| {
            KeyManager {
                sessions_busy,
                queue_mean_us,
                hsm_mean_us,
                sessions_open: 10,
                ..KeyManager::default()
            }
            .is_full()
        };
        assert!(full(9.0, 0.0, 2000.0) && !full(8.9, 0.0, 2000.0));
        assert!(full(5.0, 2001.0, 2000.0) && !full(5.0, 2000.0, 2000.0));
        assert!(!full(5.0, 900.0, 20.0), "a short wait for quick calls");
        assert!(
            !KeyManager { queue_mean_us: 1e6, ..KeyManager::default() }.is_full(),
            "keys in the proxy have no sessions"
        );
    }
}
