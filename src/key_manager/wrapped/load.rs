//! Opens key files: what the HSM unwraps is put where it is used.

use std::sync::{Arc, Weak};

use secret_memory::Arena;
use time::OffsetDateTime;

use super::key_file::{Encrypted, FileVersion, KeyFile, moment};
use super::lease::Finding;
use super::loaded::{Canary, Epoch, Loaded, Version};
use super::material::{Material, check_value};
use super::not_loaded::{NotLoaded, says_no};
use super::opening::{Opening, Round};
use super::wrap::{self, Hsm, first_of};
use crate::key_manager::{
    Answer, Fault, KeyDescription, KeyRef, KeySpec, KeyUsage, ManagedVersion, Task, same_bytes,
};

/// Where a key is opened to.
#[derive(Clone, Copy)]
pub struct To<'a> {
    /// Where it is used.
    pub arena: &'a Arena,
    /// Where its versions wait for each other.
    pub opening: &'a Opening,
    /// Since when.
    pub round: Round,
    /// The same key as it is used now: what is in memory already is not asked for again.
    pub before: Option<&'a Weak<Loaded>>,
}

/// Opens a key file, without a hold on any of its versions while the HSM is asked.
///
/// # Errors
/// Why it is not believed, or cannot be opened now.
pub fn load(
    file: &KeyFile,
    hsms: &mut [Box<dyn Hsm + '_>],
    to: To<'_>,
    now: OffsetDateTime,
) -> Result<Loaded, NotLoaded> {
    let label: Arc<str> = file.label.as_str().into();
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
    let mut held = Vec::with_capacity(file.versions.len());
    for version in &file.versions {
        held.push(if !version.state_at(now).decrypts() {
            None
        } else if let Some(same) = same_material(to.before, version) {
            Some(same)
        } else {
            let opened = unwrap_version(file, version, hsms, to.arena)?;
            Some(to.opening.hold(to.round, &label, opened)?)
        });
    }
    let mut versions = Vec::with_capacity(file.versions.len());
    for (version, held) in file.versions.iter().zip(held) {
        let material = match held {
            Some(held) => Some(held.upgrade().ok_or(NotLoaded::TakenAway)?),
            None => None,
        };
        let (number, cipher) = (version.version, version.cipher());
        let promoted = version.promoted.as_deref().and_then(moment);
        let promoted = promoted.map(OffsetDateTime::unix_timestamp);
        let managed = ManagedVersion { number, state: version.state_at(now), cipher, promoted };
        let (created, check) = (version.created.clone(), version.check.0.clone());
        versions.push(Version { managed, created, check, material });
    }
    Ok(Loaded { epoch: Epoch::of(file), versions, canary: Canary::of(file) })
}

/// The same for one who has nothing in use, from whom nobody takes keys away.
///
/// # Errors
/// As [`load`].
pub fn load_first(
    file: &KeyFile,
    hsms: &mut [Box<dyn Hsm + '_>],
    arena: &Arena,
    now: OffsetDateTime,
) -> Result<Loaded, NotLoaded> {
    let opening = &Opening::default();
    load(file, hsms, To { arena, opening, round: opening.round(), before: None }, now)
}

/// That of the key as it is used now.
fn same_material(before: Option<&Weak<Loaded>>, version: &FileVersion) -> Option<Weak<Material>> {
    Some(Arc::downgrade(&before?.upgrade()?.same_material(version)?))
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
        _ => Err(Fault::Device {
            detail: "the HSM did not describe the key that it was asked for".to_owned(),
        }),
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
    if says_no(&fault) { Finding::No(why) } else { Finding::Away(why) }
}
