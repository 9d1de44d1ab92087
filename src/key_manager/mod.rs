//! Key managers: a job in, an outcome out. Knows nothing of HTTP, the XKS API or authentication.
//!
//! A kind of key manager is one of two things: [`InProcess`] does a [`Job`] at once on the thread
//! that asks; [`Engine`] opens [`Session`]s, which do one job at a time and block while they do.

#![deny(unsafe_code)]

mod aes_gcm;
mod description;
mod listing;
pub mod local;
pub mod pkcs11;
pub mod replica_check;
pub mod unrequested;
mod version;
pub mod wrapped;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use zeroize::Zeroizing;

use crate::limits::TAG_BYTES;
use crate::secret::SecretString;

pub use aes_gcm::Nonces;
pub use description::{KeyDescription, KeySpec, KeyUsage, KeyUsages};
pub use listing::{KeyListing, TokenKeys};
pub use version::{Cipher, ManagedVersion, VersionState};

/// Bytes that are overwritten when dropped: plaintext.
pub type Secret = Zeroizing<Vec<u8>>;

/// One version of a key in a key manager.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRef {
    /// CKA_LABEL of the key (or the name in a local key file).
    pub label: Arc<str>,
    /// Version of the key. A key manager whose versions have different labels goes by the label
    /// and leaves this aside.
    pub version: u16,
    /// Of the keys that are derived from it: which one. [`Cipher::Derived`] has one a message.
    pub subkey: Option<[u8; SUBKEY_BYTES]>,
}

/// Random bytes that tell a message's key from others.
pub const SUBKEY_BYTES: usize = 12;

impl KeyRef {
    /// Version 0: the first one, and the only one of a key without versions.
    pub fn first(label: impl Into<Arc<str>>) -> KeyRef {
        KeyRef { label: label.into(), version: 0, subkey: None }
    }
}

/// One piece of work for a key manager.
pub struct Job {
    /// With which key.
    pub key: KeyRef,
    /// What to do with it.
    pub task: Task,
    /// After this instant nobody waits for the outcome any more: between two HSM calls a session
    /// gives up.
    pub deadline: Instant,
}

/// What a job asks for.
#[derive(Clone)]
pub enum Task {
    /// Read the key's attributes and tell them.
    Describe,
    /// As [`Session::probe`], and without a key as far as that goes; the job's key means nothing.
    Probe,
    /// AES-GCM with a fresh 96-bit IV and a 128-bit tag.
    Encrypt {
        /// To be encrypted; zeroed when the job is dropped.
        plaintext: Secret,
        /// AAD exactly as the HSM gets it.
        aad: Vec<u8>,
        /// When given: SHA-256 already fed with what precedes the IV. The session appends IV ‖
        /// ciphertext ‖ tag, finishes the digest, and **then** decrypts the same bytes in the HSM
        /// and compares the plaintext; only then the outcome is a success.
        integrity: Option<ring::digest::Context>,
    },
    /// AES-GCM decryption; `iv` is 12 or 16 bytes.
    Decrypt {
        /// As long as the plaintext.
        ciphertext: Vec<u8>,
        /// Initialisation vector.
        iv: Vec<u8>,
        /// Authentication tag.
        tag: [u8; TAG_BYTES],
        /// AAD exactly as the HSM gets it.
        aad: Vec<u8>,
    },
}

/// Label and lengths alone: a job holds plaintext.
impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let label = &self.key.label;
        match &self.task {
            Task::Describe => write!(f, "describe {label:?}"),
            Task::Probe => write!(f, "probe"),
            Task::Encrypt { plaintext, .. } => {
                write!(f, "encrypt {} bytes under {label:?}", plaintext.len())
            }
            Task::Decrypt { ciphertext, .. } => {
                write!(f, "decrypt {} bytes under {label:?}", ciphertext.len())
            }
        }
    }
}

/// How a job ended.
pub type Outcome = Result<Answer, Fault>;

/// A job's good end.
#[derive(Debug)]
pub enum Answer {
    /// For [`Task::Describe`].
    Described(KeyDescription),
    /// For [`Task::Probe`]: encrypts and decrypts under this key.
    Probed(ProbeKey),
    /// For [`Task::Encrypt`].
    Encrypted {
        /// The IV that was used, 12 bytes (16 where the HSM insists).
        iv: Vec<u8>,
        /// As long as the plaintext.
        ciphertext: Vec<u8>,
        /// Authentication tag.
        tag: [u8; TAG_BYTES],
        /// The finished digest, exactly when the task had `integrity`.
        integrity: Option<[u8; 32]>,
    },
    /// For [`Task::Decrypt`].
    Decrypted(Plaintext),
}

/// Under which key a probe encrypted and decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKey {
    /// One that was made for that.
    Own,
    /// One that requests use, because the key manager makes none for probes.
    InUse,
    /// None: it makes none for probes, and none in use is known. A session answers, and that is
    /// all that is known.
    None,
}

/// Decrypted bytes: zeroed on drop, never shown by `Debug`.
pub struct Plaintext(pub Secret);

impl std::fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plaintext({} bytes)", self.0.len())
    }
}

/// How a job failed. The distinction decides what AWS KMS does: it retries device faults, never bad
/// ciphertext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No key of that label, or more than one (`detail` tells).
    KeyNotFound {
        /// For the operator's log.
        detail: String,
    },
    /// Outside its start and end date, or disabled by the key manager.
    KeyDisabled,
    /// The key is not AES-256, or its attributes do not allow the operation.
    KeyUsage,
    /// The key manager refuses to use the key so, whatever its attributes say. `detail` names key,
    /// call and code.
    KeyRefused {
        /// For the operator's log; no secrets.
        detail: String,
    },
    /// The tag does not match: ciphertext, IV, tag or AAD are not what was encrypted under this
    /// key.
    BadCiphertext,
    /// The key manager failed. `detail` names call and code (`C_Encrypt: CKR_DEVICE_ERROR`), never
    /// data.
    Device {
        /// For the operator's log; no secrets.
        detail: String,
    },
    /// No key may be used: an operator, or the HSM that opens them, says so.
    Sealed {
        /// For the operator's log; no secrets.
        detail: String,
        /// The HSM does, not an operator.
        by_hsm: bool,
    },
    /// The key manager says it has too much to do.
    Busy,
    /// Not done by the job's deadline.
    Timeout,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Fault::KeyNotFound { detail }
            | Fault::KeyRefused { detail }
            | Fault::Device { detail }
            | Fault::Sealed { detail, .. } => detail,
            Fault::KeyDisabled => "the key is disabled, or outside its start and end date",
            Fault::KeyUsage => "the key is not an AES-256 key that allows this operation",
            Fault::BadCiphertext => "the ciphertext is not what was encrypted under this key",
            Fault::Busy => "the key manager says it has too much to do",
            Fault::Timeout => "not done by its deadline",
        })
    }
}

/// What a probe or `xksd keys` learns of a key manager.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManagerInfo {
    /// Maker of the library or token.
    pub vendor: String,
    /// Token model.
    pub model: String,
    /// Token label.
    pub token: String,
    /// Token serial number.
    pub serial: String,
    /// Library version, hardware and firmware version as the module says: `library 2.6, firmware
    /// 2.6`.
    pub versions: String,
    /// Of the library in this process.
    pub library: LibraryState,
}

impl ManagerInfo {
    /// Which HSM it is, as far as it says so: the same from whatever machine it is used, and after
    /// an update.
    pub fn hsm(&self) -> String {
        words(&[&self.model, &self.token, &self.serial])
    }

    /// The same with its versions.
    pub fn shown(&self) -> String {
        words(&[&self.model, &self.token, &self.serial, &self.versions])
    }
}

fn words(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    parts.join(", ")
}

/// How a key manager's library fares in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LibraryState {
    /// How often it was initialised.
    pub initializations: u64,
    /// Why it cannot be had back without a restart of the process, and since when that is so.
    pub stuck: Option<Stuck>,
}

/// A library whose threads do not come back, which forbids initialising it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// For the operator.
    pub why: String,
    /// Of this condition.
    pub since: Instant,
}

/// A key that fails where other keys work. No calls are spent on it but one now and then, to see
/// whether it was mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedKey {
    /// Its name in the key manager.
    pub label: Arc<str>,
    /// For the operator: names key, call and code.
    pub why: String,
    /// Since when.
    pub since: Instant,
}

/// How a key manager does, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// All is well.
    Active,
    /// Serves, with fewer sessions than it should have.
    Degraded,
    /// Does not serve.
    Unavailable,
}

/// How many sessions at work do any good, by where a key manager computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// In a device: sessions wait for it side by side.
    PerSession,
    /// In this process, on as many cores as there are: more busy sessions than cores only contend.
    PerCore,
    /// In this process, one thing at a time: a second busy session makes the first one slower.
    Single,
}

/// A key manager that computes in this process, on the thread that asks, and never blocks it.
pub trait InProcess: Send + Sync + 'static {
    /// Does the job.
    fn execute(&self, job: Job) -> Outcome;
    /// Vendor, model, versions.
    fn info(&self) -> ManagerInfo;
    /// The keys' labels, sorted.
    fn labels(&self) -> Vec<String>;
    /// Whether any key may be used now. Asked for each request.
    fn serves(&self) -> bool {
        true
    }
    /// Why none may, for the operator.
    fn why_closed(&self) -> Option<String> {
        None
    }
    /// Whether it knows itself which versions its keys have.
    fn keeps_versions(&self) -> bool {
        false
    }
    /// The versions of a key; `None` where they are not known now, or kept elsewhere.
    fn versions(&self, _label: &str) -> Option<Vec<ManagedVersion>> {
        None
    }
}

/// Opens sessions on one key manager.
pub trait Engine: Send + Sync + 'static {
    /// A new session, logged in and ready. Blocks; may hang as the module hangs. Called on the
    /// thread that will own the session.
    fn open(&self) -> Result<Box<dyn Session>, Fault>;
    /// Lets go of what it holds beside its sessions, once they are all closed. Blocks.
    fn close(&self) {}
    /// Vendor, model, token, versions. Blocks.
    fn info(&self) -> Result<ManagerInfo, Fault>;
    /// What each of these keys is, in their order, as by [`Task::Describe`]; [`Fault::Timeout`] of
    /// one of which nothing is known now. Asked in a session beside those that serve, with pauses
    /// for their sake; `None` if there is none left. Blocks for as long as that takes, minutes
    /// where there are many keys, and may hang as the module hangs; [`Engine::close`] ends it.
    ///
    /// # Errors
    /// Where nothing could be found out.
    fn describe_keys(&self, _keys: &[KeyRef]) -> Result<Option<Vec<Outcome>>, Fault> {
        Ok(None)
    }
    /// The secret keys that it holds, sorted by label. Opens a session for it, so a wrong PIN
    /// counts as one try. Blocks.
    fn list(&self) -> Result<TokenKeys, Fault> {
        Ok(TokenKeys::default())
    }
    /// How its library fares. Does not block.
    fn library(&self) -> LibraryState {
        LibraryState::default()
    }
    /// From now on another PIN, for the next login. One that is refused is tried once. Does not
    /// block.
    fn set_pin(&self, _pin: SecretString) {}
    /// Why its PIN is not tried any more; `None` where it is not refused. Does not block.
    fn refused_pin(&self) -> Option<String> {
        None
    }
    /// Keys that fail where others work. Does not block.
    fn refused_keys(&self) -> Vec<RefusedKey> {
        Vec::new()
    }
    /// Encryptions under keys of customers that it has made of its own accord since the last call.
    fn unrequested_encryptions(&self) -> HashMap<Arc<str>, u64> {
        HashMap::new()
    }
    /// How many busy sessions do any good.
    fn concurrency(&self) -> Concurrency;
}

/// One session with a key manager, owned by one thread.
pub trait Session {
    /// Does the job. After [`Fault::Device`] ask [`Session::is_usable`].
    fn execute(&mut self, job: Job) -> Outcome;
    /// Encrypts and decrypts under a session test key (never a customer's) and compares.
    fn probe(&mut self) -> Result<(), Fault>;
    /// To be asked before a session that may have waited long is given work: finds out, with a call
    /// at the most, whether it was lost meanwhile, if there is reason to think so. False: as
    /// [`Session::is_usable`].
    fn check(&mut self) -> bool {
        self.is_usable()
    }
    /// False when the session must be closed (dropped) and opened again: lost, or left with an
    /// operation unfinished.
    fn is_usable(&self) -> bool;
    /// Fills `bytes` from the key manager's generator.
    fn random(&mut self, _bytes: &mut [u8]) -> Result<(), Fault> {
        Err(Fault::Device { detail: "it gives no random bytes".to_owned() })
    }
}

/// Whether both are the same bytes, in a time that depends on the lengths alone: plaintext is
/// compared with it.
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    // black_box keeps the compiler from leaving the loop at the first difference.
    a.len() == b.len()
        && std::hint::black_box(a.iter().zip(b).fold(0, |differing, (x, y)| differing | (x ^ y)))
            == 0
}
