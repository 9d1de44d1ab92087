//! What a token holds, for `xksd keys`.

use std::fmt::Write as _;

use super::attributes::today;
use super::keys;
use super::module::OpenSession;
use crate::hsm::Fault;

/// A secret key on a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyListing {
    /// CKA_LABEL; bytes that are not UTF-8 are replaced.
    pub label: String,
    /// CKA_ID in hexadecimal.
    pub id: String,
    /// As in [`crate::hsm::KeyDescription::spec`].
    pub spec: String,
    /// As in [`crate::hsm::KeyDescription::usage`].
    pub usage: Vec<&'static str>,
    /// As in [`crate::hsm::KeyDescription::enabled`].
    pub enabled: bool,
    /// CKA_START_DATE as `2026-03-01`.
    pub start_date: Option<String>,
    /// CKA_END_DATE, the last day on which the key works.
    pub end_date: Option<String>,
}

impl std::fmt::Display for KeyListing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A label is the HSM's bytes: quoted, so that it cannot steer a terminal.
        write!(f, "{:?}: {}, {}", self.label, self.spec, if self.usage.is_empty() { "no usage".into() } else { self.usage.join(" ") })?;
        if !self.id.is_empty() {
            write!(f, ", id {}", self.id)?;
        }
        if self.start_date.is_some() || self.end_date.is_some() {
            let day = |day: &Option<String>| day.clone().unwrap_or_default();
            write!(f, ", {} to {}{}", day(&self.start_date), day(&self.end_date), if self.enabled { "" } else { " (not today)" })?;
        }
        Ok(())
    }
}

/// Sorted by label and id.
pub(super) fn of(session: &OpenSession) -> Result<Vec<KeyListing>, Fault> {
    let today = today();
    let mut listing: Vec<KeyListing> = keys::find_all(session)
        .map_err(|error| error.fault())?
        .into_iter()
        .map(|key| {
            let description = key.attributes.describe(today);
            KeyListing {
                label: String::from_utf8_lossy(&key.attributes.label).into_owned(),
                id: hex(&key.attributes.id),
                spec: description.spec,
                usage: description.usage,
                enabled: description.enabled,
                start_date: key.attributes.start.text(),
                end_date: key.attributes.end.text(),
            }
        })
        .collect();
    listing.sort_by(|a, b| (&a.label, &a.id).cmp(&(&b.label, &b.id)));
    Ok(listing)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
