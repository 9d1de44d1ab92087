//! When an HSM was last seen to do something wrong.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::limits::HSM_FAULT_REMEMBERED_TIME;

/// When that was last seen, over all sessions.
#[derive(Default)]
pub(super) struct RecentFault(Mutex<Option<Instant>>);

impl RecentFault {
    pub(super) fn record(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Less than [`HSM_FAULT_REMEMBERED_TIME`] ago.
    pub(super) fn is_recent(&self, now: Instant) -> bool {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.is_some_and(|at| now.saturating_duration_since(at) < HSM_FAULT_REMEMBERED_TIME)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_fault_is_remembered_for_a_while() {
        let (fault, now) = (RecentFault::default(), Instant::now());
        assert!(!fault.is_recent(now));
        fault.record(now);
        assert!(fault.is_recent(now));
        assert!(fault.is_recent(now + HSM_FAULT_REMEMBERED_TIME - Duration::from_nanos(1)));
        assert!(!fault.is_recent(now + HSM_FAULT_REMEMBERED_TIME));
    }
}
