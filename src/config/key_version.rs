//! `[[keystore.key.version]]`.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::reader::{Value, all, distinct};
use super::table::{InForce, Said, Setting, names};
use crate::key_manager::VersionState;
use crate::limits::{KEY_LABEL_BYTES_MAX, KEY_VERSIONS_MAX};

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyVersion {
    /// As it stands in the ciphertext metadata.
    pub number: u16,
    /// CKA_LABEL in the HSM, or the name in a local key file; empty where it is destroyed.
    pub label: String,
    /// What it may be used for.
    pub state: VersionState,
    /// When it became primary, Unix seconds.
    pub promoted: Option<i64>,
}

impl KeyVersion {
    /// The only one of a key that was never rotated.
    pub(super) fn first(label: &str) -> KeyVersion {
        KeyVersion {
            number: 0,
            label: label.to_owned(),
            state: VersionState::Primary,
            promoted: None,
        }
    }
}

/// A version is said as a whole, by its key.
pub(super) const KEYS: &[Setting<()>] = &[
    Setting::structure("number", InForce::Reload),
    Setting::structure("label", InForce::Reload),
    Setting::structure("state", InForce::Reload),
    Setting::structure("promoted", InForce::Reload),
];

/// At least one, of which one is primary.
pub(super) fn versions(value: &Value<'_>) -> Option<Vec<KeyVersion>> {
    let elements = value.elements()?;
    if !(1..=KEY_VERSIONS_MAX).contains(&elements.len()) {
        let most = KEY_VERSIONS_MAX;
        return value.refuse(format!("{} versions: 1 to {most} are accepted", elements.len()));
    }
    // One label twice would be one key under two numbers: a rotation that is none.
    let distinct = distinct(&elements, "label");
    let versions = all(elements.iter().map(version)).filter(|_| distinct)?;
    for (at, version) in versions.iter().enumerate() {
        if versions[..at].iter().any(|before| before.number == version.number) {
            return elements[at].refuse(format!("number {} stands here twice", version.number));
        }
    }
    match versions.iter().filter(|version| version.state == VersionState::Primary).count() {
        1 => Some(versions),
        0 => value.refuse("no version has the state \"primary\", to encrypt with"),
        several => value.refuse(format!("{several} versions are \"primary\": one can be")),
    }
}

fn version(value: &Value<'_>) -> Option<KeyVersion> {
    let section = value.section(&names(KEYS))?;
    let number = section
        .must("number", "0 to 65535, never used twice", |v| v.integer("", 0..=u64::from(u16::MAX)));
    let state = section.must("state", STATES, |v| {
        let of_name = |name: &str| VersionState::ALL.into_iter().find(|s| s.name() == name);
        of_name(v.string_where(STATES, |text| of_name(text).is_some())?)
    });
    let label = match state {
        Some(VersionState::Destroyed) => section.or("label", "", label),
        _ => section.must("label", "the label of the key in the HSM", label),
    };
    let promoted = section.or("promoted", None, |v| v.moment().map(Some));
    let number = u16::try_from(number?).ok()?;
    Some(KeyVersion { number, label: label?.to_owned(), state: state?, promoted: promoted? })
}

const STATES: &str = "\"staged\", \"primary\", \"decrypt_only\", \"disabled\" or \"destroyed\"";

/// The versions in words.
pub(super) fn said(versions: &[KeyVersion]) -> Said<'static> {
    let words = versions.iter().map(|version| {
        let KeyVersion { number, label, state, promoted } = version;
        let promoted = promoted.map_or_else(String::new, |at| format!(" promoted {}", rfc3339(at)));
        format!("number {number} label {label:?} state {}{promoted}", state.name())
    });
    Said::value(format!("({})", words.collect::<Vec<_>>().join(", ")))
}

fn rfc3339(unix_seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix_seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// The label of a key in the HSM.
pub(super) fn label<'r>(value: &Value<'r>) -> Option<&'r str> {
    let accepted =
        format!("a label has 1 to {KEY_LABEL_BYTES_MAX} bytes and no control characters");
    value.string_where(&accepted, |t| {
        (1..=KEY_LABEL_BYTES_MAX).contains(&t.len()) && !t.chars().any(char::is_control)
    })
}
