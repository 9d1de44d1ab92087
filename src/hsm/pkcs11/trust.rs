//! Whether what the HSM computes is passed on.
//!
//! An HSM that decrypts to something else and calls it success is caught where the right answer is known: by an encryption with an integrity
//! value, or a probe. Nobody could tell a client's decryption that it is wrong, nor a ciphertext without integrity value. So from then on
//! nothing of that HSM is answered, until it has done many round trips in a row right.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::limits::TRUST_TRIAL_INTERVAL;

/// Told of jobs that are not done.
pub(super) const DISTRUSTED: &str =
    "integrity check: the HSM has answered something wrong, and is not believed until it has passed a series of checks";

/// What an engine holds of its HSM's results, over all sessions.
#[derive(Default)]
pub(super) struct Trust {
    state: Mutex<State>,
    /// As `state` says; looked at for every job, so without the lock.
    lost: AtomicBool,
}

#[derive(Default)]
struct State {
    lost: bool,
    /// How often it was caught.
    caught: u64,
    /// When the last trial began, since the trust was lost.
    trial: Option<Instant>,
}

/// The right to win the trust back, for who has begun a trial.
pub(super) struct Trial {
    caught: u64,
}

impl Trust {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// A result was wrong.
    pub(super) fn lose(&self) {
        let mut state = self.state();
        if !state.lost {
            state.trial = None;
        }
        (state.lost, state.caught) = (true, state.caught + 1);
        self.lost.store(true, Ordering::Release);
    }

    /// Begins a trial: the first at once, then one each [`TRUST_TRIAL_INTERVAL`].
    pub(super) fn trial(&self, now: Instant) -> Option<Trial> {
        let mut state = self.state();
        if state.trial.is_some_and(|at| now.saturating_duration_since(at) < TRUST_TRIAL_INTERVAL) {
            return None;
        }
        state.trial = Some(now);
        Some(Trial { caught: state.caught })
    }

    /// The trial was passed. It counts unless the HSM was caught meanwhile, by whomever.
    pub(super) fn passed(&self, trial: &Trial) {
        let mut state = self.state();
        if state.caught == trial.caught {
            state.lost = false;
            self.lost.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn trials_are_begun_at_once_and_then_at_intervals() {
        let (trust, now) = (Trust::default(), Instant::now());
        assert!(!trust.is_lost());
        trust.lose();
        assert!(trust.is_lost() && trust.trial(now).is_some());
        trust.lose();
        assert!(trust.trial(now + TRUST_TRIAL_INTERVAL - Duration::from_nanos(1)).is_none());
        let trial = trust.trial(now + TRUST_TRIAL_INTERVAL).expect("the next");
        assert!(trust.is_lost());
        trust.passed(&trial);
        assert!(!trust.is_lost());
        // Caught anew: it need not wait.
        trust.lose();
        assert!(trust.trial(now + TRUST_TRIAL_INTERVAL).is_some());
    }

    #[test]
    fn a_trial_does_not_count_when_the_hsm_was_caught_meanwhile() {
        let (trust, now) = (Trust::default(), Instant::now());
        trust.lose();
        let trial = trust.trial(now).expect("the first");
        trust.lose();
        trust.passed(&trial);
        assert!(trust.is_lost());
    }
}
