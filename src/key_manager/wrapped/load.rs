//! A key file opened: what the HSM unwraps, put where it is used.

use std::sync::{Arc, Weak};

use secret_memory::Arena;
use time::OffsetDateTime;

use super::key_file::{Encrypted, FileVersion, KeyFile, moment};
use super::lease::Finding;
use super::material::{Material, check_value};
use super::not_loaded::NotLoaded;
use super::wrap::{self, Hsm, first_of};
use crate::key_manager::{
    Answer, Fault, KeyDescription, KeyRef, KeySpec, KeyUsage, ManagedVersion, Task, same_bytes,
};

/// A key that was opened.
pub struct Loaded {
    /// Which file it was.
    pub epoch: Epoch,
    /// By number, ascending.
    versions: Vec<Version>,
    canary: Canary,
}

/// What an HSM must go on opening, as long as keys may be used that it opened. Has nothing to do
/// with the keys themselves, so that they can be overwritten while an HSM is asked.
#[derive(Clone)]
pub struct Canary {
    digest: [u8; 32],
    seals: Vec<Encrypted>,
}

impl Canary {
    /// Of a file, whether it is to be believed or not.
    pub fn of(file: &KeyFile) -> Canary {
        Canary { digest: file.digest(), seals: file.seals().cloned().collect() }
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

struct Version {
    managed: ManagedVersion,
    created: String,
    check: Vec<u8>,
    /// Where it is used.
    material: Option<Arc<Material>>,
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
    fn same_material(&self, version: &FileVersion) -> Option<Arc<Material>> {
        let known = self.versions.iter().find(|known| known.managed.number == version.version)?;
        let same = known.created == version.created
            && known.managed.cipher == version.cipher()
            && same_bytes(&known.check, &version.check.0);
        known.material.clone().filter(|_| same)
    }
}

/// Opens a key file. What is in memory already, of `before`, is not asked for again.
///
/// # Errors
/// Why it is not believed, or cannot be opened now.
pub fn load(
    file: &KeyFile,
    hsms: &mut [Box<dyn Hsm + '_>],
    arena: &Arena,
    before: Option<&Weak<Loaded>>,
    now: OffsetDateTime,
) -> Result<Loaded, NotLoaded> {
    let digest = file.digest();
    open_any(hsms, &mut file.seals(), |hsm, seal| wrap::verify_seal(hsm, digest, seal)).map_err(
        |fault| match fault {
            Fault::BadCiphertext => NotLoaded::File(
                "its seal does not fit what it says: it was changed, or sealed by another master"
                    .to_owned(),
            ),
            fault => NotLoaded::Hsm(fault),
        },
    )?;
    let mut versions = Vec::with_capacity(file.versions.len());
    for version in &file.versions {
        let state = version.state_at(now);
        let material = if !state.decrypts() {
            None
        } else if let Some(same) =
            before.and_then(|before| before.upgrade()?.same_material(version))
        {
            Some(same)
        } else {
            Some(Arc::new(unwrap_version(file, version, hsms, arena)?))
        };
        let (number, cipher) = (version.version, version.cipher());
        let promoted = version.promoted.as_deref().and_then(moment);
        let promoted = promoted.map(OffsetDateTime::unix_timestamp);
        let managed = ManagedVersion { number, state, cipher, promoted };
        let (created, check) = (version.created.clone(), version.check.0.clone());
        versions.push(Version { managed, created, check, material });
    }
    Ok(Loaded { epoch: Epoch::of(file), versions, canary: Canary::of(file) })
}

fn unwrap_version(
    file: &KeyFile,
    version: &FileVersion,
    hsms: &mut [Box<dyn Hsm + '_>],
    arena: &Arena,
) -> Result<Material, NotLoaded> {
    let number = version.version;
    let key = open_any(hsms, &mut version.wraps.iter(), |hsm, wrap| {
        wrap::unwrap(hsm, file, version, wrap)
    })
    .map_err(|fault| match fault {
        Fault::BadCiphertext => {
            NotLoaded::File(format!("version {number} is not what the master wrapped"))
        }
        fault => NotLoaded::Hsm(fault),
    })?;
    if !same_bytes(&check_value(&key, &file.label, number), &version.check.0) {
        // The tag fits, so the file is right; and what decrypts wrongly once may be mended.
        return Err(NotLoaded::Hsm(Fault::Device {
            detail: format!(
                "version {number} came from the HSM with another check value than the file has"
            ),
        }));
    }
    Material::new(arena, version.cipher(), &key)
}

/// Has some HSM open one of these, which are the same under different masters.
fn open_any<'f, T>(
    hsms: &mut [Box<dyn Hsm + '_>],
    sealed: &mut (dyn Iterator<Item = &'f Encrypted> + '_),
    mut open: impl FnMut(&mut dyn Hsm, &Encrypted) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut failed = Fault::BadCiphertext;
    for (at, one) in sealed.enumerate() {
        match first_of(hsms, |hsm| open(hsm, one)) {
            Ok(opened) => return Ok(opened),
            // The first one's fault is the master's that the file was written for.
            Err(fault) if at == 0 || matches!(failed, Fault::KeyNotFound { .. }) => failed = fault,
            Err(_) => {}
        }
    }
    Err(failed)
}

/// Asks an HSM whether it still opens what it sealed: first the master's attributes, as they are
/// now, then with the key.
pub fn look_at_hsm(hsm: &mut dyn Hsm, master: &str, canary: Option<&Canary>) -> Finding {
    let seals = canary.map_or(&[][..], |canary| &canary.seals);
    let mut finding = None;
    for seal in seals {
        let found = canary.map_or(Ok(()), |canary| {
            master_opens(hsm, &seal.master)?;
            wrap::verify_seal(hsm, canary.digest, seal).map_err(|fault| match fault {
                Fault::BadCiphertext => Fault::KeyRefused {
                    detail: format!("{:?} does not open what it sealed", seal.master),
                },
                fault => fault,
            })
        });
        match found.map_err(finding_of) {
            Ok(()) => return Finding::Yes,
            Err(fault) => finding = finding.or(Some(fault)),
        }
    }
    finding.unwrap_or_else(|| master_opens(hsm, master).map_or_else(finding_of, |()| Finding::Yes))
}

/// What a master is allowed beyond encrypting and decrypting, for the operator; `None` where that
/// is nothing, or not known now.
pub fn needless_usage(hsm: &mut dyn Hsm, master: &str) -> Option<String> {
    let usages = describe(hsm, master).ok()?.usage.beyond_encryption().join(", ");
    (!usages.is_empty()).then(|| {
        let name = hsm.name();
        format!("the master {master:?} in {name} allows more than encrypt and decrypt: {usages}")
    })
}

fn describe(hsm: &mut dyn Hsm, master: &str) -> Result<KeyDescription, Fault> {
    match hsm.execute(&KeyRef::first(master), Task::Describe)? {
        Answer::Described(described) => Ok(described),
        _ => Err(Fault::Device { detail: "the HSM answered another question".to_owned() }),
    }
}

fn master_opens(hsm: &mut dyn Hsm, master: &str) -> Result<(), Fault> {
    let described = describe(hsm, master)?;
    if !described.enabled {
        return Err(Fault::KeyDisabled);
    }
    if described.spec != KeySpec::AES_256 || !described.usage.contains(KeyUsage::Decrypt) {
        return Err(Fault::KeyUsage);
    }
    Ok(())
}

fn finding_of(fault: Fault) -> Finding {
    let why = fault.to_string();
    match fault {
        Fault::KeyNotFound { .. }
        | Fault::KeyDisabled
        | Fault::KeyUsage
        | Fault::KeyRefused { .. }
        | Fault::Sealed { .. }
        | Fault::BadCiphertext => Finding::No(why),
        Fault::Device { .. } | Fault::Busy | Fault::Timeout => Finding::Away(why),
    }
}
