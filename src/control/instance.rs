//! What this instance says of itself, to its fleet and in `/status`.

use std::time::{Instant, SystemTime};

use super::fleet::unix_ms;
use super::state::State;
use crate::config::Config;
use crate::fleet::{Summary, key_managers};
use crate::key_manager::{Health, ManagerInfo};
use crate::keystore::KeyManager;
use crate::limits::{EKM_FLEET_MAX, FLEET_KEY_MANAGERS_MAX, FLEET_KEY_STORES_MAX};

/// As it is now.
pub fn summary(state: &State) -> Summary {
    let config = state.config.load();
    let fleet = state.fleet.get();
    let documents = fleet.and_then(|fleet| fleet.joined()).map(|joined| &joined.documents);
    let digests = state.digests.load();
    let most_used = state.budgets.most_used(&config);
    let started = SystemTime::now().checked_sub(state.started.elapsed());
    let started = started.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    Summary {
        name: fleet.map_or_else(String::new, |fleet| fleet.name.clone()),
        run: fleet.map_or_else(String::new, |fleet| fleet.run.clone()),
        version: format!("{} ({})", env!("CARGO_PKG_VERSION"), env!("BUILT_FROM")),
        unix_ms: unix_ms(),
        started: started.map_or(0, |since| since.as_secs().cast_signed()),
        ready: state.is_ready(),
        config_sha256: config.sha256.clone(),
        key_stores_sha256: digests.key_stores_sha256.clone(),
        reload_refused: state.last_reload.load().refused.clone(),
        key_versions: digests.key_versions.clone(),
        key_versions_sha256: digests.key_versions_sha256.clone(),
        budget_percent: most_used.first().map_or(0.0, |key| key.percent()),
        budget_shares: config.server.instances,
        certificate_not_after: certificate_end(state),
        blocks: state.blocks.in_force().len(),
        documents: documents.map(|documents| documents.applied()).unwrap_or_default(),
        not_applied: documents.map(|documents| documents.not_applied()).unwrap_or_default(),
        key_managers: key_managers(state, &config),
    }
}

/// The key managers of the first key stores, in the configuration's order.
fn key_managers(state: &State, config: &Config) -> Vec<key_managers::KeyManager> {
    let (now, served) = (Instant::now(), state.stores.load());
    let mut all: Vec<key_managers::KeyManager> = Vec::new();
    let stores = config.keystores.iter().filter_map(|s| served.by_prefix.get(&s.path_prefix));
    let uses = stores.flat_map(|store| {
        store.managers.iter().take(EKM_FLEET_MAX).map(|manager| (&store.prefix, manager))
    });
    for (key_store, manager) in uses.take(FLEET_KEY_STORES_MAX) {
        let place = all.iter().position(|one| one.name == *manager.name);
        if place.is_none() && all.len() == FLEET_KEY_MANAGERS_MAX {
            continue;
        }
        let at = place.unwrap_or_else(|| {
            all.push(key_manager(manager, now));
            all.len() - 1
        });
        all[at].key_stores.push(key_store.to_string());
    }
    all
}

fn key_manager(manager: &KeyManager, now: Instant) -> key_managers::KeyManager {
    let probe = manager.probe.load();
    let info = probe.as_ref().map(|probe| &probe.info);
    key_managers::KeyManager {
        name: manager.name.to_string(),
        hsm: info.map(ManagerInfo::hsm).unwrap_or_default(),
        model: info.map(ManagerInfo::shown).unwrap_or_default(),
        health: match manager.health(now) {
            Health::Active => key_managers::Health::Active,
            Health::Degraded => key_managers::Health::Degraded,
            Health::Unavailable => key_managers::Health::Unavailable,
        },
        key_stores: Vec::new(),
    }
}

/// The first of the chain to end.
fn certificate_end(state: &State) -> Option<i64> {
    let tls = state.tls.load();
    tls.certificates().iter().map(|certificate| certificate.not_after.unix_timestamp()).min()
}
