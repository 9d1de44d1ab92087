//! GetHealthStatus: what the probes found, of the key managers of one key store, and what the other
//! instances say of theirs.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::api::response::{self, EkmFleetDetail};
use crate::fleet::key_managers::{self, Other, is_same};
use crate::key_manager::Health;
use crate::keystore::{KeyManager, KeyStore};
use crate::limits::EKM_FLEET_MAX;

const UNKNOWN: &str = "unknown";

/// Appends the response's body.
pub(super) fn write(store: &KeyStore, now: Instant, out: &mut Vec<u8>) {
    let own = store.managers.iter().take(EKM_FLEET_MAX);
    let mut fleet: Vec<EkmFleetDetail> = own.map(|manager| of_own(manager, now)).collect();
    let others = store.fleet.others.load();
    if let Some(others) = others.get(&*store.prefix) {
        let is_own =
            |other: &Other| store.managers.iter().any(|manager| is_same_hsm(manager, other));
        add(others, is_own, &mut fleet);
    }
    let vendor = store.managers.iter().find_map(|manager| {
        let probe = manager.probe.load();
        let vendor = &probe.as_ref()?.info.vendor;
        (!vendor.is_empty()).then(|| vendor.clone())
    });
    let size = NonZeroU32::new(store.fleet.size.load(Ordering::Relaxed));
    let answer = response::Health {
        xks_proxy_fleet_size: size.unwrap_or(NonZeroU32::MIN),
        xks_proxy_vendor: "xksd",
        xks_proxy_model: concat!("xksd ", env!("CARGO_PKG_VERSION")),
        ekm_vendor: vendor.as_deref().unwrap_or(UNKNOWN),
        ekm_fleet_details: &fleet,
    };
    response::health(&answer, out);
}

fn of_own(manager: &KeyManager, now: Instant) -> EkmFleetDetail {
    let model = manager.probe.load().as_ref().map(|probe| probe.info.shown());
    EkmFleetDetail {
        id: manager.name.to_string(),
        model: model.filter(|model| !model.is_empty()).unwrap_or_else(|| UNKNOWN.into()),
        health_status: response::health_status(manager.health(now)),
    }
}

/// Adds HSMs that only other instances have, as far as there is room.
fn add(others: &[Other], is_own: impl Fn(&Other) -> bool, fleet: &mut Vec<EkmFleetDetail>) {
    for other in others.iter().filter(|other| !is_own(other)) {
        if fleet.len() >= EKM_FLEET_MAX {
            return;
        }
        // Two sites may use one name for two HSMs.
        let is_free = |id: &&String| fleet.iter().all(|shown| shown.id != **id);
        let Some(id) = [&other.name, &other.qualified_name].into_iter().find(is_free) else {
            continue;
        };
        let model = if other.model.is_empty() { UNKNOWN } else { &other.model };
        fleet.push(EkmFleetDetail {
            id: id.clone(),
            model: model.to_owned(),
            health_status: response::health_status(match other.health {
                key_managers::Health::Active => Health::Active,
                key_managers::Health::Degraded => Health::Degraded,
                key_managers::Health::Unavailable => Health::Unavailable,
            }),
        });
    }
}

fn is_same_hsm(manager: &KeyManager, other: &Other) -> bool {
    if *manager.name != *other.name {
        return false;
    }
    let hsm = manager.probe.load().as_ref().map(|probe| probe.info.hsm());
    is_same((&manager.name, &hsm.unwrap_or_default()), (&other.name, &other.hsm))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(name: &str, instance: &str) -> Other {
        Other {
            name: name.into(),
            qualified_name: format!("{name}@{instance}"),
            hsm: "h".into(),
            model: String::new(),
            health: key_managers::Health::Degraded,
        }
    }

    fn own(name: &str) -> EkmFleetDetail {
        EkmFleetDetail { id: name.into(), model: "h".into(), health_status: "ACTIVE" }
    }

    #[test]
    fn others_come_after_the_own_ones_as_far_as_there_is_room() {
        let others: Vec<Other> = (0..EKM_FLEET_MAX).map(|at| other(&at.to_string(), "b")).collect();
        let shown = |own_ones: usize| {
            let mut fleet: Vec<_> = (0..own_ones).map(|at| own(&format!("own-{at}"))).collect();
            add(&others, |other| other.name == "0", &mut fleet);
            assert!(fleet.iter().take(own_ones).all(|one| one.health_status == "ACTIVE"));
            fleet
        };
        assert_eq!(shown(1).len(), EKM_FLEET_MAX);
        assert_eq!(shown(2).len(), EKM_FLEET_MAX);
        assert_eq!(shown(EKM_FLEET_MAX - 1)[EKM_FLEET_MAX - 1].id, "1", "0 is an own one");
        assert_eq!(shown(EKM_FLEET_MAX).len(), EKM_FLEET_MAX);
    }

    #[test]
    fn two_hsms_of_one_name_have_two_ids() {
        let mut fleet = vec![own("a")];
        let others = [other("a", "b"), other("a", "c"), other("a", "c"), other("d", "c")];
        add(&others, |_| false, &mut fleet);
        let ids: Vec<&str> = fleet.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids, ["a", "a@b", "a@c", "d"]);
        assert_eq!((&*fleet[1].model, fleet[1].health_status), (UNKNOWN, "DEGRADED"));
    }
}
