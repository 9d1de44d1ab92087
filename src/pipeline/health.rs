//! GetHealthStatus: what the probes found, of the key managers of one key store.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::api::response::{self, EkmFleetDetail};
use crate::keystore::KeyStore;
use crate::limits::EKM_FLEET_MAX;

/// Appends the response's body.
pub(super) fn write(store: &KeyStore, now: Instant, out: &mut Vec<u8>) {
    let mut vendor = String::new();
    let fleet: Vec<EkmFleetDetail> = store
        .managers
        .iter()
        .take(EKM_FLEET_MAX)
        .map(|manager| {
            let probe = manager.probe.load();
            let info = probe.as_ref().map(|probe| &probe.info);
            if let Some(info) = info
                && vendor.is_empty()
            {
                vendor.clone_from(&info.vendor);
            }
            let model = info.map(|info| {
                let parts = [&info.model, &info.token, &info.serial, &info.versions];
                parts
                    .iter()
                    .filter(|part| !part.is_empty())
                    .map(|part| part.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            });
            EkmFleetDetail {
                id: manager.name.to_string(),
                model: model.filter(|model| !model.is_empty()).unwrap_or_else(|| "unknown".into()),
                health_status: response::health_status(manager.health(now)),
            }
        })
        .collect();
    if vendor.is_empty() {
        vendor.push_str("unknown");
    }
    let size = NonZeroU32::new(store.fleet_size.load(Ordering::Relaxed));
    let answer = response::Health {
        xks_proxy_fleet_size: size.unwrap_or(NonZeroU32::MIN),
        xks_proxy_vendor: "xksd",
        xks_proxy_model: concat!("xksd ", env!("CARGO_PKG_VERSION")),
        ekm_vendor: &vendor,
        ekm_fleet_details: &fleet,
    };
    response::health(&answer, out);
}
