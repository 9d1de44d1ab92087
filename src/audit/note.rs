//! C2SP signed-note: a text, and lines below it that sign it. Ed25519.
//!
//! Pure: bytes to values and back.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use secret_memory::Slot;

use crate::limits::{AUDIT_CHECKPOINT_BYTES_MAX, AUDIT_ORIGIN_BYTES_MAX};
use crate::secret::arena;

pub(super) const PUBLIC_KEY_BYTES: usize = 32;

/// What signs: made in memory for secrets, where it stays. `None` if the seed is none, or there is
/// no such memory.
pub(super) fn key_pair(seed: &[u8]) -> Option<Slot<Ed25519KeyPair>> {
    let make = || Ed25519KeyPair::from_seed_unchecked(seed).map_err(|error| error.to_string());
    arena().ok()?.place(make).ok()
}
const SIGNATURE_BYTES: usize = 64;
/// What a signature line begins with: em dash and space.
const SIGNATURE_MARK: &str = "\u{2014} ";

/// Whether a text can be a log's origin and its key's name: "Key names MUST be non-empty and MUST
/// NOT contain any Unicode spaces or plus (U+002B) characters", signed-note; no control characters.
pub fn is_origin(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= AUDIT_ORIGIN_BYTES_MAX
        && !text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

/// Why a note is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAccepted {
    /// It is no signed note with a checkpoint in it.
    Malformed,
    /// It has no signature of the key.
    NotSigned,
    /// It has one, which is wrong: text, signature or key was changed.
    WrongSignature,
    /// It is of another log.
    OtherOrigin,
}

impl fmt::Display for NotAccepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotAccepted::Malformed => "it is not a signed checkpoint",
            NotAccepted::NotSigned => "it has no signature of this verifier key",
            NotAccepted::WrongSignature => "its signature is wrong",
            NotAccepted::OtherOrigin => "it is a checkpoint of another log",
        })
    }
}

/// A public key with its name and the kind of its signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    kind: u8,
    name: String,
    id: [u8; 4],
    public: [u8; PUBLIC_KEY_BYTES],
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = u32::from_be_bytes(self.id);
        let mut key = vec![self.kind];
        key.extend_from_slice(&self.public);
        write!(f, "{}+{id:08x}+{}", self.name, STANDARD.encode(key))
    }
}

impl Key {
    pub(super) fn new(kind: u8, name: &str, public: [u8; PUBLIC_KEY_BYTES]) -> Option<Key> {
        // "key ID = SHA-256(key name || 0x0A || signature type || public key)[:4]", signed-note.
        let mut hashed = name.as_bytes().to_vec();
        hashed.extend_from_slice(&[b'\n', kind]);
        hashed.extend_from_slice(&public);
        let id = *digest(&SHA256, &hashed).as_ref().first_chunk()?;
        is_origin(name).then(|| Key { kind, name: name.to_owned(), id, public })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its id in hex, as in the shown key.
    pub(super) fn id(&self) -> String {
        format!("{:08x}", u32::from_be_bytes(self.id))
    }

    /// Reads `name+id+key`.
    pub(super) fn parse(kind: u8, text: &str) -> Option<Key> {
        let mut parts = text.split('+');
        let (name, id) = (parts.next()?, parts.next()?);
        // Base64 may hold a plus.
        let key = STANDARD.decode(parts.collect::<Vec<_>>().join("+")).ok()?;
        let public = key.strip_prefix(&[kind])?.try_into().ok()?;
        Key::new(kind, name, public).filter(|key| key.id() == id)
    }

    /// The line that bears this signature, or what its kind puts there.
    pub(super) fn line(&self, signature: &[u8]) -> String {
        let bytes = [&self.id, signature].concat();
        format!("{SIGNATURE_MARK}{} {}\n", self.name, STANDARD.encode(bytes))
    }

    /// The note's text, and what stands in the lines of this key. Lines of other keys are ignored.
    pub(super) fn signatures<'n>(
        &self,
        note: &'n str,
    ) -> Result<(&'n str, Vec<Vec<u8>>), NotAccepted> {
        let no_control = |c: char| c == '\n' || !c.is_ascii_control();
        if note.len() > AUDIT_CHECKPOINT_BYTES_MAX || !note.chars().all(no_control) {
            return Err(NotAccepted::Malformed);
        }
        let (text, lines) = split(note).ok_or(NotAccepted::Malformed)?;
        let mut found = Vec::new();
        for line in lines.lines() {
            let (name, bytes) = parse_signature(line).ok_or(NotAccepted::Malformed)?;
            let (id, signature) = bytes.split_first_chunk().ok_or(NotAccepted::Malformed)?;
            if name == self.name && *id == self.id {
                found.push(signature.to_vec());
            }
        }
        Ok((text, found))
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), NotAccepted> {
        let right = signature.len() == SIGNATURE_BYTES
            && UnparsedPublicKey::new(&ED25519, &self.public).verify(message, signature).is_ok();
        if right { Ok(()) } else { Err(NotAccepted::WrongSignature) }
    }
}

/// Text with its last newline, and signature lines: "the text is separated from the signatures by
/// the last empty line in the note".
pub(super) fn split(note: &str) -> Option<(&str, &str)> {
    let at = note.rfind("\n\n")?;
    let (text, signatures) = (&note[..=at], &note[at + 2..]);
    (signatures.ends_with('\n') && signatures.len() > 1).then_some((text, signatures))
}

fn parse_signature(line: &str) -> Option<(&str, Vec<u8>)> {
    let (name, signature) = line.strip_prefix(SIGNATURE_MARK)?.split_once(' ')?;
    Some((name, STANDARD.decode(signature).ok()?))
}

/// The notes of a file of checkpoints: one after the other, each followed by an empty line.
pub fn notes(log: &str) -> impl Iterator<Item = &str> {
    // A note has one empty line between text and signatures, and a checkpoint's text has none.
    let mut rest = log;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let signatures = rest.find("\n\n").map(|at| at + 2);
        let end = signatures
            .and_then(|from| Some(from + rest.get(from..)?.find("\n\n")?))
            .map_or(rest.len(), |at| at + 1);
        let (note, after) = rest.split_at(end);
        rest = after.strip_prefix('\n').unwrap_or(after);
        Some(note)
    })
}
