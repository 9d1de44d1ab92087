//! A key file: the versions of one key, each wrapped by the HSM, and a seal over the whole.
//!
//! Its form is fixed to the byte: what is read must be what xksd would write. So there is one text
//! for each content, and no byte of a file can be changed unnoticed. docs/wrapped-keys.md has the
//! form for those who write programs of their own.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::hex::hex;
use crate::key_manager::{Cipher, VersionState};
use crate::limits::{KEY_FILE_LABEL_BYTES_MAX, KEY_FILE_MASTERS_MAX, KEY_VERSIONS_MAX, TAG_BYTES};

/// `format` of the files that this program reads and writes.
pub const FORMAT: &str = "xksd-wrapped-key/1";
/// Of an AES-256 key.
pub const KEY_BYTES: usize = 32;
/// Of a check value.
pub const CHECK_BYTES: usize = 16;
/// Random bytes that name a set of keys.
pub const SET_BYTES: usize = 16;

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// [`FORMAT`].
    pub format: String,
    /// Of the folder: 16 random bytes in hexadecimal, the same in all its files.
    pub set: String,
    /// Of the key; the file's name without `.json`.
    pub label: String,
    /// One more with each change.
    pub epoch: u64,
    /// Number of the version that encrypts.
    pub primary: u16,
    /// By number, ascending.
    pub versions: Vec<FileVersion>,
    /// Made over all that stands above it.
    pub seal: Encrypted,
    /// The same under other masters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_seals: Vec<Encrypted>,
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileVersion {
    /// Its number, as in the ciphertext metadata.
    pub version: u16,
    /// What it may be used for.
    pub state: VersionState,
    /// 1: [`Cipher::Direct`]; 2: [`Cipher::Derived`].
    pub cipher: u8,
    /// When it was made, RFC 3339.
    pub created: String,
    /// When it became primary, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<String>,
    /// From when on it counts as destroyed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroy_after: Option<String>,
    /// Of the key: see [`check_value`](super::material::check_value).
    pub check: Base64,
    /// The key under each master.
    pub wraps: Vec<Encrypted>,
}

/// What an HSM encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encrypted {
    /// Label of the key in the HSM.
    pub master: String,
    /// 12 or 16 bytes.
    pub iv: Base64,
    /// 32 bytes.
    pub ciphertext: Base64,
    /// 16 bytes.
    pub tag: Base64,
}

/// Bytes that stand in the file in Base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Base64, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Base64).map_err(|_| serde::de::Error::custom("not Base64"))
    }
}

impl KeyFile {
    /// Reads a file's text.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence that begins with the file's name.
    pub fn parse(text: &[u8]) -> Result<KeyFile, String> {
        let file: KeyFile =
            serde_json::from_slice(text).map_err(|error| format!("is not a key file: {error}"))?;
        file.validate()?;
        if file.to_text() != text {
            return Err("is not byte for byte as xksd writes it: it was edited".to_owned());
        }
        Ok(file)
    }

    /// The file's text.
    pub fn to_text(&self) -> Vec<u8> {
        // Strings and numbers only: this cannot fail.
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// What the seal is made over: SHA-256 of the JSON text, without white space, of all that
    /// stands before `seal`.
    pub fn digest(&self) -> [u8; 32] {
        #[derive(Serialize)]
        struct Rest<'a> {
            format: &'a str,
            set: &'a str,
            label: &'a str,
            epoch: u64,
            primary: u16,
            versions: &'a [FileVersion],
        }
        let KeyFile { format, set, label, epoch, primary, versions, .. } = self;
        let rest = Rest { format, set, label, epoch: *epoch, primary: *primary, versions };
        let text = serde_json::to_vec(&rest).unwrap_or_default();
        std::array::from_fn(|n| digest(&SHA256, &text).as_ref()[n])
    }

    /// SHA-256 of the file's text, in hexadecimal: which of several files of one epoch it is.
    pub fn fingerprint(&self) -> String {
        hex(digest(&SHA256, &self.to_text()).as_ref())
    }

    /// Each seal.
    pub fn seals(&self) -> impl Iterator<Item = &Encrypted> + Clone {
        std::iter::once(&self.seal).chain(&self.other_seals)
    }

    fn validate(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!(
                "has the format {:?}; this xksd knows {FORMAT:?}: a newer one may know it",
                self.format
            ));
        }
        let is_set = self.set.len() == 2 * SET_BYTES
            && self.set.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !is_set {
            return Err(format!("set: not {SET_BYTES} bytes in hexadecimal"));
        }
        if !is_label(&self.label) {
            return Err(format!("label: {LABEL_FORM}"));
        }
        if !(1..=KEY_VERSIONS_MAX).contains(&self.versions.len()) {
            let count = self.versions.len();
            return Err(format!("versions: {count} of them; 1 to {KEY_VERSIONS_MAX} can be"));
        }
        for (at, version) in self.versions.iter().enumerate() {
            version.validate().map_err(|why| format!("versions[{at}].{why}"))?;
            // Whose HSM is not here cannot be asked; that it will have all it needs can be seen.
            let masters = |all: &mut dyn Iterator<Item = &Encrypted>| -> BTreeSet<String> {
                all.map(|one| one.master.clone()).collect()
            };
            let is_there = !version.wraps.is_empty();
            if is_there && masters(&mut version.wraps.iter()) != masters(&mut self.seals()) {
                return Err(format!("versions[{at}].wraps: not under the masters of the seals"));
            }
            if at > 0 && self.versions[at - 1].version >= version.version {
                return Err(format!("versions[{at}].version: not above the one before it"));
            }
        }
        let mut primaries = self.versions.iter().filter(|v| v.state == VersionState::Primary);
        if primaries.next().map(|version| version.version) != Some(self.primary)
            || primaries.next().is_some()
        {
            return Err("primary: not the one version whose state is primary".to_owned());
        }
        validate_all("seal", self.seals())
    }
}

impl FileVersion {
    /// How it encrypts.
    pub fn cipher(&self) -> Cipher {
        if self.cipher == cipher_number(Cipher::Direct) { Cipher::Direct } else { Cipher::Derived }
    }

    /// What it may be used for at `now`.
    pub fn state_at(&self, now: OffsetDateTime) -> VersionState {
        let due = self.destroy_after.as_deref().and_then(moment).is_some_and(|at| at <= now);
        if due { VersionState::Destroyed } else { self.state }
    }

    fn validate(&self) -> Result<(), String> {
        if ![Cipher::Direct, Cipher::Derived].map(cipher_number).contains(&self.cipher) {
            return Err(format!("cipher: {} is none that this xksd knows", self.cipher));
        }
        let dates = [
            ("created", Some(&self.created)),
            ("promoted", self.promoted.as_ref()),
            ("destroy_after", self.destroy_after.as_ref()),
        ];
        for (name, date) in dates {
            if date.is_some_and(|date| moment(date).is_none()) {
                return Err(format!("{name}: not a time as RFC 3339 has it"));
            }
        }
        if self.destroy_after.is_some() && self.state != VersionState::Disabled {
            return Err("destroy_after: only a disabled version is to be destroyed".to_owned());
        }
        if self.check.0.len() != CHECK_BYTES {
            return Err(format!("check: not {CHECK_BYTES} bytes"));
        }
        if (self.state == VersionState::Destroyed) != self.wraps.is_empty() {
            return Err("wraps: empty exactly where the version is destroyed".to_owned());
        }
        validate_all("wraps", self.wraps.iter())
    }
}

fn validate_all<'a>(
    name: &str,
    all: impl Iterator<Item = &'a Encrypted> + Clone,
) -> Result<(), String> {
    if all.clone().count() > KEY_FILE_MASTERS_MAX {
        return Err(format!("{name}: more than {KEY_FILE_MASTERS_MAX} masters"));
    }
    for (at, one) in all.clone().enumerate() {
        if all.clone().take(at).any(|before| before.master == one.master) {
            return Err(format!("{name}: {:?} stands there twice", one.master));
        }
        let Encrypted { iv, ciphertext, tag, .. } = one;
        let lengths = (iv.0.len(), ciphertext.0.len(), tag.0.len());
        if !matches!(lengths, (12 | 16, KEY_BYTES, TAG_BYTES)) {
            return Err(format!("{name}: iv, ciphertext or tag has another length than it must"));
        }
    }
    Ok(())
}

/// As it stands in the file.
pub fn cipher_number(cipher: Cipher) -> u8 {
    match cipher {
        Cipher::Direct => 1,
        Cipher::Derived => 2,
    }
}

/// What a label of a key file is: it is a file's name, too.
pub const LABEL_FORM: &str =
    "a label has 1 to 64 of A-Z a-z 0-9 . _ -, and does not begin with a dot";

/// Whether this is a label of a key file.
pub fn is_label(text: &str) -> bool {
    (1..=KEY_FILE_LABEL_BYTES_MAX).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

pub(super) fn moment(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

/// A time as it stands in key files: whole seconds, UTC.
pub fn timestamp(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC).replace_nanosecond(0).unwrap_or(at);
    at.format(&Rfc3339).unwrap_or_default()
}
