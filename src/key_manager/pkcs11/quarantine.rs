//! Quarantine: whether what the HSM computes is passed on.
//!
//! An HSM that decrypts to something else and calls it success, or that does not decrypt what it
//! encrypted, is caught where the right answer is known: by an encryption that is verified, or a
//! probe. Nobody could say of a client's decryption that it is wrong. So from then on nothing of
//! that HSM is answered, until it has passed a self-test: many round trips in a row.
//!
//! Whoever has a job meanwhile lets its session do round trips for the one self-test there is, and
//! does the job once that is passed. So the self-test takes as long as its round trips do on all
//! sessions at once, the requests of that time are late and not refused, and it tests what serves:
//! a faulty part of the HSM is not spared by a test in a session that another part works for.
//!
//! There is no way around the self-test for a single decryption, such as to accept what two
//! sessions agree on: an HSM with a damaged key or table in its memory gives the same wrong answer
//! twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::key_manager::Fault;
use crate::limits::{SELF_TEST_INTERVAL, SELF_TEST_ROUND_TRIPS};

/// What an engine holds of its HSM's results, over all sessions.
#[derive(Default)]
pub(crate) struct Quarantine {
    /// The last one.
    self_test: Mutex<Option<Running>>,
    /// Changed with `self_test` locked; looked at for every job, so without.
    epoch: AtomicU64,
    /// What began the last quarantine.
    reason: Mutex<String>,
}

/// Twice the number of quarantines, and one more while one lasts. A result is good if this was the
/// same, and no quarantine, from before its first call to after its last: a self-test may be over
/// sooner than a call that was under way when the HSM was caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

impl Epoch {
    pub(crate) fn is_quarantine(self) -> bool {
        self.0 & 1 == 1
    }
}

#[derive(Clone)]
struct Running {
    number: u64,
    since: Instant,
    /// Round trips that were right.
    right: usize,
    /// Neither passed nor failed.
    open: bool,
}

/// The self-test that a session takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SelfTest(u64);

impl Quarantine {
    fn self_test(&self) -> MutexGuard<'_, Option<Running>> {
        self.self_test.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reason(&self) -> MutexGuard<'_, String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the operator: why a job is not done.
    fn detail(&self) -> String {
        format!(
            "in quarantine until it has passed a self-test, the HSM gave a wrong result: {}",
            self.reason()
        )
    }

    /// The same once more, for who tries out all that can follow.
    #[cfg(test)]
    pub(crate) fn twin(&self) -> Quarantine {
        let running = self.self_test().clone();
        let (epoch, reason) = (self.epoch().0, self.reason().clone());
        Quarantine {
            self_test: Mutex::new(running),
            epoch: AtomicU64::new(epoch),
            reason: Mutex::new(reason),
        }
    }

    /// All of it at one moment, but for numbers that only grow: whether there is a quarantine, and
    /// of the last self-test its age, what was right in it, and whether it is open.
    #[cfg(test)]
    pub(crate) fn seen_at(
        &self,
        now: Instant,
    ) -> (bool, Option<(std::time::Duration, usize, bool)>) {
        let running = self.self_test();
        let shown = running.as_ref().map(|r| (now - r.since, r.right, r.open));
        (self.epoch().is_quarantine(), shown)
    }

    /// What may leave of a job that was begun at `epoch`. Of an HSM that was caught since then that
    /// is nothing that it computed, nor its word that a ciphertext is bad: another session has
    /// caught it while this one was at the job.
    pub(crate) fn release<T>(&self, begun: Epoch, outcome: Result<T, Fault>) -> Result<T, Fault> {
        match outcome {
            Ok(_) | Err(Fault::BadCiphertext) if begun != self.epoch() => Err(self.fault()),
            outcome => outcome,
        }
    }

    /// What jobs are answered that the HSM is not to do.
    pub(crate) fn fault(&self) -> Fault {
        Fault::Device { detail: self.detail() }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// A result was wrong, as `reason` says. A self-test that is under way is failed.
    pub(crate) fn begin(&self, reason: &str) {
        reason.clone_into(&mut self.reason());
        let mut self_test = self.self_test();
        if let Some(running) = &mut *self_test {
            running.open = false;
        }
        let number = self.epoch().0 / 2 + 1;
        self.epoch.store(number * 2 + 1, Ordering::Release);
    }

    /// Takes part in the self-test that is under way, or begins one: [`SELF_TEST_INTERVAL`] after
    /// the last one began, however that ended. An HSM that passes and is caught again would
    /// otherwise be used, and give wrong answers, many times a second.
    pub(crate) fn join_self_test(&self, now: Instant) -> Option<SelfTest> {
        let mut self_test = self.self_test();
        match &*self_test {
            Some(running) if running.open => Some(SelfTest(running.number)),
            Some(running) if now.saturating_duration_since(running.since) < SELF_TEST_INTERVAL => {
                None
            }
            last => {
                let number = last.as_ref().map_or(0, |last| last.number + 1);
                *self_test = Some(Running { number, since: now, right: 0, open: true });
                Some(SelfTest(number))
            }
        }
    }

    /// A round trip of the self-test was right; the last one ends the quarantine.
    pub(crate) fn passed_one(&self, of: SelfTest) {
        let mut self_test = self.self_test();
        if let Some(running) =
            self_test.as_mut().filter(|running| running.number == of.0 && running.open)
        {
            running.right += 1;
            if running.right >= SELF_TEST_ROUND_TRIPS {
                running.open = false;
                self.epoch.store(self.epoch().0 & !1, Ordering::Release);
            }
        }
    }

    /// A round trip of the self-test failed, for whatever reason.
    pub(crate) fn failed(&self, of: SelfTest) {
        if let Some(running) = self.self_test().as_mut().filter(|running| running.number == of.0) {
            running.open = false;
        }
    }

    /// Whether a further round trip could help the self-test.
    pub(crate) fn is_running(&self, of: SelfTest) -> bool {
        self.self_test().as_ref().is_some_and(|running| running.number == of.0 && running.open)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pass(quarantine: &Quarantine, test: SelfTest) {
        for _ in 0..SELF_TEST_ROUND_TRIPS {
            assert!(quarantine.epoch().is_quarantine() && quarantine.is_running(test));
            quarantine.passed_one(test);
        }
        assert!(!quarantine.epoch().is_quarantine() && !quarantine.is_running(test));
    }

    #[test]
    fn one_self_test_at_a_time_which_all_take_part_in() {
        let (quarantine, now) = (Quarantine::default(), Instant::now());
        assert!(!quarantine.epoch().is_quarantine());
        quarantine.begin("a bit");
        let test = quarantine.join_self_test(now).expect("at once");
        // However long it takes.
        assert_eq!(quarantine.join_self_test(now + 2 * SELF_TEST_INTERVAL), Some(test));
        pass(&quarantine, test);
        // What is right beyond it changes nothing.
        quarantine.passed_one(test);
        assert!(!quarantine.epoch().is_quarantine());
    }

    #[test]
    fn the_next_self_test_begins_after_a_while_however_the_last_one_ended() {
        let ends: [fn(&Quarantine, SelfTest); 3] =
            [Quarantine::failed, |quarantine, _| quarantine.begin("a bit"), pass];
        for end in ends {
            let (quarantine, now) = (Quarantine::default(), Instant::now());
            quarantine.begin("a bit");
            let first = quarantine.join_self_test(now).expect("at once");
            end(&quarantine, first);
            quarantine.begin("a bit");
            let soon = now + SELF_TEST_INTERVAL - Duration::from_nanos(1);
            assert_eq!(quarantine.join_self_test(soon), None);
            let next = quarantine.join_self_test(now + SELF_TEST_INTERVAL).expect("the next");
            // What comes in late from the first one counts neither way.
            quarantine.passed_one(first);
            quarantine.failed(first);
            pass(&quarantine, next);
        }
    }

    #[test]
    fn one_failure_ends_a_self_test() {
        let ends: [fn(&Quarantine, SelfTest); 2] =
            [Quarantine::failed, |quarantine, _| quarantine.begin("a bit")];
        for end in ends {
            let (quarantine, now) = (Quarantine::default(), Instant::now());
            quarantine.begin("a bit");
            let test = quarantine.join_self_test(now).expect("at once");
            (1..SELF_TEST_ROUND_TRIPS).for_each(|_| quarantine.passed_one(test));
            end(&quarantine, test);
            quarantine.passed_one(test);
            assert!(quarantine.epoch().is_quarantine() && !quarantine.is_running(test));
        }
    }

    #[test]
    fn what_was_under_way_when_the_hsm_was_caught_is_not_used_after_the_self_test_either() {
        let (quarantine, now) = (Quarantine::default(), Instant::now());
        let before = quarantine.epoch();
        quarantine.begin("a bit");
        pass(&quarantine, quarantine.join_self_test(now).expect("at once"));
        for said in [Ok(()), Err(Fault::BadCiphertext)] {
            let now = quarantine.epoch();
            assert_eq!(quarantine.release(now, said.clone()), said);
            let held_back = quarantine.release(before, said);
            assert!(matches!(held_back, Err(Fault::Device { .. })), "{held_back:?}");
        }
        // What the HSM did not compute is passed on.
        assert_eq!(quarantine.release::<()>(before, Err(Fault::Timeout)), Err(Fault::Timeout));
    }
}
