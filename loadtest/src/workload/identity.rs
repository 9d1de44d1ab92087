//! Who answers: what a proxy says of itself, and of the HSMs behind it, when asked for its health.

use serde::{Deserialize, Serialize};

use crate::limits::{HSMS_REPORTED, IDENTITY_CHARS_MAX};

/// From the answer to `health`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `xksProxyVendor`.
    pub proxy_vendor: String,
    /// `xksProxyModel`; where proxies have one, with their version.
    pub proxy_model: String,
    /// `ekmVendor`.
    pub hsm_vendor: String,
    /// `ekmFleetDetails`.
    pub hsms: Vec<Hsm>,
}

/// One of the external key managers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hsm {
    /// Its name at the proxy.
    pub id: String,
    /// What it is.
    pub model: String,
    /// `ACTIVE`, `DEGRADED` or `UNAVAILABLE`.
    pub health: String,
}

impl Identity {
    /// Reads an answer; `None` where it says nothing that can be read.
    pub fn of(body: &[u8]) -> Option<Identity> {
        #[derive(Deserialize)]
        #[allow(non_snake_case)]
        struct Health {
            xksProxyVendor: String,
            xksProxyModel: String,
            ekmVendor: String,
            ekmFleetDetails: Vec<Detail>,
        }
        #[derive(Deserialize)]
        #[allow(non_snake_case)]
        struct Detail {
            id: String,
            model: String,
            healthStatus: String,
        }
        let health: Health = serde_json::from_slice(body).ok()?;
        let hsm = |detail: &Detail| Hsm {
            id: printable(&detail.id),
            model: printable(&detail.model),
            health: printable(&detail.healthStatus),
        };
        Some(Identity {
            proxy_vendor: printable(&health.xksProxyVendor),
            proxy_model: printable(&health.xksProxyModel),
            hsm_vendor: printable(&health.ekmVendor),
            hsms: health.ekmFleetDetails.iter().take(HSMS_REPORTED).map(hsm).collect(),
        })
    }
}

/// The first characters, without what a terminal would act on.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '?' } else { c };
    text.trim().chars().take(IDENTITY_CHARS_MAX).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(model: &str, hsms: usize) -> serde_json::Value {
        let detail = serde_json::json!({"id": "a", "model": "b", "healthStatus": "ACTIVE"});
        serde_json::json!({
            "xksProxyFleetSize": 1,
            "xksProxyVendor": "v",
            "xksProxyModel": model,
            "ekmVendor": "w",
            "ekmFleetDetails": vec![detail; hsms],
        })
    }

    #[test]
    fn what_a_proxy_says_of_itself_is_bounded_and_printable() {
        let of = |json: &serde_json::Value| Identity::of(json.to_string().as_bytes()).unwrap();
        let identity = of(&health(" m 1.0\u{1b}[2J ", 2));
        assert_eq!((identity.proxy_model.as_str(), identity.hsms.len()), ("m 1.0?[2J", 2));
        let fits = "m".repeat(IDENTITY_CHARS_MAX);
        assert_eq!(of(&health(&fits, HSMS_REPORTED)).proxy_model, fits);
        let longer = of(&health(&format!("{fits}m"), HSMS_REPORTED + 1));
        assert_eq!((longer.proxy_model, longer.hsms.len()), (fits, HSMS_REPORTED));
        assert_eq!(Identity::of(b"{}"), None);
    }
}
