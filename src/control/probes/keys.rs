//! What the log says of the configured keys: that one cannot serve from a key manager, and that
//! replicas hold different keys under one label.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::control::challenges::Challenges;
use crate::control::expected::{ExpectedKey, why_it_cannot_serve};
use crate::key_manager::replica_check::Challenge;
use crate::key_manager::{Fault, KeyRef, Outcome, Task};
use crate::keystore::KeyFailures;
use crate::telemetry::Level;

/// For comparing keys with those of replicas, of each second: there may be thousands, and each job
/// takes a lane from the requests.
const AT_ONCE_TIME: Duration = Duration::from_millis(250);
/// All keys are looked up again this often: one that is deleted in a replica that has no requests
/// to serve would be missed on the day it is needed.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// For each key, less often where there are more than a thousand: a look is a call.
const LOOK_INTERVAL_FOR_EACH: Duration = Duration::from_millis(60);

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Serves,
    /// For the operator.
    CannotServe(String),
    /// Nothing, until the next look.
    Unknown,
    /// Nothing now, and of no other key either.
    NotNow,
}

impl Verdict {
    /// By a session that serves requests.
    pub(super) fn of_lane(described: Outcome) -> Verdict {
        match described {
            // That says nothing of the key, and the others would fare no better now.
            Err(Fault::Device { .. } | Fault::Busy | Fault::Timeout) => Verdict::NotNow,
            described => {
                why_it_cannot_serve(described).map_or(Verdict::Serves, Verdict::CannotServe)
            }
        }
    }

    /// By an inventory, where all others went well.
    pub(super) fn of_inventory(described: Outcome) -> Verdict {
        match described {
            Err(Fault::Busy | Fault::Timeout) => Verdict::Unknown,
            described => {
                why_it_cannot_serve(described).map_or(Verdict::Serves, Verdict::CannotServe)
            }
        }
    }
}

/// The keys that are expected of one key manager.
#[derive(Default)]
pub(super) struct Keys {
    expected: Vec<ExpectedKey>,
    /// To be looked up now.
    left: VecDeque<ExpectedKey>,
    looked_at: Option<Instant>,
    /// Those that the log has named, and why they cannot serve.
    cannot: HashMap<String, String>,
    /// Those that were compared with what other key managers hold, and whether all hold the same.
    compared: HashMap<String, bool>,
}

impl Keys {
    /// What is expected from now on. All of it is logged again: who made a reload looks at it.
    pub(super) fn expect(
        &mut self,
        expected: Vec<ExpectedKey>,
        name: &Arc<str>,
        challenges: &Challenges,
    ) -> bool {
        let changed = self.expected != expected;
        if changed {
            challenges.withdraw(name);
            *self = Keys { expected, ..Keys::default() };
        }
        changed
    }

    /// All that are expected.
    pub(super) fn expected(&self) -> &[ExpectedKey] {
        &self.expected
    }

    /// Each key that is expected, once.
    pub(super) fn refs(&self) -> Vec<KeyRef> {
        let keys: BTreeSet<&KeyRef> = self.expected.iter().map(|expected| &expected.key).collect();
        keys.into_iter().cloned().collect()
    }

    /// Whether a look at all keys begins now.
    pub(super) fn begins(&mut self, now: Instant) -> bool {
        let count = u32::try_from(self.expected.len()).unwrap_or(u32::MAX);
        let interval = LOOK_INTERVAL_FOR_EACH.saturating_mul(count).max(LOOK_INTERVAL);
        let begins = self.left.is_empty()
            && self.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= interval);
        if begins {
            self.left.extend(self.expected.iter().cloned());
            self.looked_at = Some(now);
        }
        begins
    }

    /// Whether there is something to be looked at.
    pub(super) fn is_looking(&self) -> bool {
        !self.left.is_empty()
    }

    /// Looks at keys that are left, for a while: what is known of them, and by jobs what replicas
    /// hold. Gives what is new for the log.
    pub(super) fn look(
        &mut self,
        name: &Arc<str>,
        challenges: &Challenges,
        mut verdict: impl FnMut(&KeyRef) -> Verdict,
        mut ask: impl FnMut(&KeyRef, Task) -> Outcome,
    ) -> Vec<(Level, String)> {
        let (start, mut news) = (Instant::now(), Vec::new());
        while start.elapsed() < AT_ONCE_TIME
            && let Some(key) = self.left.pop_front()
        {
            let why = match verdict(&key.key) {
                Verdict::Serves => None,
                Verdict::CannotServe(why) => Some(why),
                Verdict::Unknown => continue,
                Verdict::NotNow => {
                    self.left.push_back(key);
                    break;
                }
            };
            let serves = why.is_none();
            news.extend(self.changed(&key, name, why));
            // What cannot be compared now is tried again at the next look.
            if serves
                && key.replicated
                && !self.compared.contains_key(&key.what)
                && let Ok(different) = compare(&key, name, challenges, |task| ask(&key.key, task))
            {
                self.compared.insert(key.what, different.is_empty());
                news.extend(different.into_iter().map(|reported| (Level::Error, reported)));
            }
        }
        news
    }

    /// For metrics and status; `refused` are further ones that cannot serve, or the same.
    pub(super) fn count<'a>(&self, refused: impl Iterator<Item = &'a str>, failures: &KeyFailures) {
        let refused = refused.filter(|what| !self.cannot.contains_key(*what)).count();
        failures.cannot_serve.store(self.cannot.len() + refused, Ordering::Relaxed);
        failures
            .different
            .store(self.compared.values().filter(|same| !**same).count(), Ordering::Relaxed);
    }

    fn changed(
        &mut self,
        key: &ExpectedKey,
        name: &str,
        why: Option<String>,
    ) -> Option<(Level, String)> {
        let what = &key.what;
        match why {
            None => {
                self.cannot.remove(what)?;
                Some((Level::Info, format!("{what} can serve from key manager {name:?} again")))
            }
            Some(why) => {
                // What comes in its place may be another key.
                self.compared.remove(what);
                let reported = self.cannot.insert(what.clone(), why.clone());
                (reported.as_ref() != Some(&why)).then(|| {
                    (Level::Warn, format!("{what} cannot serve from key manager {name:?}: {why}"))
                })
            }
        }
    }
}

/// Has the key manager encrypt for those that come later, and decrypt what those before it have
/// encrypted.
fn compare(
    key: &ExpectedKey,
    name: &Arc<str>,
    challenges: &Challenges,
    mut ask: impl FnMut(Task) -> Outcome,
) -> Result<Vec<String>, Fault> {
    let mut different = Vec::new();
    for (other, challenge) in challenges.exchange(&key.what, name, Challenge::encrypt(&mut ask)?) {
        if !challenge.is_decrypted(&mut ask)? {
            let what = &key.what;
            different.push(format!(
                "{what}: what key manager {other:?} encrypts, {name:?} cannot decrypt: they hold \
                 different keys under this label"
            ));
        }
    }
    Ok(different)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::key_manager::{Answer, KeyDescription, KeySpec, KeyUsage, Plaintext, ProbeKey};
    use crate::limits::TAG_BYTES;

    fn expected(replicated: bool) -> Vec<ExpectedKey> {
        ["bar", "foo"]
            .map(|id| ExpectedKey { key: KeyRef::first(id), what: format!("key {id}"), replicated })
            .to_vec()
    }

    /// A key manager whose keys all are this byte, which it gives for a tag.
    fn holds(key: u8) -> impl Fn(&KeyRef, Task) -> Outcome {
        move |_, task| match task {
            Task::Describe => Ok(Answer::Described(KeyDescription {
                spec: KeySpec::AES_256,
                usage: [KeyUsage::Encrypt, KeyUsage::Decrypt].into_iter().collect(),
                enabled: true,
            })),
            Task::Encrypt { plaintext, .. } => Ok(Answer::Encrypted {
                iv: vec![0; 12],
                ciphertext: plaintext.to_vec(),
                tag: [key; TAG_BYTES],
                integrity: None,
            }),
            Task::Decrypt { ciphertext, tag, .. } if tag == [key; TAG_BYTES] => {
                Ok(Answer::Decrypted(Plaintext(ciphertext.into())))
            }
            Task::Decrypt { .. } => Err(Fault::BadCiphertext),
            Task::Probe => Ok(Answer::Probed(ProbeKey::Own)),
        }
    }

    fn lacks(missing: &'static str) -> impl Fn(&KeyRef, Task) -> Outcome {
        move |key, task| match task {
            Task::Describe if *key.label == *missing => {
                Err(Fault::KeyNotFound { detail: "none".into() })
            }
            task => holds(0)(key, task),
        }
    }

    /// A look at what is expected, in the words of the log.
    fn look(
        keys: &mut Keys,
        expected: Vec<ExpectedKey>,
        name: &Arc<str>,
        challenges: &Challenges,
        ask: impl Fn(&KeyRef, Task) -> Outcome,
        now: Instant,
    ) -> Vec<String> {
        keys.expect(expected, name, challenges);
        keys.begins(now);
        let verdict = |key: &KeyRef| Verdict::of_lane(ask(key, Task::Describe));
        let news = keys.look(name, challenges, verdict, &ask);
        news.into_iter().map(|(_, reported)| reported).collect()
    }

    #[test]
    fn a_key_that_goes_while_it_serves_is_told_once_and_so_is_its_return() {
        let (mut keys, challenges, name, start) =
            (Keys::default(), Challenges::default(), "a".into(), Instant::now());
        let mut look = |missing, seconds| {
            let now = start + Duration::from_secs(seconds);
            self::look(&mut keys, expected(false), &name, &challenges, lacks(missing), now)
        };
        let gone = ["key foo cannot serve from key manager \"a\": none"];
        assert_eq!(look("", 0), [""; 0]);
        assert_eq!(look("foo", 59), [""; 0], "not looked up yet");
        assert_eq!(look("foo", 60), gone);
        assert_eq!(look("foo", 120), [""; 0]);
        assert_eq!(look("", 180), ["key foo can serve from key manager \"a\" again"]);
        assert_eq!(look("foo", 240), gone);
        // A reload that changed what is expected has it logged again.
        let again = self::look(&mut keys, expected(true), &name, &challenges, lacks("foo"), start);
        assert_eq!(again, gone);
    }

    #[test]
    fn many_keys_are_looked_up_less_often() {
        let (challenges, name, start) = (Challenges::default(), "a".into(), Instant::now());
        for (count, seconds) in [(1000, 60), (2000, 120)] {
            let key = |n: usize| ExpectedKey {
                key: KeyRef::first(n.to_string()),
                what: n.to_string(),
                replicated: false,
            };
            let (mut keys, asked) = (Keys::default(), Cell::new(0));
            let ask = |key: &KeyRef, task| {
                asked.set(asked.get() + 1);
                holds(0)(key, task)
            };
            let mut look_until_done = |at| {
                look(&mut keys, (0..count).map(key).collect(), &name, &challenges, ask, at);
                while keys.is_looking() {
                    let verdict = |key: &KeyRef| Verdict::of_lane(ask(key, Task::Describe));
                    keys.look(&name, &challenges, verdict, ask);
                }
                asked.get()
            };
            let again = start + Duration::from_secs(seconds);
            assert_eq!(
                (
                    look_until_done(start),
                    look_until_done(again - Duration::from_millis(1)),
                    look_until_done(again)
                ),
                (count, count, 2 * count)
            );
        }
    }

    #[test]
    fn a_fault_says_nothing_of_a_key() {
        let (mut keys, challenges, name, now) =
            (Keys::default(), Challenges::default(), "a".into(), Instant::now());
        let asked = Cell::new(0);
        let away = |_: &KeyRef, _| {
            asked.set(asked.get() + 1);
            Err(Fault::Timeout)
        };
        assert_eq!(look(&mut keys, expected(false), &name, &challenges, away, now), [""; 0]);
        assert_eq!(asked.get(), 1, "the others would fare no better");
        // Those that are left, both, and not a minute later.
        let none = |_: &KeyRef, _| Err(Fault::KeyNotFound { detail: "none".into() });
        assert_eq!(look(&mut keys, expected(false), &name, &challenges, none, now).len(), 2);
    }

    #[test]
    fn what_an_inventory_says_of_one_key_is_that_key_s() {
        let fault = Fault::Device { detail: "C_GetAttributeValue: CKR_GENERAL_ERROR".into() };
        assert_eq!(Verdict::of_lane(Err(fault.clone())), Verdict::NotNow);
        let reported = Verdict::CannotServe("C_GetAttributeValue: CKR_GENERAL_ERROR".into());
        assert_eq!(Verdict::of_inventory(Err(fault)), reported);
        assert_eq!(Verdict::of_inventory(Err(Fault::Timeout)), Verdict::Unknown);
        // Nothing is logged of it, and nothing is asked before the next look.
        let (mut keys, challenges, name) = (Keys::default(), Challenges::default(), "a".into());
        keys.expect(expected(true), &name, &challenges);
        assert!(keys.begins(Instant::now()));
        let nobody = |_: &KeyRef, _| panic!("asked");
        assert!(keys.look(&name, &challenges, |_| Verdict::Unknown, nobody).is_empty());
        assert!(!keys.is_looking() && !keys.begins(Instant::now()));
    }

    #[test]
    fn replicas_that_hold_different_keys_are_told_by_whoever_comes_later() {
        let (challenges, now) = (Challenges::default(), Instant::now());
        let look = |keys: &mut Keys, name: &str, key, replicated, seconds| {
            let (name, now) = (name.into(), now + Duration::from_secs(seconds));
            self::look(keys, expected(replicated), &name, &challenges, holds(key), now)
        };
        let [mut a, mut b, mut c] = <[Keys; 3]>::default();
        assert_eq!(look(&mut a, "a", 1, true, 0), [""; 0]);
        assert_eq!(look(&mut b, "b", 1, true, 0), [""; 0]);
        let different = |id: &str, other: &str| {
            format!(
                "key {id}: what key manager {other:?} encrypts, \"c\" cannot decrypt: they hold \
                 different keys under this label"
            )
        };
        let all = [
            different("bar", "a"),
            different("bar", "b"),
            different("foo", "a"),
            different("foo", "b"),
        ];
        assert_eq!(look(&mut c, "c", 2, true, 0), all);
        assert_eq!(look(&mut c, "c", 2, true, 60), [""; 0], "logged once");
        let count = |keys: &Keys| {
            let failures = KeyFailures::default();
            keys.count(std::iter::empty(), &failures);
            (failures.cannot_serve.into_inner(), failures.different.into_inner())
        };
        assert_eq!((count(&a), count(&c)), ((0, 0), (0, 2)));
        // One that is no replica any more leaves nothing behind.
        assert_eq!(look(&mut a, "a", 1, false, 60), [""; 0]);
        assert_eq!(look(&mut c, "c", 2, false, 60), [""; 0]);
        assert_eq!(look(&mut c, "c", 2, true, 60), [different("bar", "b"), different("foo", "b")]);
    }

    #[test]
    fn a_comparison_that_failed_is_made_at_the_next_look_and_anew_for_a_key_that_is_back() {
        let (challenges, now) = (Challenges::default(), Instant::now());
        let (a, b) = ("a".into(), "b".into());
        let first = &mut Keys::default();
        assert_eq!(look(first, expected(true), &a, &challenges, holds(1), now), [""; 0]);
        let mut keys = Keys::default();
        let busy = |key: &KeyRef, task| {
            if let Task::Describe = task { holds(2)(key, task) } else { Err(Fault::Busy) }
        };
        assert_eq!(look(&mut keys, expected(true), &b, &challenges, busy, now), [""; 0]);
        let mut look = |ask: &dyn Fn(&KeyRef, Task) -> Outcome, seconds| {
            let now = now + Duration::from_secs(seconds);
            self::look(&mut keys, expected(true), &b, &challenges, ask, now).len()
        };
        assert_eq!(look(&holds(2), 60), 2);
        assert_eq!((look(&lacks("foo"), 120), look(&holds(1), 180)), (1, 1));
        assert_eq!((look(&lacks("foo"), 240), look(&holds(2), 300)), (1, 2), "back, and another");
    }
}
