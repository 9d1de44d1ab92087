//! Policies in Cedar: who may do what with which key of a key store.
//!
//! [`load`] reads and validates them, [`Policies::decide`] answers a [`Question`], [`Decisions`]
//! keeps a shard's answers. Pure: texts, requests and the time are passed in.

mod arn;
mod cache;
mod context;
mod decide;
mod entities;
mod explain;
mod load;
mod nesting;
mod principal;
mod problem;
mod schema;
#[cfg(test)]
mod tests;
mod time;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cedar_policy::{Entity, EntityUid, PolicySet};

pub use cache::Decisions;
pub use context::{Question, Unreadable};
pub use decide::{Reason, Verdict};
pub use explain::{Considered, Explanation, Outcome};
pub use load::{Loaded, Sources, load};
pub use principal::{Kind, Principal};
pub use problem::Problem;
pub use schema::{Action, SCHEMA};

/// A file's text, and its name for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As the operator named it.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// The policies of a key store: valid, and sorted by what they can apply to.
#[derive(Debug)]
pub struct Policies {
    /// Path prefix.
    key_store: Arc<str>,
    /// By external key id.
    keys: HashMap<String, KeyPolicies>,
    /// Groups of principals, by their ARN.
    principals: HashMap<String, HashSet<EntityUid>>,
    /// All of them, in the order of the files.
    listed: Vec<Listed>,
}

/// A policy by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// `@id`.
    pub id: String,
    /// Whether it is a `forbid`.
    pub forbids: bool,
}

/// What can apply to one key.
#[derive(Debug)]
struct KeyPolicies {
    /// The key in its key store and groups.
    entity: Entity,
    /// By action.
    slices: [Arc<Slice>; Action::ALL.len()],
}

impl KeyPolicies {
    fn slice(&self, action: Action) -> &Slice {
        &self.slices[action as usize]
    }
}

/// Policies that can apply to the same keys and actions.
#[derive(Debug)]
struct Slice {
    policies: PolicySet,
    /// Whether one of them reads the time.
    by_time: bool,
}

impl Policies {
    /// All of them, in the order of the files.
    pub fn list(&self) -> &[Listed] {
        &self.listed
    }

    /// Whether the answer may be another one in the next second.
    fn is_by_time(&self, question: &Question<'_>) -> bool {
        self.keys.get(question.key).is_some_and(|key| key.slice(question.action).by_time)
    }
}

/// Which configuration policies are of: decisions under another are forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revision(u64);

impl Revision {
    /// One that no other configuration of this process has.
    pub fn next() -> Revision {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Revision(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}
