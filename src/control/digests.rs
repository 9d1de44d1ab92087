//! What key stores serve, in a few words: the same where instances serve the same. Made when
//! something else is served, and not each time that somebody asks.

use std::collections::BTreeMap;

use ring::digest::{Context, SHA256};

use crate::config::{Config, difference};
use crate::keystore::KeyStores;
use crate::limits::FLEET_KEY_VERSIONS_MAX;

/// Of what is served.
#[derive(Debug)]
pub struct Digests {
    /// SHA-256 of what the key stores say, with the digests of their policies.
    pub key_stores_sha256: String,
    /// The primary version of the first keys.
    pub key_versions: BTreeMap<String, u16>,
    /// SHA-256 of all versions of all keys with their states.
    pub key_versions_sha256: String,
}

impl Digests {
    /// Of these key stores, which were built from this configuration.
    pub fn of(config: &Config, served: &KeyStores) -> Digests {
        let (key_versions, key_versions_sha256) = key_versions(served);
        Digests { key_stores_sha256: key_stores(config), key_versions, key_versions_sha256 }
    }
}

fn key_stores(config: &Config) -> String {
    let mut context = Context::new(&SHA256);
    for line in difference::served(config) {
        context.update(line.as_bytes());
        context.update(b"\n");
    }
    hex(context)
}

fn key_versions(served: &KeyStores) -> (BTreeMap<String, u16>, String) {
    let mut all = BTreeMap::new();
    for store in served.by_prefix.values() {
        for (id, key) in &store.keys {
            all.insert(format!("{} {id}", store.prefix), key);
        }
    }
    let mut context = Context::new(&SHA256);
    for (name, key) in &all {
        for version in key.versions() {
            let (number, label, state) =
                (version.key.version, &version.key.label, version.state.name());
            context.update(format!("{name} {number} {label} {state}\n").as_bytes());
        }
    }
    let first = all.into_iter().take(FLEET_KEY_VERSIONS_MAX);
    let primary = first.map(|(name, key)| (name, key.primary().key.version)).collect();
    (primary, hex(context))
}

fn hex(context: Context) -> String {
    crate::hex::hex(context.finish().as_ref())
}
