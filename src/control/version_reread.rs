//! Rereading the configuration for a key's new version: an instance that was told of it later than
//! others does so when a ciphertext of it comes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::reload;
use super::state::State;
use crate::limits::VERSION_REREAD_INTERVAL;

/// What was seen of newer versions.
#[derive(Default)]
pub(super) struct VersionReread {
    seen: u64,
    reread_at: Option<Instant>,
}

impl VersionReread {
    /// To be called often.
    pub(super) fn look(&mut self, state: &Arc<State>) {
        let of_shard = state.metrics.iter().map(|m| m.newer_key_versions.load(Ordering::Relaxed));
        let seen = of_shard.sum();
        let is_due = self.reread_at.is_none_or(|at| at.elapsed() >= VERSION_REREAD_INTERVAL);
        // Not now: a reload is at it.
        if seen != self.seen && is_due && reload::reread_versions(state) {
            (self.seen, self.reread_at) = (seen, Some(Instant::now()));
        }
    }
}
