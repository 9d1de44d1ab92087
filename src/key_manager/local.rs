//! The key manager without an HSM: AES-256-GCM by ring in this process, keys in a file. For trying
//! out.
//!
//! It never blocks, so it runs on the shard itself.

mod key_file;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::{
    Answer, Fault, InProcess, Job, KeyDescription, KeyRef, KeySpec, KeyUsage, ManagerInfo, Outcome,
    Plaintext, ProbeKey, Secret, Task, same_bytes,
};
use crate::limits::{IV_BLOCK, IV_BYTES, TAG_BYTES};

/// Bytes of an AES-256 key.
const KEY_BYTES: usize = 32;

/// A key manager of kind `local`.
pub struct Local {
    /// ring keeps the expanded keys; the file's text and the raw keys are zeroed once they are
    /// read.
    keys: HashMap<String, LessSafeKey>,
    test_key: LessSafeKey,
    random: SystemRandom,
    /// Drawn in blocks, each used once: a system call for each encryption was 2 % of a request's
    /// CPU time.
    ivs: Mutex<Vec<[u8; IV_BYTES]>>,
}

impl Local {
    /// Reads a key file: `{"keys":[{"label":"foo","key":"<32 bytes in base64>"}]}`, closed to other
    /// users. The error is for the operator.
    pub fn load(path: &Path) -> Result<Local, String> {
        let random = SystemRandom::new();
        let mut keys = HashMap::new();
        for (label, key) in key_file::read(path)? {
            keys.insert(label, cipher(&key)?);
        }
        let mut test_key = Zeroizing::new([0; KEY_BYTES]);
        random.fill(&mut *test_key).map_err(|_| NO_RANDOM.to_owned())?;
        Ok(Local { keys, test_key: cipher(&test_key)?, random, ivs: Mutex::default() })
    }

    /// Makes a key file with a random key for each label. Never overwrites a file.
    pub fn create(path: &Path, labels: &[&str]) -> Result<(), String> {
        key_file::create(path, labels, &SystemRandom::new())
    }

    /// Encrypts and decrypts under a key made at load, and compares.
    fn probe(&self) -> Result<(), Fault> {
        let text = [0; KEY_BYTES];
        let (iv, mut sealed) = self.seal(&self.test_key, &text, b"")?;
        match open(&self.test_key, iv, b"", &mut sealed) {
            Some(opened) if same_bytes(opened, &text) => Ok(()),
            _ => Err(mismatch()),
        }
    }

    fn encrypt(
        &self,
        key: &LessSafeKey,
        plaintext: &[u8],
        aad: &[u8],
        integrity: Option<digest::Context>,
    ) -> Outcome {
        let (iv, mut sealed) = self.seal(key, plaintext, aad)?;
        let integrity = match integrity {
            None => None,
            Some(mut context) => {
                // First the digest, then the decryption of the same bytes: see [`Task::Encrypt`].
                context.update(&iv);
                context.update(&sealed);
                let value = context.finish();
                let mut copy = sealed.clone();
                match open(key, iv, aad, &mut copy) {
                    Some(opened) if same_bytes(opened, plaintext) => {}
                    _ => return Err(mismatch()),
                }
                Some(std::array::from_fn(|n| value.as_ref()[n]))
            }
        };
        let tag = std::array::from_fn(|n| sealed[plaintext.len() + n]);
        sealed.truncate(plaintext.len());
        Ok(Answer::Encrypted {
            iv: iv.to_vec(),
            ciphertext: std::mem::take(&mut *sealed),
            tag,
            integrity,
        })
    }

    /// A fresh IV, and ciphertext ‖ tag.
    fn seal(
        &self,
        key: &LessSafeKey,
        plaintext: &[u8],
        aad: &[u8],
    ) -> Result<([u8; IV_BYTES], Secret), Fault> {
        let iv = self.fresh_iv()?;
        // Large enough from the start: growing would leave plaintext behind in freed memory.
        let mut sealed = Zeroizing::new(Vec::with_capacity(plaintext.len() + TAG_BYTES));
        sealed.extend_from_slice(plaintext);
        let tag = key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(iv),
                Aad::from(aad),
                &mut sealed,
            )
            .map_err(|_| Fault::Device { detail: "AES-GCM: not encrypted".to_owned() })?;
        sealed.extend_from_slice(tag.as_ref());
        Ok((iv, sealed))
    }

    fn fresh_iv(&self) -> Result<[u8; IV_BYTES], Fault> {
        let mut ivs = self.ivs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(iv) = ivs.pop() {
            return Ok(iv);
        }
        let mut block = [[0; IV_BYTES]; IV_BLOCK];
        self.random
            .fill(block.as_flattened_mut())
            .map_err(|_| Fault::Device { detail: NO_RANDOM.to_owned() })?;
        let [iv, left @ ..] = block;
        ivs.extend(left);
        Ok(iv)
    }
}

impl InProcess for Local {
    fn execute(&self, job: Job) -> Outcome {
        let Job { key: KeyRef { label, .. }, task, deadline } = job;
        let key = || {
            self.keys.get(&*label).ok_or_else(|| Fault::KeyNotFound {
                detail: format!("no key \"{label}\" in the key file as it was read"),
            })
        };
        if deadline <= Instant::now() {
            return Err(Fault::Timeout);
        }
        match task {
            Task::Describe => {
                key()?;
                Ok(Answer::Described(KeyDescription {
                    spec: KeySpec::AES_256,
                    usage: [KeyUsage::Encrypt, KeyUsage::Decrypt].into_iter().collect(),
                    enabled: true,
                }))
            }
            Task::Probe => self.probe().map(|()| Answer::Probed(ProbeKey::Own)),
            Task::Encrypt { plaintext, aad, integrity } => {
                self.encrypt(key()?, &plaintext, &aad, integrity)
            }
            Task::Decrypt { ciphertext, iv, tag, aad } => {
                let key = key()?;
                // ring's AES-GCM takes 12-byte IVs only. None other was ever made here, so a
                // ciphertext with one is not ours.
                let iv = <[u8; IV_BYTES]>::try_from(&iv[..]).map_err(|_| Fault::BadCiphertext)?;
                let text_bytes = ciphertext.len();
                let mut sealed = Zeroizing::new([&ciphertext[..], &tag].concat());
                if open(key, iv, &aad, &mut sealed).is_none() {
                    return Err(Fault::BadCiphertext);
                }
                sealed.truncate(text_bytes);
                Ok(Answer::Decrypted(Plaintext(sealed)))
            }
        }
    }

    fn info(&self) -> ManagerInfo {
        ManagerInfo {
            vendor: "xksd".to_owned(),
            model: "local key file".to_owned(),
            versions: format!("xksd {}", env!("CARGO_PKG_VERSION")),
            ..ManagerInfo::default()
        }
    }

    fn labels(&self) -> Vec<&str> {
        let mut labels: Vec<&str> = self.keys.keys().map(String::as_str).collect();
        labels.sort_unstable();
        labels
    }
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").field("labels", &self.labels()).finish_non_exhaustive()
    }
}

const NO_RANDOM: &str = "the operating system gives no random bytes";

fn mismatch() -> Fault {
    Fault::Device {
        detail: "integrity check: what was encrypted does not decrypt to what it was".to_owned(),
    }
}

fn cipher(key: &[u8; KEY_BYTES]) -> Result<LessSafeKey, String> {
    UnboundKey::new(&AES_256_GCM, key)
        .map(LessSafeKey::new)
        .map_err(|_| "not an AES-256 key".to_owned())
}

/// Decrypts in place; `None` when the tag does not match.
fn open<'a>(
    key: &LessSafeKey,
    iv: [u8; IV_BYTES],
    aad: &[u8],
    sealed: &'a mut [u8],
) -> Option<&'a [u8]> {
    key.open_in_place(Nonce::assume_unique_for_key(iv), Aad::from(aad), sealed)
        .ok()
        .map(|text| &*text)
}
