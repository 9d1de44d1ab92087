//! What AWS KMS is shown of the fleet: how many instances there are, and the key managers of the
//! others.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Fleet;
use crate::config::{Config, Shared};
use crate::fleet::Summary;
use crate::fleet::key_managers::of_others;
use crate::keystore::{FleetView, KeyStores};
use crate::telemetry::log::Printable;

/// As far as a configuration says it.
pub fn new(config: &Config) -> Arc<FleetView> {
    let view = FleetView::default();
    view.size.store(configured(config), Ordering::Relaxed);
    Arc::new(view)
}

fn configured(config: &Config) -> u32 {
    let instances = config.server.instances;
    let count = match config.fleet.as_ref().map(|fleet| &fleet.shared) {
        Some(Shared::Peers(peers)) => peers.len() as u64 + 1,
        Some(Shared::Etcd(_)) | None => instances,
    };
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Another configuration is in force. What etcd has said stays.
pub fn reconfigured(view: &FleetView, fleet: Option<&Fleet>, config: &Config) {
    let joined = fleet.and_then(Fleet::joined);
    if joined.is_none_or(|joined| joined.members.registered() == 0) {
        view.size.store(configured(config), Ordering::Relaxed);
    }
}

/// So many are registered.
pub fn registered(view: &FleetView, count: usize) {
    if let Ok(count @ 1..) = u32::try_from(count) {
        view.size.store(count, Ordering::Relaxed);
    }
}

/// This is what the others say of themselves, by name. An instance that is not among them, or is
/// not heard, has no key managers any more.
pub fn heard(view: &FleetView, served: &KeyStores, others: &[(&str, &Summary)]) {
    let said = others.iter().map(|(name, summary)| (*name, &summary.key_managers[..]));
    let mut others = of_others(said, |key_store| served.by_prefix.contains_key(key_store));
    for other in others.values_mut().flatten() {
        other.model = Printable(&other.model).to_string();
    }
    if others != **view.others.load() {
        view.others.store(Arc::new(others));
    }
}
