//! Whether what the HSM computes is passed on.
//!
//! An HSM that decrypts to something else and calls it success is caught where the right answer is
//! known: by an encryption with an integrity value, or a probe. Nobody could tell a client's
//! decryption that it is wrong, nor a ciphertext without integrity value. So from then on nothing
//! of that HSM is answered, until it has done many round trips in a row right.
//!
//! Whoever has a job meanwhile lets its session do round trips for the one trial there is, and does
//! the job once that is passed. So the trial takes as long as its round trips do on all sessions at
//! once, the requests of that time are late and not refused, and it tries what serves: a part of
//! the HSM that lies is not spared by a trial in a session that another part works for.
//!
//! There is no way around the trial for a single decryption, such as to believe what two sessions
//! agree on: an HSM that spoils a key or a table in its memory gives the same wrong answer twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::limits::{TRUST_ROUND_TRIPS, TRUST_TRIAL_INTERVAL};

/// Told of jobs that are not done.
pub(super) const DISTRUSTED: &str = "integrity check: the HSM has answered something wrong, and is \
    not believed until it has passed a series of checks";

/// What an engine holds of its HSM's results, over all sessions.
#[derive(Default)]
pub(super) struct Trust {
    /// The last trial.
    trial: Mutex<Option<Running>>,
    /// Changed with `trial` locked; looked at for every job, so without.
    standing: AtomicU64,
}

/// How often the HSM was caught, twice, and one more while it is not believed. A result is good if
/// this was the same, and the HSM believed, from before its first call to after its last: a trial
/// may be over sooner than a call that was under way when the HSM was caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing(u64);

impl Standing {
    pub(super) fn is_lost(self) -> bool {
        self.0 & 1 == 1
    }
}

struct Running {
    number: u64,
    since: Instant,
    /// Round trips that were right.
    right: usize,
    /// Neither passed nor failed.
    open: bool,
}

/// Of the trial that a session takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trial(u64);

impl Trust {
    fn trial(&self) -> MutexGuard<'_, Option<Running>> {
        self.trial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn standing(&self) -> Standing {
        Standing(self.standing.load(Ordering::Acquire))
    }

    /// A result was wrong. A trial that is under way is failed.
    pub(super) fn lose(&self) {
        let mut trial = self.trial();
        if let Some(running) = &mut *trial {
            running.open = false;
        }
        let caught = self.standing().0 / 2 + 1;
        self.standing.store(caught * 2 + 1, Ordering::Release);
    }

    /// Takes part in the trial that is under way, or begins one: [`TRUST_TRIAL_INTERVAL`] after the
    /// last one began, however that ended. An HSM that passes and is caught again would otherwise
    /// be believed, and give wrong answers, many times a second.
    pub(super) fn take_part(&self, now: Instant) -> Option<Trial> {
        let mut trial = self.trial();
        match &*trial {
            Some(running) if running.open => Some(Trial(running.number)),
            Some(running)
                if now.saturating_duration_since(running.since) < TRUST_TRIAL_INTERVAL =>
            {
                None
            }
            last => {
                let number = last.as_ref().map_or(0, |last| last.number + 1);
                *trial = Some(Running { number, since: now, right: 0, open: true });
                Some(Trial(number))
            }
        }
    }

    /// A round trip of the trial was right.
    pub(super) fn right(&self, of: Trial) {
        let mut trial = self.trial();
        if let Some(running) =
            trial.as_mut().filter(|running| running.number == of.0 && running.open)
        {
            running.right += 1;
            if running.right >= TRUST_ROUND_TRIPS {
                running.open = false;
                self.standing.store(self.standing().0 & !1, Ordering::Release);
            }
        }
    }

    /// A round trip of the trial failed, for whatever reason.
    pub(super) fn failed(&self, of: Trial) {
        if let Some(running) = self.trial().as_mut().filter(|running| running.number == of.0) {
            running.open = false;
        }
    }

    /// Whether a further round trip could help the trial.
    pub(super) fn is_open(&self, of: Trial) -> bool {
        self.trial().as_ref().is_some_and(|running| running.number == of.0 && running.open)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pass(trust: &Trust, trial: Trial) {
        for _ in 0..TRUST_ROUND_TRIPS {
            assert!(trust.standing().is_lost() && trust.is_open(trial));
            trust.right(trial);
        }
        assert!(!trust.standing().is_lost() && !trust.is_open(trial));
    }

    #[test]
    fn one_trial_at_a_time_which_all_take_part_in() {
        let (trust, now) = (Trust::default(), Instant::now());
        assert!(!trust.standing().is_lost());
        trust.lose();
        let trial = trust.take_part(now).expect("at once");
        // However long it takes.
        assert_eq!(trust.take_part(now + 2 * TRUST_TRIAL_INTERVAL), Some(trial));
        pass(&trust, trial);
        // What is right beyond it changes nothing.
        trust.right(trial);
        assert!(!trust.standing().is_lost());
    }

    #[test]
    fn the_next_trial_begins_after_a_while_however_the_last_one_ended() {
        let ends: [fn(&Trust, Trial); 3] = [Trust::failed, |trust, _| trust.lose(), pass];
        for end in ends {
            let (trust, now) = (Trust::default(), Instant::now());
            trust.lose();
            let first = trust.take_part(now).expect("at once");
            end(&trust, first);
            trust.lose();
            assert_eq!(trust.take_part(now + TRUST_TRIAL_INTERVAL - Duration::from_nanos(1)), None);
            let next = trust.take_part(now + TRUST_TRIAL_INTERVAL).expect("the next");
            // What comes in late from the first one counts neither way.
            trust.right(first);
            trust.failed(first);
            pass(&trust, next);
        }
    }

    #[test]
    fn one_failure_ends_a_trial() {
        let ends: [fn(&Trust, Trial); 2] = [Trust::failed, |trust, _| trust.lose()];
        for end in ends {
            let (trust, now) = (Trust::default(), Instant::now());
            trust.lose();
            let trial = trust.take_part(now).expect("at once");
            (1..TRUST_ROUND_TRIPS).for_each(|_| trust.right(trial));
            end(&trust, trial);
            trust.right(trial);
            assert!(trust.standing().is_lost() && !trust.is_open(trial));
        }
    }

    #[test]
    fn what_was_under_way_when_the_hsm_was_caught_is_not_believed_after_the_trial_either() {
        let (trust, now) = (Trust::default(), Instant::now());
        let before = trust.standing();
        trust.lose();
        pass(&trust, trust.take_part(now).expect("at once"));
        assert_ne!(trust.standing(), before);
        assert_eq!(trust.standing(), trust.standing());
    }
}
