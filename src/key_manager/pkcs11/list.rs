//! What a token holds, for `xksd keys`.

use std::fmt::Write as _;

use cryptoki_sys::{CK_ATTRIBUTE_TYPE, CK_FALSE, CK_OBJECT_HANDLE, CKA_EXTRACTABLE, CKA_SENSITIVE};

use super::attributes::today;
use super::keys;
use super::module::OpenSession;
use crate::key_manager::Fault;

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

/// Sorted by label and id.
pub(super) fn of(session: &OpenSession) -> Result<Vec<KeyListing>, Fault> {
    let today = today();
    let mut listing: Vec<KeyListing> = keys::find_all(session)?
        .into_iter()
        .map(|key| {
            let description = key.attributes.describe(today);
            let [sensitive, extractable] =
                [CKA_SENSITIVE, CKA_EXTRACTABLE].map(|type_| flag(session, key.handle, type_));
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
            }
        })
        .collect();
    listing.sort_by(|a, b| (&a.label, &a.id).cmp(&(&b.label, &b.id)));
    Ok(listing)
}

/// Asked for here and not with what serving needs: a module that does not tell must not lose its
/// keys for it.
fn flag(session: &OpenSession, key: CK_OBJECT_HANDLE, type_: CK_ATTRIBUTE_TYPE) -> Option<bool> {
    let values = session.module.functions.attributes(session.handle(), key, &[(type_, 1)]).ok()?;
    let value = values.into_iter().next()?.ok()??;
    value.first().map(|byte| *byte != CK_FALSE)
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
}
