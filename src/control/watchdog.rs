//! Whether the process is to end because only a new one can serve.

use std::time::{Duration, Instant};

use super::state::State;
use crate::limits::BEYOND_HELP_TIME;

/// Ends the process where a restart can only help: no key manager serves, and one of them is stuck
/// in its library.
#[derive(Default)]
pub struct Watchdog {
    unready_since: Option<Instant>,
}

impl Watchdog {
    /// The reason to end, if there is one by now.
    pub fn look(&mut self, state: &State) -> Option<String> {
        let now = Instant::now();
        // Not readiness: one that is being stopped may serve for minutes more.
        if !self.is_due(state.has_key_manager(), now) {
            return None;
        }
        state.managers.load().iter().find_map(|manager| {
            let probe = manager.probe.load();
            let stuck = probe.as_ref()?.info.library.stuck.as_ref()?;
            Some(format!(
                "no key manager has served for {} s, and only a new process can bring {:?} back: \
                 {}",
                BEYOND_HELP_TIME.as_secs(),
                manager.name,
                stuck.why
            ))
        })
    }

    /// How long none has served.
    pub fn unready_time(&self, now: Instant) -> Duration {
        self.unready_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn is_due(&mut self, serves: bool, now: Instant) -> bool {
        if serves {
            self.unready_since = None;
            return false;
        }
        self.unready_since.get_or_insert(now);
        self.unready_time(now) >= BEYOND_HELP_TIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_for_when_nothing_has_served_for_long() {
        let (mut watchdog, now) = (Watchdog::default(), Instant::now());
        let almost = now + BEYOND_HELP_TIME - Duration::from_millis(1);
        assert_eq!(watchdog.unready_time(now), Duration::ZERO);
        assert!(
            !watchdog.is_due(false, now)
                && !watchdog.is_due(false, almost)
                && watchdog.is_due(false, now + BEYOND_HELP_TIME)
        );
        assert_eq!(watchdog.unready_time(almost), almost - now);
        assert!(
            !watchdog.is_due(true, almost)
                && watchdog.unready_time(almost).is_zero()
                && !watchdog.is_due(false, now + BEYOND_HELP_TIME)
        );
    }
}
