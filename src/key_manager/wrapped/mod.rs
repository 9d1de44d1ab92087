//! The key manager whose keys lie in files, wrapped by an HSM, and are used in this process.
//!
//! It never blocks: it runs on the shard itself. What opens the files and watches the HSM is the
//! control plane's (`control::unsealing`); here is what it opens them with, and what it may say.

pub mod edit;
mod folder;
pub mod key_file;
mod lease;
mod load;
mod loaded;
mod material;
mod not_loaded;
mod opening;
#[cfg(test)]
pub(crate) mod tests;
pub mod wrap;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use ring::aead::LessSafeKey;
use ring::rand::{SecureRandom, SystemRandom};
use secret_memory::{Arena, Protection, Slot, Wanted};
use zeroize::Zeroizing;

use super::aes_gcm::{self, NO_RANDOM, Nonces};
use super::{
    Answer, Fault, InProcess, Job, KeyDescription, KeyRef, ManagedVersion, ManagerInfo, Outcome,
    ProbeKey, Task,
};
use key_file::KEY_BYTES;
use material::Material;

pub use folder::{FileState, Folder};
pub use lease::{Finding, Lease, Standing};
pub use load::{To, load, load_first, look_at_hsm, needless_usage};
pub use loaded::{Canary, Epoch, Loaded};
pub use material::check_value;
pub use not_loaded::{NotLoaded, TakenAway};
pub use opening::{Opening, Round};

/// A key manager of kind `wrapped`.
pub struct Wrapped {
    /// What may be used now.
    table: ArcSwap<Table>,
    arena: Arena,
    test_key: Slot<LessSafeKey>,
    ivs: Nonces,
}

/// The keys that may be used, or why none may.
#[derive(Default)]
pub struct Table {
    /// By label.
    keys: HashMap<Arc<str>, Arc<Loaded>>,
    /// Files that were not opened, and why.
    refused: HashMap<Arc<str>, Refusal>,
    /// Why none may be used; `None` where they may.
    closed: Option<Closed>,
}

/// Why no key may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The HSM has not opened the key files yet.
    NotOpened(String),
    /// The HSM was away for too long.
    Away(String),
    /// The HSM says no.
    Refused(String),
    /// An operator has sealed it.
    Sealed(String),
}

/// Why the file of one key was not opened, while others may be in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the operator.
    pub why: String,
    /// It is no fault of the file: the HSM says no, to whoever asks.
    pub by_hsm: bool,
}

impl Refusal {
    fn fault(&self) -> Fault {
        let detail = self.why.clone();
        // A key whose file is not believed is not lost: its file is to be mended.
        if self.by_hsm { Fault::Sealed { detail, by_hsm: true } } else { Fault::Device { detail } }
    }
}

impl Closed {
    /// For the operator.
    pub fn why(&self) -> &str {
        match self {
            Closed::NotOpened(why)
            | Closed::Away(why)
            | Closed::Refused(why)
            | Closed::Sealed(why) => why,
        }
    }

    fn fault(&self) -> Fault {
        let detail = self.why().to_owned();
        match self {
            // KMS tries again: it will pass, for all that is known.
            Closed::NotOpened(_) | Closed::Away(_) => Fault::Device { detail },
            Closed::Refused(_) => Fault::Sealed { detail, by_hsm: true },
            Closed::Sealed(_) => Fault::Sealed { detail, by_hsm: false },
        }
    }
}

impl Wrapped {
    /// One whose keys are not opened yet.
    ///
    /// # Errors
    /// A sentence for the operator: there is no memory for secrets, or no random bytes.
    pub fn new(memory: Wanted) -> Result<Wrapped, String> {
        let arena = Arena::new(memory).map_err(|error| error.to_string())?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new().fill(&mut *key).map_err(|_| NO_RANDOM.to_owned())?;
        let test_key = arena
            .place(|| material::aead(&key).map_err(NotLoaded::Hsm))
            .map_err(|why| why.to_string())?;
        let table =
            Table { closed: Some(Closed::NotOpened(NOT_OPENED.to_owned())), ..Table::default() };
        Ok(Wrapped { table: ArcSwap::from_pointee(table), arena, test_key, ivs: Nonces::default() })
    }

    /// Where keys are put that are used here.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// How the memory of its keys is protected.
    pub fn protection(&self) -> Protection {
        self.arena.protection()
    }

    /// What may be used now.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// From now on these may be used, and no others.
    pub fn open(&self, keys: HashMap<Arc<str>, Arc<Loaded>>, refused: HashMap<Arc<str>, Refusal>) {
        self.table.store(Arc::new(Table { keys, refused, closed: None }));
    }

    /// From now on none may be used. Each key is overwritten in memory as soon as the last request
    /// that is at it has ended: at once, for no request waits while it uses a key.
    pub fn close(&self, closed: Closed) {
        self.table.store(Arc::new(Table { closed: Some(closed), ..Table::default() }));
    }

    /// The HSM no longer opens the files under these masters: their keys may not be used from now
    /// on, the others may. Gives those that are taken away.
    pub fn refuse(&self, masters: &[String], why: &str) -> Vec<(Arc<str>, String)> {
        let Table { keys, refused, closed: None } = &*self.table() else { return Vec::new() };
        let is_refused = |(_, key): &(&Arc<str>, &Arc<Loaded>)| key.canary.masters() == masters;
        let taken: Vec<Arc<str>> =
            keys.iter().filter(is_refused).map(|(label, _)| label.clone()).collect();
        if taken.is_empty() {
            return Vec::new();
        }
        let (mut keys, mut refused) = (keys.clone(), refused.clone());
        keys.retain(|label, _| !taken.contains(label));
        let refusal = Refusal { why: why.to_owned(), by_hsm: true };
        refused.extend(taken.iter().map(|label| (label.clone(), refusal.clone())));
        self.open(keys, refused);
        taken.into_iter().map(|label| (label, why.to_owned())).collect()
    }

    /// None may be used, for each file was refused.
    pub fn refuse_all(&self, refused: HashMap<Arc<str>, Refusal>, why: String) {
        let by_hsm = refused.values().all(|refusal| refusal.by_hsm);
        let closed = Some(if by_hsm { Closed::Refused(why) } else { Closed::NotOpened(why) });
        self.table.store(Arc::new(Table { keys: HashMap::new(), refused, closed }));
    }
}

impl Table {
    /// Why nothing may be used.
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    /// Each key, in no order.
    pub fn keys(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Loaded>)> {
        self.keys.iter()
    }

    /// One of them.
    pub fn key(&self, label: &str) -> Option<&Arc<Loaded>> {
        self.keys.get(label)
    }

    /// Files that were not opened, and why.
    pub fn refused(&self) -> impl Iterator<Item = (&Arc<str>, &str)> {
        self.refused.iter().map(|(label, refusal)| (label, refusal.why.as_str()))
    }

    fn find(&self, label: &str) -> Result<&Loaded, Fault> {
        if let (None, Some(key)) = (&self.closed, self.keys.get(label)) {
            return Ok(key);
        }
        Err(match (self.refused.get(label), &self.closed) {
            (Some(refusal), _) => refusal.fault(),
            (None, Some(closed)) => closed.fault(),
            (None, None) => {
                Fault::KeyNotFound { detail: format!("there is no key file for \"{label}\"") }
            }
        })
    }
}

const NOT_OPENED: &str = "the HSM has not opened the key files yet";

impl InProcess for Wrapped {
    fn execute(&self, job: Job) -> Outcome {
        let Job { key, task, deadline } = job;
        let table = self.table.load();
        if deadline <= Instant::now() {
            return Err(Fault::Timeout);
        }
        match task {
            Task::Describe => {
                table.find(&key.label)?;
                Ok(Answer::Described(KeyDescription::of_software_key()))
            }
            Task::Probe => {
                if let Some(closed) = &table.closed {
                    return Err(closed.fault());
                }
                aes_gcm::probe(&self.test_key, &self.ivs).map(|()| Answer::Probed(ProbeKey::Own))
            }
            Task::Encrypt { plaintext, aad, integrity } => with_key(&table, &key, |cipher| {
                aes_gcm::encrypt(cipher, &self.ivs, &plaintext, &aad, integrity)
            }),
            Task::Decrypt { ciphertext, iv, tag, aad } => with_key(&table, &key, |cipher| {
                aes_gcm::decrypt(cipher, &ciphertext, &iv, tag, &aad)
            }),
        }
    }

    fn info(&self) -> ManagerInfo {
        ManagerInfo {
            vendor: "xksd".to_owned(),
            model: "keys wrapped by an HSM".to_owned(),
            versions: format!("xksd {}", env!("CARGO_PKG_VERSION")),
            ..ManagerInfo::default()
        }
    }

    fn labels(&self) -> Vec<String> {
        let mut labels: Vec<String> =
            self.table.load().keys.keys().map(|l| l.to_string()).collect();
        labels.sort_unstable();
        labels
    }

    fn serves(&self) -> bool {
        self.table.load().closed.is_none()
    }

    fn why_closed(&self) -> Option<String> {
        self.table.load().closed.as_ref().map(|closed| closed.why().to_owned())
    }

    fn keeps_versions(&self) -> bool {
        true
    }

    fn versions(&self, label: &str) -> Option<Vec<ManagedVersion>> {
        self.table.load().keys.get(label).map(|key| key.versions().cloned().collect())
    }
}

/// Has the cipher of a job's key do something.
fn with_key(table: &Table, key: &KeyRef, execute: impl FnOnce(&LessSafeKey) -> Outcome) -> Outcome {
    let loaded = table.find(&key.label)?;
    match (loaded.material(key.version).ok_or_else(no_version)?, key.subkey) {
        (Material::Direct(cipher), None) => execute(cipher),
        // The message's own key is on the stack, and what it is computed with.
        (Material::Derived(base), Some(message)) => {
            secret_memory::on_wiped_stack(|| execute(&material::subkey(base, &key.label, message)?))
        }
        // The metadata is of the other format: no such ciphertext was ever made.
        _ => Err(Fault::BadCiphertext),
    }
}

/// Between a change of the files and the look at them by requests.
fn no_version() -> Fault {
    Fault::Device { detail: "this version of the key is not in memory".to_owned() }
}

impl std::fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wrapped").field("labels", &self.labels()).finish_non_exhaustive()
    }
}
