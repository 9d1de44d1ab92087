//! What an instance says of itself to the others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::key_managers::KeyManager;
use super::sealed::{FleetKey, NONCE_BYTES, SEAL_BYTES};
use crate::limits::FLEET_SUMMARY_BYTES_MAX;

/// The text of a summary.
const TEXT_BYTES_MAX: usize = FLEET_SUMMARY_BYTES_MAX - SEAL_BYTES;
/// Reasons that are told where there is no room for all.
const REASONS_MAX: usize = 10;

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
    /// Its key managers, of the first ones where there are many. Not of an older version.
    pub key_managers: Vec<KeyManager>,
}

impl Summary {
    /// As it is registered.
    pub fn seal(&self, key: &FleetKey, nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        key.seal(&place(&self.name), self.unix_ms, nonce, &self.text())
    }

    /// What is not needed gives way where all would be so long that nobody would read it.
    fn text(&self) -> Vec<u8> {
        let text = |summary: &Summary| serde_json::to_vec(summary).unwrap_or_default();
        let mut told = text(self);
        let shorten: [fn(&mut Summary); 3] = [
            |summary| summary.key_versions.clear(),
            |summary| summary.key_managers.clear(),
            |summary| {
                let reasons = std::mem::take(&mut summary.not_applied);
                summary.not_applied = reasons.into_iter().take(REASONS_MAX).collect();
            },
        ];
        let (mut shorter, mut shorten) = (self.clone(), shorten.into_iter());
        while told.len() > TEXT_BYTES_MAX
            && let Some(shorten) = shorten.next()
        {
            shorten(&mut shorter);
            told = text(&shorter);
        }
        told
    }

    /// Its clock when this was said, less the clock here, milliseconds.
    pub fn clock_ms(&self, here_ms: u64) -> i64 {
        let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        ms(self.unix_ms).saturating_sub(ms(here_ms))
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
    use crate::fleet::key_managers::Health;
    use crate::limits::{
        EXTERNAL_KEY_ID_CHARS_MAX, FLEET_DOCUMENTS_MAX, FLEET_FILE_NAME_BYTES_MAX,
        FLEET_KEY_MANAGERS_MAX, FLEET_KEY_STORES_MAX, FLEET_KEY_VERSIONS_MAX,
        KEY_MANAGER_NAME_CHARS_MAX,
    };

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
        let clock_ms = |unix_ms| Summary { unix_ms, ..Summary::default() }.clock_ms(9);
        assert_eq!([0, 19, u64::MAX].map(clock_ms), [-9, 10, i64::MAX - 9]);
        let older = Summary::open(&key, "b", &unknown).expect("of a newer version");
        assert_eq!(older.key_managers, [], "or of an older one");
    }

    #[test]
    fn all_that_can_be_told_at_once_is_told_and_what_is_more_gives_way() {
        let key = FleetKey::new(&[5; 32], "/f").unwrap();
        let sealed = |summary: &Summary| {
            let sealed = summary.seal(&key, [0; NONCE_BYTES]);
            assert!(sealed.len() <= FLEET_SUMMARY_BYTES_MAX, "{}", sealed.len());
            Summary::open(&key, "a", &sealed).expect("opens")
        };
        let prefix = |at: usize| format!("/{at:0>109}");
        let key_managers = (0..FLEET_KEY_MANAGERS_MAX).map(|at| KeyManager {
            name: format!("{at:0>KEY_MANAGER_NAME_CHARS_MAX$}"),
            hsm: "h".repeat(70),
            model: "m".repeat(150),
            health: Health::Unavailable,
            key_stores: (0..FLEET_KEY_STORES_MAX / FLEET_KEY_MANAGERS_MAX).map(prefix).collect(),
        });
        let mut summary = Summary {
            name: "a".into(),
            key_managers: key_managers.collect(),
            key_versions: (0..FLEET_KEY_VERSIONS_MAX)
                .map(|at| (format!("{} {at:0>EXTERNAL_KEY_ID_CHARS_MAX$}", prefix(0)), 65_535))
                .collect(),
            ..Summary::default()
        };
        assert_eq!(sealed(&summary), summary, "the longest names");
        let document = |at: usize| format!("files/{at:0>FLEET_FILE_NAME_BYTES_MAX$}");
        summary.documents =
            (0..FLEET_DOCUMENTS_MAX).map(|at| (document(at), 1_700_000_000_000)).collect();
        let told = sealed(&summary);
        assert_eq!(told.documents, summary.documents, "what others wait for");
        assert!(told.key_versions.is_empty() && told.key_managers.is_empty());
        summary.not_applied =
            (0..FLEET_DOCUMENTS_MAX).map(|at| (document(at), "w".repeat(300))).collect();
        let told = sealed(&summary);
        assert_eq!((told.documents, told.not_applied.len()), (summary.documents, REASONS_MAX));
    }
}
