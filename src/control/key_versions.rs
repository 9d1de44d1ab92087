//! Instances that were told of a new version of a key later than others: the configuration is read
//! again when a ciphertext of it comes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::reload;
use super::state::State;
use crate::limits::VERSION_REREAD_INTERVAL;

/// What was seen of newer versions.
#[derive(Default)]
pub(super) struct KeyVersions {
    seen: u64,
    reread_at: Option<Instant>,
}

impl KeyVersions {
    /// To be called often.
    pub(super) fn look(&mut self, state: &Arc<State>) {
        let of_shard = state.metrics.iter().map(|m| m.newer_key_versions.load(Ordering::Relaxed));
        let seen = of_shard.sum();
        let is_due = self.reread_at.is_none_or(|at| at.elapsed() >= VERSION_REREAD_INTERVAL);
        if seen != self.seen && is_due {
            (self.seen, self.reread_at) = (seen, Some(Instant::now()));
            reload::reread_versions(state);
        }
    }
}
