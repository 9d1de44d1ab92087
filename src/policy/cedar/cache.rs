//! Decisions of one shard, kept for requests that ask the same again.
//!
//! A decision is found by everything that it was made from but the time: there is none that could
//! be taken for another's. One that depends on the time is good for its second. A change of the
//! configuration forgets all.

use std::collections::HashMap;
use std::sync::Arc;

use super::context::Question;
use super::decide::Verdict;
use super::{Policies, Revision};
use crate::limits::{DECISIONS_BYTES_MAX, DECISIONS_MAX};

/// A decision and how long it is good.
#[derive(Clone, Debug)]
struct Kept {
    verdict: Arc<Verdict>,
    /// The second in which it was made, where it depends on the time.
    second: Option<i64>,
}

/// The decisions of one generation.
#[derive(Debug, Default)]
struct Generation {
    decisions: HashMap<Box<[u8]>, Kept>,
    bytes: usize,
}

/// The decisions of a shard: two generations, of which the older one is forgotten when the younger
/// is full.
#[derive(Debug, Default)]
pub struct Decisions {
    revision: Revision,
    young: Generation,
    old: Generation,
    /// Where the key of a question is written.
    key: Vec<u8>,
}

impl Decisions {
    /// The decision of `policies`, which are of `revision`. Allocates nothing where it is known.
    pub fn decide(
        &mut self,
        revision: Revision,
        policies: &Policies,
        question: &Question<'_>,
    ) -> Arc<Verdict> {
        if self.revision != revision {
            *self = Decisions { revision, ..Decisions::default() };
        }
        write_key(&mut self.key, policies, question);
        let good = |kept: &&Kept| kept.second.is_none_or(|second| second == question.time);
        if let Some(kept) = self.young.decisions.get(&*self.key).filter(good) {
            return kept.verdict.clone();
        }
        let kept = match self.old.take(&self.key).filter(|kept| good(&kept)) {
            Some(kept) => kept,
            None => {
                let verdict = Arc::new(policies.decide(question));
                let second = policies.is_by_time(question).then_some(question.time);
                Kept { verdict, second }
            }
        };
        let verdict = kept.verdict.clone();
        self.keep(kept);
        verdict
    }

    fn keep(&mut self, kept: Kept) {
        if self.young.decisions.len() >= DECISIONS_MAX / 2
            || self.young.bytes + self.key.len() > DECISIONS_BYTES_MAX / 2
        {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(&self.key, kept);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.decisions.len() + self.old.decisions.len()
    }
}

impl Generation {
    fn insert(&mut self, key: &[u8], kept: Kept) {
        match self.decisions.get_mut(key) {
            // Of another second.
            Some(place) => *place = kept,
            None => {
                self.bytes += key.len();
                self.decisions.insert(key.into(), kept);
            }
        }
    }

    fn take(&mut self, key: &[u8]) -> Option<Kept> {
        let kept = self.decisions.remove(key)?;
        self.bytes -= key.len();
        Some(kept)
    }
}

/// Everything but the time, each part with its length before it.
fn write_key(out: &mut Vec<u8>, policies: &Policies, question: &Question<'_>) {
    let Question { action, key, principal, kms_operation, credential, region, .. } = *question;
    let required = [&*policies.key_store, key, principal, kms_operation, credential, region];
    out.clear();
    out.push(action as u8);
    let optional = question.optional();
    let optional = optional.iter().map(|(_, value)| *value);
    for part in required.into_iter().map(Some).chain(optional) {
        // No text is as long as this.
        let length = part.map_or(u32::MAX, |text| text.len() as u32);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(part.unwrap_or_default().as_bytes());
    }
}
