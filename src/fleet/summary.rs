//! What an instance says of itself to the others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sealed::{FleetKey, NONCE_BYTES};

/// An instance as it sees itself. Fields that another version does not know are left out there: a
/// fleet is upgraded one by one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Its name in the fleet.
    pub name: String,
    /// Of this run: two processes of one name have different ones.
    pub run: String,
    /// Of xksd.
    pub version: String,
    /// When this was said by its own clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// Since when it runs, seconds since 1970.
    pub started: i64,
    /// Whether it is ready for requests.
    pub ready: bool,
    /// SHA-256 of its configuration file.
    pub config_sha256: String,
    /// SHA-256 of what its key stores say: the same where the same is served, whatever else
    /// differs between machines.
    pub key_stores_sha256: String,
    /// The first line of why its last reload was refused.
    pub reload_refused: Option<String>,
    /// Primary version of each key, by key store and key; of the first ones where there are many.
    pub key_versions: BTreeMap<String, u16>,
    /// SHA-256 of all versions of all keys with their states.
    pub key_versions_sha256: String,
    /// Of the key that has used the most of its invocation budget here.
    pub budget_percent: f64,
    /// `server.instances`: how many share the budgets.
    pub budget_shares: u64,
    /// When its server certificate ends, seconds since 1970.
    pub certificate_not_after: Option<i64>,
    /// How many blocks are in force.
    pub blocks: usize,
    /// What it has in force of each document, by its sequence.
    pub documents: BTreeMap<String, u64>,
    /// Documents that it holds and could not put in force, and why.
    pub not_applied: BTreeMap<String, String>,
}

impl Summary {
    /// As it is registered.
    pub fn seal(&self, key: &FleetKey, nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        key.seal(&place(&self.name), self.unix_ms, nonce, &text)
    }

    /// Opens what an instance of this name has registered.
    pub fn open(key: &FleetKey, name: &str, sealed: &[u8]) -> Option<Summary> {
        let opened = key.open(&place(name), sealed)?;
        let summary: Summary = serde_json::from_slice(&opened.content).ok()?;
        (summary.name == name).then_some(summary)
    }
}

fn place(name: &str) -> String {
    format!("instances/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_cannot_speak_for_another() {
        let key = FleetKey::new(&[5; 32], "/f").unwrap();
        let summary = Summary { name: "a".into(), unix_ms: 7, ready: true, ..Summary::default() };
        let sealed = summary.seal(&key, [0; NONCE_BYTES]);
        assert_eq!(Summary::open(&key, "a", &sealed), Some(summary));
        assert_eq!(Summary::open(&key, "b", &sealed), None);
        let other = key.seal("instances/b", 1, [0; NONCE_BYTES], b"{\"name\":\"a\"}");
        assert_eq!(Summary::open(&key, "b", &other), None);
        let unknown = key.seal("instances/b", 1, [0; NONCE_BYTES], b"{\"name\":\"b\",\"new\":1}");
        assert!(Summary::open(&key, "b", &unknown).is_some(), "of a newer version");
    }
}
