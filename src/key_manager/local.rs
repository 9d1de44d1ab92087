//! The key manager without an HSM: AES-256-GCM by ring in this process, keys in a file. For trying
//! out.
//!
//! It never blocks, so it runs on the shard itself.

mod key_file;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use secret_memory::{Arena, Protection, Slot, Wanted};
use zeroize::Zeroizing;

use super::aes_gcm::{self, NO_RANDOM, Nonces};
use super::{
    Answer, Fault, InProcess, Job, KeyDescription, KeyRef, ManagerInfo, Outcome, ProbeKey, Task,
};

/// Bytes of an AES-256 key.
const KEY_BYTES: usize = 32;

type RawKey = Zeroizing<[u8; KEY_BYTES]>;

/// A key manager of kind `local`.
pub struct Local {
    /// One copy of each key: made in its slot, after which the stack is overwritten. The file's
    /// text is zeroed.
    keys: HashMap<String, Slot<LessSafeKey>>,
    test_key: Slot<LessSafeKey>,
    protection: Protection,
    ivs: Nonces,
}

impl Local {
    /// Reads a key file: `{"keys":[{"label":"foo","key":"<32 bytes in base64>"}]}`, closed to other
    /// users. The error is for the operator.
    pub fn load(path: &Path) -> Result<Local, String> {
        let arena = Arena::new(Wanted::Prefer)?;
        let keys = key_file::read(path, &arena)?;
        let test_key = arena.place(|| {
            let mut key: RawKey = Zeroizing::default();
            SystemRandom::new().fill(&mut *key).map_err(|_| NO_RANDOM.to_owned())?;
            cipher(&key)
        })?;
        Ok(Local { keys, test_key, protection: arena.protection(), ivs: Nonces::default() })
    }

    /// Makes a key file with a random key for each label. Never overwrites a file.
    pub fn create(path: &Path, labels: &[&str]) -> Result<(), String> {
        key_file::create(path, labels, &SystemRandom::new())
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
                Ok(Answer::Described(KeyDescription::of_software_key()))
            }
            Task::Probe => {
                aes_gcm::probe(&self.test_key, &self.ivs).map(|()| Answer::Probed(ProbeKey::Own))
            }
            Task::Encrypt { plaintext, aad, integrity } => {
                aes_gcm::encrypt(key()?, &self.ivs, &plaintext, &aad, integrity)
            }
            Task::Decrypt { ciphertext, iv, tag, aad } => {
                aes_gcm::decrypt(key()?, &ciphertext, &iv, tag, &aad)
            }
        }
    }

    fn info(&self) -> ManagerInfo {
        ManagerInfo {
            vendor: "xksd".to_owned(),
            model: "local key file".to_owned(),
            versions: format!(
                "xksd {}, keys in memory of {}",
                env!("CARGO_PKG_VERSION"),
                self.protection
            ),
            ..ManagerInfo::default()
        }
    }

    fn labels(&self) -> Vec<String> {
        let mut labels: Vec<String> = self.keys.keys().cloned().collect();
        labels.sort_unstable();
        labels
    }
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").field("labels", &self.labels()).finish_non_exhaustive()
    }
}

fn cipher(key: &RawKey) -> Result<LessSafeKey, String> {
    UnboundKey::new(&AES_256_GCM, &**key)
        .map(LessSafeKey::new)
        .map_err(|_| "not an AES-256 key".to_owned())
}
