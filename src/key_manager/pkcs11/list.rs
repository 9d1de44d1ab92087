//! What a token holds, for `xksd keys`.

use std::collections::HashMap;
use std::fmt::Write as _;

use cryptoki_sys::{CK_FALSE, CK_OBJECT_HANDLE, CKA_EXTRACTABLE, CKA_SENSITIVE};

use super::attributes::today;
use super::keys::{Key, KeyCache};
use super::module::OpenSession;
use super::search;
use crate::key_manager::{Answer, Fault, KeyDescription, Outcome};

/// A secret key on a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyListing {
    /// CKA_LABEL; bytes that are not UTF-8 are replaced.
    pub label: String,
    /// CKA_ID in hexadecimal.
    pub id: String,
    /// As in [`crate::key_manager::KeyDescription::spec`].
    pub spec: String,
    /// As in [`crate::key_manager::KeyDescription::usage`].
    pub usage: Vec<&'static str>,
    /// As in [`crate::key_manager::KeyDescription::enabled`].
    pub enabled: bool,
    /// CKA_SENSITIVE; `None` where the module does not tell.
    pub sensitive: Option<bool>,
    /// CKA_EXTRACTABLE; `None` where the module does not tell.
    pub extractable: Option<bool>,
    /// CKA_START_DATE as `2026-03-01`.
    pub start_date: Option<String>,
    /// CKA_END_DATE, the last day on which the key works.
    pub end_date: Option<String>,
    /// Why the module cannot tell everything of it.
    pub unreadable: Option<String>,
}

/// All secret keys on a token, sorted by label and id.
#[derive(Clone, Debug, Default)]
pub struct TokenKeys(Vec<KeyListing>);

impl TokenKeys {
    fn new(mut keys: Vec<KeyListing>) -> TokenKeys {
        keys.sort_by(|a, b| (&a.label, &a.id).cmp(&(&b.label, &b.id)));
        TokenKeys(keys)
    }

    /// Those of that label.
    pub fn of_label(&self, label: &str) -> &[KeyListing] {
        let start = self.0.partition_point(|key| *key.label < *label);
        let end = self.0.partition_point(|key| *key.label <= *label);
        self.0.get(start..end).unwrap_or_default()
    }

    /// As a session answers [`Task::Describe`](crate::key_manager::Task::Describe).
    pub fn describe(&self, label: &str) -> Outcome {
        match self.of_label(label) {
            [] => Err(Fault::KeyNotFound { detail: search::no_key(label) }),
            [KeyListing { unreadable: Some(why), .. }] => {
                Err(Fault::Device { detail: why.clone() })
            }
            [key] => Ok(Answer::Described(KeyDescription {
                spec: key.spec.clone(),
                usage: key.usage.clone(),
                enabled: key.enabled,
            })),
            keys => Err(Fault::KeyNotFound { detail: search::several_keys(label, keys.len()) }),
        }
    }
}

impl std::ops::Deref for TokenKeys {
    type Target = [KeyListing];

    fn deref(&self) -> &[KeyListing] {
        &self.0
    }
}

impl KeyListing {
    /// By which ways the key, or others of its HSM, can get out of it or be exchanged: none for a
    /// key as `docs/hsm-vendors.md` wants it.
    pub fn exposures(&self) -> Vec<String> {
        let mut exposures = Vec::new();
        match self.extractable {
            Some(false) => {}
            Some(true) => exposures.push("it can leave the HSM (CKA_EXTRACTABLE)".to_owned()),
            None => exposures.push(
                "the HSM does not tell whether the key can leave it (CKA_EXTRACTABLE)".to_owned(),
            ),
        }
        match self.sensitive {
            Some(true) => {}
            Some(false) => exposures.push("it is not marked secret (not CKA_SENSITIVE)".to_owned()),
            None => exposures.push(
                "the HSM does not tell whether the key is marked secret (CKA_SENSITIVE)".to_owned(),
            ),
        }
        if self.usage.contains(&"WRAP") {
            exposures.push("it can carry other keys out of the HSM (CKA_WRAP)".to_owned());
        }
        if self.usage.contains(&"UNWRAP") {
            exposures.push("it can bring keys into the HSM (CKA_UNWRAP)".to_owned());
        }
        exposures
    }
}

impl std::fmt::Display for KeyListing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A label is the HSM's bytes: quoted, so that it cannot steer a terminal.
        write!(
            f,
            "{:?}: {}, {}",
            self.label,
            self.spec,
            if self.usage.is_empty() { "no usage".into() } else { self.usage.join(" ") }
        )?;
        if !self.id.is_empty() {
            write!(f, ", id {}", self.id)?;
        }
        if self.start_date.is_some() || self.end_date.is_some() {
            let day = |day: &Option<String>| day.clone().unwrap_or_default();
            write!(
                f,
                ", {} to {}{}",
                day(&self.start_date),
                day(&self.end_date),
                if self.enabled { "" } else { " (not today)" }
            )?;
        }
        Ok(())
    }
}

/// Searches the token, and keeps in `cache` what jobs that follow then need not search for.
pub(super) fn of(session: &OpenSession, cache: &KeyCache) -> Result<TokenKeys, Fault> {
    let today = today();
    let version = cache.version();
    let keys = search::all(session)?
        .into_iter()
        .map(|handle| search::read_what_can_be(session, handle))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.fault())?;
    remember(cache, &keys, version);
    let listing = keys
        .into_iter()
        .map(|key| {
            let description = key.attributes.describe(today);
            let [sensitive, extractable] = exposure(session, key.handle);
            KeyListing {
                label: String::from_utf8_lossy(&key.attributes.label).into_owned(),
                id: hex(&key.attributes.id),
                spec: description.spec,
                usage: description.usage,
                enabled: description.enabled,
                sensitive,
                extractable,
                start_date: key.attributes.start.text(),
                end_date: key.attributes.end.text(),
                unreadable: key.attributes.unreadable.map(|error| error.to_string()),
            }
        })
        .collect();
    Ok(TokenKeys::new(listing))
}

fn remember(cache: &KeyCache, keys: &[Key], version: u64) {
    let mut labels: HashMap<&[u8], usize> = HashMap::new();
    for key in keys {
        *labels.entry(&key.attributes.label).or_default() += 1;
    }
    for key in keys.iter().filter(|key| key.attributes.unreadable.is_none()) {
        if let Ok(label) = std::str::from_utf8(&key.attributes.label)
            && labels.get(label.as_bytes()) == Some(&1)
        {
            cache.insert(&label.into(), key, version);
        }
    }
}

/// CKA_SENSITIVE and CKA_EXTRACTABLE. Asked for here and not with what serving needs: a module that
/// does not tell must not lose its keys for it.
fn exposure(session: &OpenSession, key: CK_OBJECT_HANDLE) -> [Option<bool>; 2] {
    let wanted = [(CKA_SENSITIVE, 1), (CKA_EXTRACTABLE, 1)];
    let values = session.module.functions.attributes(session.handle(), key, &wanted);
    let mut values = values.unwrap_or_default().into_iter();
    [(); 2].map(|()| {
        let value = values.next()?.ok()??;
        value.first().map(|byte| *byte != CK_FALSE)
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_as_it_should_be_has_no_exposures() {
        let good = KeyListing {
            label: "foo".to_owned(),
            id: String::new(),
            spec: "AES_256".to_owned(),
            usage: vec!["ENCRYPT", "DECRYPT"],
            enabled: true,
            sensitive: Some(true),
            extractable: Some(false),
            start_date: None,
            end_date: None,
            unreadable: None,
        };
        assert!(good.exposures().is_empty());
        for (other, attribute) in [
            (KeyListing { extractable: Some(true), ..good.clone() }, "CKA_EXTRACTABLE"),
            (KeyListing { extractable: None, ..good.clone() }, "CKA_EXTRACTABLE"),
            (KeyListing { sensitive: Some(false), ..good.clone() }, "not CKA_SENSITIVE"),
            (KeyListing { sensitive: None, ..good.clone() }, "CKA_SENSITIVE"),
            (KeyListing { usage: vec!["ENCRYPT", "DECRYPT", "WRAP"], ..good.clone() }, "CKA_WRAP"),
            (
                KeyListing { usage: vec!["ENCRYPT", "DECRYPT", "UNWRAP"], ..good.clone() },
                "CKA_UNWRAP",
            ),
        ] {
            let exposures = other.exposures();
            assert!(
                exposures.len() == 1 && exposures[0].contains(&format!("({attribute})")),
                "{exposures:?}"
            );
        }
    }

    #[test]
    fn a_label_names_one_key_or_none() {
        let key = |label: &str, id: &str| KeyListing {
            label: label.to_owned(),
            id: id.to_owned(),
            spec: "AES_256".to_owned(),
            usage: vec!["ENCRYPT", "DECRYPT"],
            enabled: true,
            sensitive: Some(true),
            extractable: Some(false),
            start_date: None,
            end_date: None,
            unreadable: (label == "broken").then(|| "why".to_owned()),
        };
        let of = [("twin", "2"), ("a", ""), ("twin", "1"), ("broken", ""), ("zz", "")];
        let keys = TokenKeys::new(of.map(|(label, id)| key(label, id)).to_vec());
        let ids: Vec<_> = keys.of_label("twin").iter().map(|key| &*key.id).collect();
        assert_eq!(ids, ["1", "2"]);
        assert!(matches!(keys.describe("a"), Ok(Answer::Described(key)) if key.spec == "AES_256"));
        assert!(matches!(keys.describe("zz"), Ok(Answer::Described(_))));
        let told = |label| keys.describe(label).expect_err("cannot serve").to_string();
        assert!(told("b").contains("no secret key labelled \"b\""));
        assert!(told("twin").starts_with("2 secret keys labelled \"twin\""));
        assert_eq!(told("broken"), "why");
        assert!(TokenKeys::default().of_label("a").is_empty());
    }
}
