//! A key that was opened: its versions as they are used, and what shows whether an HSM opens it.

use std::sync::Arc;

use super::key_file::{Encrypted, FileVersion, KeyFile};
use super::material::Material;
use crate::key_manager::{ManagedVersion, same_bytes};

/// A key that was opened.
pub struct Loaded {
    /// Which file it was.
    pub epoch: Epoch,
    /// By number, ascending.
    pub(super) versions: Vec<Version>,
    pub(super) canary: Canary,
}

/// What an HSM must go on opening, as long as keys may be used that it opened. Has nothing to do
/// with the keys themselves, so that they can be overwritten while an HSM is asked.
#[derive(Clone)]
pub struct Canary {
    pub(super) digest: [u8; 32],
    pub(super) seals: Vec<Encrypted>,
}

impl Canary {
    /// Of a file, whether it is to be believed or not.
    pub fn of(file: &KeyFile) -> Canary {
        Canary { digest: file.digest(), seals: file.seals().cloned().collect() }
    }

    /// The masters that the file is sealed under. What an HSM says of one such file, it says of
    /// all that have the same.
    pub fn masters(&self) -> Vec<&str> {
        self.seals.iter().map(|seal| seal.master.as_str()).collect()
    }
}

/// Which of a key's files: each change gives another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Of the folder.
    pub set: String,
    /// Counted.
    pub number: u64,
    /// SHA-256 of the file, hexadecimal.
    pub fingerprint: String,
}

pub(super) struct Version {
    pub(super) managed: ManagedVersion,
    pub(super) created: String,
    pub(super) check: Vec<u8>,
    /// Where it is used.
    pub(super) material: Option<Arc<Material>>,
}

impl Epoch {
    /// Of a file.
    pub fn of(file: &KeyFile) -> Epoch {
        let (set, fingerprint) = (file.set.clone(), file.fingerprint());
        Epoch { set, number: file.epoch, fingerprint }
    }
}

impl Loaded {
    /// All versions, by number.
    pub fn versions(&self) -> impl Iterator<Item = &ManagedVersion> {
        self.versions.iter().map(|version| &version.managed)
    }

    /// What shows whether the HSM still opens it.
    pub fn canary(&self) -> &Canary {
        &self.canary
    }

    pub(super) fn material(&self, number: u16) -> Option<&Material> {
        let at = self.versions.binary_search_by_key(&number, |v| v.managed.number).ok()?;
        self.versions[at].material.as_deref()
    }

    /// The same key in memory, if the file still has it.
    pub(super) fn same_material(&self, version: &FileVersion) -> Option<Arc<Material>> {
        let known = self.versions.iter().find(|known| known.managed.number == version.version)?;
        let same = known.created == version.created
            && known.managed.cipher == version.cipher()
            && same_bytes(&known.check, &version.check.0);
        known.material.clone().filter(|_| same)
    }
}
