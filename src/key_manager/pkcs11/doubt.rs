//! That the HSM was caught at something lately.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::limits::HSM_DOUBT_TIME;

/// When that was last seen, over all sessions.
#[derive(Default)]
pub(super) struct Doubt(Mutex<Option<Instant>>);

impl Doubt {
    pub(super) fn record(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Less than [`HSM_DOUBT_TIME`] ago.
    pub(super) fn is_recent(&self, now: Instant) -> bool {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.is_some_and(|at| now.saturating_duration_since(at) < HSM_DOUBT_TIME)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_doubt_lasts_for_a_while() {
        let (doubt, now) = (Doubt::default(), Instant::now());
        assert!(!doubt.is_recent(now));
        doubt.record(now);
        assert!(doubt.is_recent(now));
        assert!(doubt.is_recent(now + HSM_DOUBT_TIME - Duration::from_nanos(1)));
        assert!(!doubt.is_recent(now + HSM_DOUBT_TIME));
    }
}
