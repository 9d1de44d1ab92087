//! Encryptions under keys of customers that no request asked for: a key manager tries out what a
//! failed call means, whether it still serves, and whether a replica holds the same key. They count
//! for the key's invocation budget.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many there were, by label, until somebody takes the figures.
#[derive(Debug, Default)]
pub struct Unrequested {
    counts: Mutex<HashMap<Arc<str>, u64>>,
}

impl Unrequested {
    /// Counts one. To be called before it is made.
    pub fn count(&self, label: &Arc<str>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(label) {
            Some(count) => *count += 1,
            None => drop(counts.insert(label.clone(), 1)),
        }
    }

    /// What there were since the last time.
    pub fn take(&self) -> HashMap<Arc<str>, u64> {
        std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
