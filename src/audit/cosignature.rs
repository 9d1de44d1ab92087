//! Cosignatures: a witness states that a checkpoint goes on from all that it has seen of its log.
//! C2SP tlog-cosignature, `cosignature/v1`, Ed25519.
//!
//! Pure: bytes to values and back.

use std::fmt;

use ring::signature::{Ed25519KeyPair, KeyPair};
use secret_memory::Slot;

use super::note::{self, NotAccepted};

/// "SHA-256(<name> || "\n" || 0x04 || 32-byte Ed25519 cosigner public key)[:4]", tlog-cosignature.
const COSIGNATURE_TYPE: u8 = 0x04;

/// Signs for a witness.
pub struct Cosigner {
    pair: Slot<Ed25519KeyPair>,
    key: CosignerKey,
}

impl Cosigner {
    /// `seed`: an Ed25519 private key of RFC 8032, 32 bytes. `None` if it is no such key or the
    /// name is no name.
    pub fn new(seed: &[u8], name: &str) -> Option<Cosigner> {
        let pair = note::key_pair(seed)?;
        let public = pair.public_key().as_ref().try_into().ok()?;
        let key = note::Key::new(COSIGNATURE_TYPE, name, public)?;
        Some(Cosigner { pair, key: CosignerKey(key) })
    }

    /// Verifies what this signs.
    pub fn key(&self) -> &CosignerKey {
        &self.key
    }

    /// The line that cosigns a checkpoint's text, at `time` (seconds since 1970).
    pub(super) fn line(&self, text: &str, time: u64) -> String {
        let signature = self.pair.sign(signed(text, time).as_bytes());
        self.key.0.line(&[&time.to_be_bytes(), signature.as_ref()].concat())
    }
}

/// "two newline terminated lines (one header line and one timestamp line) followed by the whole
/// note body of the cosigned checkpoint", tlog-cosignature.
fn signed(text: &str, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// A witness's name and public key, shown and read as `name+id+key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CosignerKey(note::Key);

impl fmt::Display for CosignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl CosignerKey {
    /// Reads `name+id+key`.
    pub fn parse(text: &str) -> Option<CosignerKey> {
        note::Key::parse(COSIGNATURE_TYPE, text).map(CosignerKey)
    }

    /// The witness's name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Short name of the key, hex.
    pub fn id(&self) -> String {
        self.0.id()
    }

    /// When this witness cosigned the note, seconds since 1970.
    ///
    /// # Errors
    /// Where it did not, or its line is wrong.
    pub fn cosigned_at(&self, note: &str) -> Result<u64, NotAccepted> {
        let (text, lines) = self.0.signatures(note)?;
        let mut newest = None;
        for line in &lines {
            let Some((time, signature)) = line.split_first_chunk() else {
                return Err(NotAccepted::WrongSignature);
            };
            let time = u64::from_be_bytes(*time);
            self.0.verify(signed(text, time).as_bytes(), signature)?;
            newest = newest.max(Some(time));
        }
        newest.ok_or(NotAccepted::NotSigned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::checkpoint::Signer;
    use crate::audit::note::split;

    #[test]
    fn a_cosignature_is_accepted_and_no_other_byte() {
        let cosigner = Cosigner::new(&[9; 32], "witness.example/w1").unwrap();
        let note = Signer::new(&[7; 32], "a.example/b").unwrap().sign(42, [5; 32]);
        let key = cosigner.key();
        assert_eq!(key.cosigned_at(&note), Err(NotAccepted::NotSigned));
        let cosigned = note.clone() + &cosigner.line(split(&note).unwrap().0, 1_700_000_000);
        assert_eq!(key.cosigned_at(&cosigned), Ok(1_700_000_000));
        // Where the log's own line is changed, the witness's still says what it says.
        let own = note.rfind("\n\n").unwrap()..note.len();
        for at in (0..cosigned.len()).filter(|at| !own.contains(at)) {
            let mut bytes = cosigned.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(key.cosigned_at(&changed).is_err(), "byte {at}: {changed}");
            }
        }
        assert_eq!(CosignerKey::parse(&key.to_string()).as_ref(), Some(key));
        let of_a_log = Signer::new(&[9; 32], "witness.example/w1").unwrap();
        assert_eq!(CosignerKey::parse(&of_a_log.verifier().to_string()), None, "another kind");
    }
}
