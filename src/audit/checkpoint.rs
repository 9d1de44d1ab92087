//! Checkpoints: a signed statement of what the tree is at one size. C2SP tlog-checkpoint in a C2SP
//! signed-note, Ed25519.
//!
//! Pure: bytes to values and back.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use secret_memory::Slot;

pub use super::note::is_origin;
use super::note::{self, NotAccepted};
use super::tree::Hash;

/// Signature type of a note: "Ed25519 signatures as specified by this document", signed-note.
const ED25519_TYPE: u8 = 0x01;

/// Size and root of a tree, with the name of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: the first line.
    pub origin: String,
    /// Number of records.
    pub size: u64,
    /// RFC 6962 root of the tree over them.
    pub root: Hash,
}

impl Checkpoint {
    /// What is signed: three lines.
    pub(super) fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    pub(super) fn parse_text(text: &str) -> Option<Checkpoint> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let root = STANDARD.decode(root).ok()?.try_into().ok()?;
        let number: u64 = size.parse().ok()?;
        // No sign and no leading zeros; extension lines are allowed, and must not be empty.
        let canonical = number.to_string() == size;
        (canonical && !origin.is_empty() && lines.all(|line| !line.is_empty()))
            .then(|| Checkpoint { origin: origin.to_owned(), size: number, root })
    }
}

/// Signs checkpoints under the log's origin.
pub struct Signer {
    pair: Slot<Ed25519KeyPair>,
    verifier: Verifier,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.verifier)
    }
}

impl Signer {
    /// `seed`: an Ed25519 private key of RFC 8032, 32 bytes. `None` if it is no such key or the
    /// origin is no origin.
    pub fn new(seed: &[u8], origin: &str) -> Option<Signer> {
        let pair = note::key_pair(seed)?;
        let public = pair.public_key().as_ref().try_into().ok()?;
        let verifier = Verifier::new(origin, public)?;
        Some(Signer { pair, verifier })
    }

    /// Verifies what this signs.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The note that states this tree.
    pub fn sign(&self, size: u64, root: Hash) -> String {
        let text = Checkpoint { origin: self.verifier.name().to_owned(), size, root }.text();
        let line = self.verifier.0.line(self.pair.sign(text.as_bytes()).as_ref());
        format!("{text}\n{line}")
    }
}

/// A verifier key: name and public key. Shown and read in the form of signed notes,
/// `name+id+key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier(note::Key);

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Verifier {
    fn new(name: &str, public: [u8; note::PUBLIC_KEY_BYTES]) -> Option<Verifier> {
        note::Key::new(ED25519_TYPE, name, public).map(Verifier)
    }

    /// The log's origin.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Reads `name+id+key`.
    pub fn parse(text: &str) -> Option<Verifier> {
        note::Key::parse(ED25519_TYPE, text).map(Verifier)
    }

    /// Reads a note and checks its signature and origin.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn open(&self, note: &str) -> Result<Checkpoint, NotAccepted> {
        let (text, signatures) = self.0.signatures(note)?;
        let checkpoint = Checkpoint::parse_text(text).ok_or(NotAccepted::Malformed)?;
        for signature in &signatures {
            self.0.verify(text.as_bytes(), signature)?;
        }
        if signatures.is_empty() {
            return Err(NotAccepted::NotSigned);
        }
        if checkpoint.origin != self.name() {
            return Err(NotAccepted::OtherOrigin);
        }
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::super::note::notes;
    use super::*;
    use crate::audit::tree::HASH_BYTES;
    use crate::limits::AUDIT_ORIGIN_BYTES_MAX;

    const ORIGIN: &str = "xks.bank.example/site-a";

    fn signer() -> Signer {
        Signer::new(&[7; 32], ORIGIN).unwrap()
    }

    #[test]
    fn what_is_signed_is_accepted_and_every_changed_byte_is_not() {
        let signer = signer();
        let note = signer.sign(42, [5; HASH_BYTES]);
        let opened = signer.verifier().open(&note).unwrap();
        assert_eq!((opened.size, opened.root, &*opened.origin), (42, [5; HASH_BYTES], ORIGIN));
        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(signer.verifier().open(&changed).is_err(), "byte {at}: {changed}");
            }
        }
        for end in 0..note.len() {
            if let Some(cut) = note.get(..end) {
                assert!(signer.verifier().open(cut).is_err(), "cut at {end}");
            }
        }
    }

    #[test]
    fn other_keys_and_origins_are_told_apart() {
        let note = signer().sign(1, [1; HASH_BYTES]);
        let other_key = Signer::new(&[8; 32], ORIGIN).unwrap();
        assert_eq!(other_key.verifier().open(&note), Err(NotAccepted::NotSigned));
        let other_log = Signer::new(&[7; 32], "other").unwrap();
        assert_eq!(other_log.verifier().open(&note), Err(NotAccepted::NotSigned));
        let cosigned = format!("{note}\u{2014} witness.example AAAAAAAA\n");
        assert!(signer().verifier().open(&cosigned).is_ok(), "signatures of others are ignored");
    }

    #[test]
    fn numbers_are_canonical_and_control_characters_refused() {
        let signer = signer();
        let signed = |text: &str| {
            let signature = signer.pair.sign(text.as_bytes());
            format!("{text}\n{}", signer.verifier.0.line(signature.as_ref()))
        };
        let root = STANDARD.encode([0; HASH_BYTES]);
        let open = |text: String| signer.verifier().open(&signed(&text)).map(|found| found.size);
        assert_eq!(open(format!("{ORIGIN}\n7\n{root}\n")), Ok(7));
        assert_eq!(open(format!("{ORIGIN}\n7\n{root}\nextension\n")), Ok(7));
        for size in ["07", "+7", "-7", " 7", "", "18446744073709551616", "7\r"] {
            assert_eq!(open(format!("{ORIGIN}\n{size}\n{root}\n")), Err(NotAccepted::Malformed));
        }
        assert_eq!(open(format!("other\n7\n{root}\n")), Err(NotAccepted::OtherOrigin));
        assert_eq!(open(format!("{ORIGIN}\n7\n{}\n", &root[4..])), Err(NotAccepted::Malformed));
    }

    #[test]
    fn verifier_keys_are_read_as_they_are_shown() {
        let verifier = signer().verifier().clone();
        assert_eq!(Verifier::parse(&verifier.to_string()), Some(verifier.clone()));
        let shown = verifier.to_string();
        for wrong in ["", "a+b", &shown[1..], &shown[..shown.len() - 4], &format!("{shown}A")] {
            assert_eq!(Verifier::parse(wrong), None, "{wrong}");
        }
    }

    /// The signed-note crate is somebody else's reading of the specification.
    #[test]
    fn another_implementation_accepts_note_and_verifier_key() {
        use signed_note::{Note, StandardVerifier, VerifierList};
        let note = signer().sign(3, [9; HASH_BYTES]);
        let key = signer().verifier().to_string();
        let verifier = StandardVerifier::new(&key).unwrap();
        let known = VerifierList::new(vec![Box::new(verifier)]);
        let (signed, unknown) = Note::from_bytes(note.as_bytes()).unwrap().verify(&known).unwrap();
        assert_eq!((signed.len(), unknown.len()), (1, 0));
    }

    #[test]
    fn a_file_of_notes_falls_apart_into_them() {
        let signer = signer();
        let all: Vec<String> = (0..3).map(|size| signer.sign(size, [1; HASH_BYTES])).collect();
        let file: String = all.iter().map(|note| format!("{note}\n")).collect();
        assert_eq!(notes(&file).collect::<Vec<_>>(), all);
        assert_eq!(notes("").count(), 0);
        let cut = &file[..file.len() - 10];
        assert_eq!(notes(cut).count(), 3, "the last one is there, and wrong");
    }

    #[test]
    fn origins_have_no_spaces_no_plus_and_a_bound() {
        assert!(is_origin(ORIGIN) && is_origin(&"a".repeat(AUDIT_ORIGIN_BYTES_MAX)));
        for wrong in ["", "a b", "a+b", "a\n", "a\u{a0}b", &"a".repeat(AUDIT_ORIGIN_BYTES_MAX + 1)]
        {
            assert!(!is_origin(wrong), "{wrong:?}");
        }
        assert!(Signer::new(&[1; 31], ORIGIN).is_none() && Signer::new(&[1; 32], "a b").is_none());
    }
}
