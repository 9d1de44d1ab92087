//! The keys that key stores expect in a key manager, and whether one can serve.

use std::sync::Arc;

use crate::api::response::{key_spec, key_usage};
use crate::key_manager::{Answer, KeyRef, KeySpec, KeyUsage, Outcome};
use crate::keystore::{KeyManager, KeyStores};

/// A key that a key store expects in a key manager.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpectedKey {
    /// Which.
    pub key: KeyRef,
    /// The key and its key store, for the operator; no other has the same.
    pub what: String,
    /// Other key managers must hold the same key.
    pub replicated: bool,
}

/// The keys that key stores expect in a key manager.
pub fn expected_keys(stores: &KeyStores, manager: &Arc<KeyManager>) -> Vec<ExpectedKey> {
    let mut keys = Vec::new();
    for store in stores
        .by_prefix
        .values()
        .filter(|store| store.managers.iter().any(|m| Arc::ptr_eq(m, manager)))
    {
        for (id, key) in &store.keys {
            let rotated = key.versions().len() > 1;
            for version in key.versions().iter().filter(|version| version.state.decrypts()) {
                let KeyRef { label, version: number, .. } = &version.key;
                let of = if rotated { format!("version {number} of ") } else { String::new() };
                let what =
                    format!("{of}key {id:?} (label {label:?}) of key store {:?}", store.prefix);
                let replicated = store.managers.len() > 1;
                keys.push(ExpectedKey { key: version.key.clone(), what, replicated });
            }
        }
    }
    keys.sort();
    keys
}

/// Why a key of this description cannot serve AWS KMS; `None` when it can.
pub fn why_it_cannot_serve(described: Outcome) -> Option<String> {
    match described {
        Ok(Answer::Described(key)) if key.spec != KeySpec::AES_256 => {
            Some(format!("it is {} and not {}", key_spec(key.spec), key_spec(KeySpec::AES_256)))
        }
        Ok(Answer::Described(key))
            if !(key.usage.contains(KeyUsage::Encrypt)
                && key.usage.contains(KeyUsage::Decrypt)) =>
        {
            let usages: Vec<&str> = key.usage.iter().map(key_usage).collect();
            let usages = if usages.is_empty() { "empty".to_owned() } else { usages.join(", ") };
            Some(format!("its usage is {usages} and lacks ENCRYPT or DECRYPT"))
        }
        Ok(Answer::Described(key)) if !key.enabled => {
            Some("today is outside its start and end date".into())
        }
        Ok(Answer::Described(_)) => None,
        Ok(_) => Some("the key manager gave an answer of the wrong kind".into()),
        Err(fault) => Some(fault.to_string()),
    }
}
