//! What each key of a section is: whether a reload takes a change of it over, how its value is
//! said, and whether leaving it out would let somebody in.
//!
//! Each section has a table of its keys. One that stands in none is refused as unknown, so that no
//! key can be read which a reload or the log forgets. `keys` lists the tables.

use std::borrow::Cow;

use super::environment::Environment;
use crate::secret::SecretString;

/// The value of a key, to be compared and said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// The value: said as `key is value`.
    Value(Cow<'a, str>),
    /// Words that say it all, as `disabled`.
    Words(&'static str),
    /// Compared and not shown.
    Secret(&'a SecretString),
    /// Compared; the names are shown.
    Variables(&'a Environment),
    /// There is no such value: the key was left out, or belongs to another kind of section.
    Nothing,
}

impl<'a> Said<'a> {
    /// A value in its own spelling.
    pub(super) fn value(value: impl ToString) -> Self {
        Self::Value(value.to_string().into())
    }

    /// A value as a string of the configuration.
    pub(super) fn text(text: &str) -> Self {
        Self::Value(format!("{text:?}").into())
    }

    fn words(&self, key: &str) -> Option<String> {
        match self {
            Self::Value(value) => Some(format!("{key} is {value}")),
            Self::Words(words) => Some((*words).to_owned()),
            Self::Variables(variables) if !variables.is_empty() => {
                let names: Vec<&str> = variables.keys().map(String::as_str).collect();
                Some(format!("{key} sets {}", names.join(", ")))
            }
            Self::Secret(_) | Self::Variables(_) | Self::Nothing => None,
        }
    }
}

/// How the value of a key in a `T` is said.
type Say<T> = for<'a> fn(&'a T) -> Said<'a>;

/// When a change of a key is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InForce {
    /// A reload takes it over.
    Reload,
    /// From the next start.
    Start,
}

/// One key of a section that is read into a `T`.
pub(super) struct Setting<T: 'static> {
    /// As it stands in the section.
    pub(super) name: &'static str,
    pub(super) in_force: InForce,
    /// `None`: it names its section, or is a section; what is said of those is `difference`'s.
    say: Option<Say<T>>,
    /// Copies what runs over what the file says, where a change waits for a start.
    pub(super) keep: Option<fn(&mut T, &T)>,
    guard: Option<Guard<T>>,
    /// Whether the second protects less than the first.
    weakens: Option<fn(&T, &T) -> bool>,
}

/// What must not be given up by leaving a key out: who cuts a file short, or writes it again and
/// forgets a line, does not mean to let anybody in.
struct Guard<T: 'static> {
    /// Whether the second lets in what the first keeps out, only because the key was left out.
    lets_in: fn(&T, &T) -> bool,
    /// What is in force, and how to give it up.
    why: &'static str,
}

impl<T> Setting<T> {
    /// One that a reload takes over.
    pub(super) const fn reloaded(name: &'static str, say: Say<T>) -> Self {
        Self {
            name,
            in_force: InForce::Reload,
            say: Some(say),
            keep: None,
            guard: None,
            weakens: None,
        }
    }

    /// One that waits for a start; until then `keep` keeps what runs.
    pub(super) const fn kept(name: &'static str, say: Say<T>, keep: fn(&mut T, &T)) -> Self {
        let in_force = InForce::Start;
        Self { name, in_force, say: Some(say), keep: Some(keep), guard: None, weakens: None }
    }

    /// One that names its section, or is a section.
    pub(super) const fn structure(name: &'static str, in_force: InForce) -> Self {
        Self { name, in_force, say: None, keep: None, guard: None, weakens: None }
    }

    /// With the rule that leaving it out must not let anybody in.
    pub(super) const fn guarded(mut self, lets_in: fn(&T, &T) -> bool, why: &'static str) -> Self {
        self.guard = Some(Guard { lets_in, why });
        self
    }

    /// With what is a change for the worse: it is in force, and the log warns of it.
    pub(super) const fn weaker_if(mut self, weakens: fn(&T, &T) -> bool) -> Self {
        self.weakens = Some(weakens);
        self
    }

    /// Whether a change of it is for the worse.
    pub(super) fn is_weaker(&self, running: &T, new: &T) -> bool {
        self.weakens.is_some_and(|weakens| weakens(running, new))
    }

    /// Why this key must not be left out, where that would let somebody in.
    pub(super) fn must_stay(&self, running: &T, new: &T) -> Option<&'static str> {
        let guard = self.guard.as_ref()?;
        (guard.lets_in)(running, new).then_some(guard.why)
    }

    /// Its value in words; `None` where there is nothing to say.
    pub(super) fn words(&self, section: &T) -> Option<String> {
        self.say?(section).words(self.name)
    }

    /// Its change in words; `None` where there is none.
    pub(super) fn change(&self, old: &T, new: &T) -> Option<String> {
        let say = self.say?;
        let (before, now) = (say(old), say(new));
        if before == now {
            return None;
        }
        Some(match (&before, &now) {
            (Said::Value(before), Said::Value(now)) => {
                format!("{} is {now}, was {before}", self.name)
            }
            (_, Said::Secret(_)) => format!("{} changed", self.name),
            (_, Said::Nothing) => format!("{} is left out now", self.name),
            (_, now) => now.words(self.name).unwrap_or_else(|| format!("{} changed", self.name)),
        })
    }
}

/// A value of a section that may be left out.
pub(super) fn said_of<'a, T>(section: &'a Option<T>, say: fn(&'a T) -> Said<'a>) -> Said<'a> {
    section.as_ref().map_or(Said::Nothing, say)
}

/// The names of keys.
pub(super) fn names<T>(keys: &[Setting<T>]) -> Vec<&'static str> {
    keys.iter().map(|key| key.name).collect()
}
