//! `encryptions.json` of the state directory: how often each key has encrypted, at the most.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::key_manager::KeyRef;

/// The file's name.
pub const FILE: &str = "encryptions.json";
/// Of the file's form. Another one is not understood, and xksd does not start.
const VERSION: u32 = 1;
/// More than any key can have made; sums of it do not overflow.
const ENCRYPTIONS_MAX: u64 = u64::MAX >> 16;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    keys: Vec<SavedKey>,
}

/// How a key is called in its key managers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyName {
    /// Its label.
    pub label: Arc<str>,
    /// Where a key manager keeps several keys of one label as versions: which one.
    pub version: Option<u16>,
}

impl KeyName {
    /// Of a key; `managed`: its key manager keeps its versions.
    pub fn of(key: &KeyRef, managed: bool) -> KeyName {
        KeyName { label: key.label.clone(), version: managed.then_some(key.version) }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "{:?} version {version}", self.label),
            None => write!(f, "{:?}", self.label),
        }
    }
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedKey {
    /// Names of all key managers that were ever configured to hold it.
    pub key_managers: Vec<String>,
    /// Its label there.
    pub label: Arc<str>,
    /// See [`KeyName::version`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u16>,
    /// How often it has encrypted on this instance, at the most.
    pub encryptions: u64,
    /// Since when that is counted, Unix seconds.
    pub counted_since: i64,
}

impl SavedKey {
    /// How it is called.
    pub fn name(&self) -> KeyName {
        KeyName { label: self.label.clone(), version: self.version }
    }
}

/// Reads the file's text.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &[u8]) -> Result<Vec<SavedKey>, String> {
    let saved: Saved = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if saved.version != VERSION {
        return Err(format!("version {} is not known to this xksd", saved.version));
    }
    let mut seen = HashSet::new();
    for key in &saved.keys {
        let (name, SavedKey { key_managers, encryptions, .. }) = (key.name(), key);
        if *encryptions > ENCRYPTIONS_MAX {
            return Err(format!("key {name}: {encryptions} encryptions are impossible"));
        }
        if key_managers.is_empty() {
            return Err(format!("key {name} has no key manager"));
        }
        for manager in key_managers {
            if !seen.insert((manager, name.clone())) {
                return Err(format!("key {name} of key manager {manager:?} stands in it twice"));
            }
        }
    }
    Ok(saved.keys)
}

/// The file's text.
pub fn text(keys: Vec<SavedKey>) -> Vec<u8> {
    let mut text = serde_json::to_vec(&Saved { version: VERSION, keys }).unwrap_or_default();
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let key = |managers: &[&str], label: &str| SavedKey {
            key_managers: managers.iter().map(ToString::to_string).collect(),
            label: label.into(),
            version: None,
            encryptions: 7,
            counted_since: 1,
        };
        let third = SavedKey { version: Some(3), ..key(&["a"], "foo") };
        let keys = vec![third, key(&["a", "b"], "foo"), key(&["c"], "foo"), key(&["a"], "bar")];
        assert_eq!(parse(&text(keys.clone())), Ok(keys));
        let wrong = |keys: Vec<SavedKey>| parse(&text(keys)).unwrap_err();
        assert!(wrong(vec![key(&["a", "b"], "foo"), key(&["b"], "foo")]).contains("twice"));
        assert!(wrong(vec![key(&[], "foo")]).contains("no key manager"));
        let many = SavedKey { encryptions: u64::MAX, ..key(&["a"], "foo") };
        assert!(wrong(vec![many]).contains("impossible"));
        for text in ["", "{", "[]", "{\"version\":2,\"keys\":[]}", "{\"keys\":[]}"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
