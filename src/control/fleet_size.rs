//! How many instances there are, as AWS KMS is answered: those that are registered, or else those
//! that the configuration speaks of.

use std::sync::atomic::Ordering;

use super::state::State;
use crate::config::{Config, Shared};

/// As far as a configuration says it.
pub fn configured(config: &Config) -> u32 {
    let instances = config.server.instances;
    let count = match config.fleet.as_ref().map(|fleet| &fleet.shared) {
        Some(Shared::Peers(peers)) => peers.len() as u64 + 1,
        Some(Shared::Etcd(_)) | None => instances,
    };
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Another configuration is in force. What etcd has said stays.
pub(super) fn reconfigured(state: &State, config: &Config) {
    let joined = state.fleet.as_ref().and_then(|fleet| fleet.joined());
    if joined.is_none_or(|joined| joined.members.registered() == 0) {
        state.fleet_size.store(configured(config), Ordering::Relaxed);
    }
}

/// So many are registered.
pub(super) fn registered(state: &State, count: usize) {
    if let Ok(count @ 1..) = u32::try_from(count) {
        state.fleet_size.store(count, Ordering::Relaxed);
    }
}
