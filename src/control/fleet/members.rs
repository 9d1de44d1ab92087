//! What is known of the other instances, and of the way to etcd.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fleet::Summary;
use crate::fleet::status::Member;

/// All instances that were heard of, this one among them.
#[derive(Default)]
pub struct Members {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    all: BTreeMap<String, Instance>,
    /// When etcd answered last.
    contact: Option<Instant>,
    connected: bool,
    problem: Option<String>,
    /// By key in etcd.
    refused: BTreeMap<String, String>,
}

#[derive(Default)]
struct Instance {
    summary: Option<Summary>,
    heard: Option<Instant>,
    clock_ms: Option<i64>,
    /// Its lease holds.
    registered: bool,
    /// It has not left by itself.
    is_member: bool,
}

/// The way to etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Whether etcd answers.
    pub connected: bool,
    /// Since it answered last; `None` where it never did.
    pub age: Option<Duration>,
    /// What is wrong.
    pub problem: Option<String>,
}

impl Members {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// etcd has answered.
    pub fn contact(&self) {
        let mut seen = self.lock();
        (seen.contact, seen.connected, seen.problem) = (Some(Instant::now()), true, None);
    }

    /// etcd does not answer. Whether that is new.
    pub fn lost(&self, why: &str) -> bool {
        let mut seen = self.lock();
        let is_new = seen.connected || seen.problem.is_none();
        (seen.connected, seen.problem) = (false, Some(why.to_owned()));
        is_new
    }

    /// The way to etcd.
    pub fn connection(&self) -> Connection {
        let seen = self.lock();
        let age = seen.contact.map(|contact| contact.elapsed());
        Connection { connected: seen.connected, age, problem: seen.problem.clone() }
    }

    /// An instance has said how it is; `now_ms` where that was just now.
    pub fn heard(&self, summary: Summary, now_ms: Option<u64>) {
        let mut seen = self.lock();
        let instance = seen.all.entry(summary.name.clone()).or_default();
        let is_new = instance.summary.as_ref() != Some(&summary);
        if let Some(now_ms) = now_ms.filter(|_| is_new) {
            instance.clock_ms = Some(summary.clock_ms(now_ms));
        }
        if is_new {
            instance.heard = Some(Instant::now());
        }
        (instance.summary, instance.registered) = (Some(summary), true);
    }

    /// Its lease has ended.
    pub fn gone(&self, name: &str) {
        let mut seen = self.lock();
        if let Some(instance) = seen.all.get_mut(name) {
            instance.registered = false;
        }
        seen.tidy();
    }

    /// Whether an instance belongs to the fleet, there or not.
    pub fn set_member(&self, name: &str, is_member: bool) {
        let mut seen = self.lock();
        seen.all.entry(name.to_owned()).or_default().is_member = is_member;
        seen.tidy();
    }

    /// All was read: these are there, and those belong to the fleet. What was refused at another
    /// etcd is not among `keys`.
    pub fn keep(&self, registered: &[String], members: &[String], keys: &BTreeSet<String>) {
        let mut seen = self.lock();
        for (name, instance) in &mut seen.all {
            instance.registered &= registered.contains(name);
            instance.is_member &= members.contains(name);
        }
        // What does not begin with a prefix was not read: a second instance of this name.
        seen.refused.retain(|key, _| !key.starts_with('/') || keys.contains(key));
        seen.tidy();
    }

    /// A value in etcd is refused. Whether that is new.
    pub fn refused(&self, key: &str, why: &str) -> bool {
        self.lock().refused.insert(key.to_owned(), why.to_owned()).is_none()
    }

    /// A value in etcd is right, or gone.
    pub fn accepted(&self, key: &str) {
        self.lock().refused.remove(key);
    }

    /// What is refused, by key, and why.
    pub fn all_refused(&self) -> BTreeMap<String, String> {
        self.lock().refused.clone()
    }

    /// How many are there.
    pub fn registered(&self) -> usize {
        self.lock().all.values().filter(|instance| instance.registered).count()
    }

    /// Calls `see` with what each instance but `own` has said of itself, of those that are there
    /// and were heard within `age_max`.
    pub fn of_others<T>(
        &self,
        own: &str,
        age_max: Duration,
        see: impl FnOnce(&[(&str, &Summary)]) -> T,
    ) -> T {
        let seen = self.lock();
        let is_there = |instance: &Instance| {
            instance.registered && instance.heard.is_some_and(|at| at.elapsed() <= age_max)
        };
        let others = seen.all.iter().filter(|(name, one)| *name != own && is_there(one));
        let said = others.filter_map(|(name, one)| Some((&**name, one.summary.as_ref()?)));
        see(&said.collect::<Vec<_>>())
    }

    /// Which run of its process the instance of this name was heard of last.
    pub fn run_of(&self, name: &str) -> Option<String> {
        Some(self.lock().all.get(name)?.summary.as_ref()?.run.clone())
    }

    /// All, by name.
    pub fn all(&self) -> Vec<Member> {
        let member = |(name, instance): (&String, &Instance)| Member {
            name: name.clone(),
            summary: instance.summary.clone(),
            present: instance.registered,
            age_ms: instance.heard.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(0)),
            clock_ms: instance.clock_ms,
            problem: (!instance.registered).then(|| "it is not there: its lease has ended".into()),
        };
        self.lock().all.iter().map(member).collect()
    }
}

impl Seen {
    /// Who is neither there nor expected is forgotten.
    fn tidy(&mut self) {
        self.all.retain(|_, instance| instance.registered || instance.is_member);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(name: &str, unix_ms: u64) -> Summary {
        Summary { name: name.into(), unix_ms, ..Summary::default() }
    }

    #[test]
    fn who_is_away_is_remembered_until_it_has_left() {
        let members = Members::default();
        members.set_member("a", true);
        members.heard(summary("a", 5_000), Some(4_000));
        members.heard(summary("b", 1), None);
        assert_eq!((members.registered(), members.all()[0].clock_ms), (2, Some(1_000)));
        members.gone("a");
        members.gone("b");
        let all = members.all();
        assert_eq!((all.len(), members.registered()), (1, 0), "b has left");
        assert!(all[0].problem.is_some() && all[0].summary.is_some());
        members.keep(&[], &[], &BTreeSet::new());
        assert_eq!(members.all(), []);
    }

    #[test]
    fn what_another_etcd_had_is_refused_no_more() {
        let members = Members::default();
        for key in ["/f/instances/a", "/f/blocks", "instances/a"] {
            assert!(members.refused(key, "why"));
        }
        members.keep(&[], &[], &BTreeSet::from(["/f/blocks".to_owned()]));
        let refused = members.all_refused();
        assert_eq!(refused.keys().collect::<Vec<_>>(), ["/f/blocks", "instances/a"]);
    }

    #[test]
    fn only_others_that_are_there_and_were_heard_lately_are_seen() {
        let members = Members::default();
        for name in ["a", "b", "c"] {
            members.heard(summary(name, 1), None);
        }
        members.set_member("b", true);
        let seen = |age_max| {
            let names = |others: &[(&str, &Summary)]| -> Vec<String> {
                others.iter().map(|(name, _)| (*name).to_owned()).collect()
            };
            members.of_others("a", age_max, names)
        };
        assert_eq!(seen(Duration::MAX), ["b", "c"]);
        assert_eq!(seen(Duration::ZERO), [""; 0], "too long ago");
        members.gone("b");
        assert_eq!(seen(Duration::MAX), ["c"], "b is expected, and not there");
    }

    #[test]
    fn a_lost_connection_is_new_once() {
        let members = Members::default();
        assert!(members.lost("a") && !members.lost("b"));
        members.contact();
        assert!(members.connection().connected && members.lost("c"));
        assert_eq!(members.connection().problem.as_deref(), Some("c"));
    }
}
