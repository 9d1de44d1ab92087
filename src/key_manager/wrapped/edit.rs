//! Changes of a key file. Each gives a file that no HSM has sealed yet; [`seal`] ends it.

use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::key_file::{
    Base64, Encrypted, FORMAT, FileVersion, KEY_BYTES, KeyFile, cipher_number, timestamp,
};
use super::material::check_value;
use super::wrap::{self, Hsm, first_of};
use crate::key_manager::{Cipher, Fault, VersionState, same_bytes};
use crate::limits::{KEY_FILE_MASTERS_MAX, KEY_VERSIONS_MAX};

/// A key's bytes on their way into a file.
pub type RawKey = Zeroizing<[u8; KEY_BYTES]>;

/// A new key with its first version, to be wrapped under `master`.
///
/// # Errors
/// As the HSM says.
pub fn create(
    hsms: &mut [Box<dyn Hsm + '_>],
    (set, label, master): (&str, &str, &str),
    (cipher, key): (Cipher, &RawKey),
    now: OffsetDateTime,
) -> Result<KeyFile, Fault> {
    let mut file = KeyFile {
        format: FORMAT.to_owned(),
        set: set.to_owned(),
        label: label.to_owned(),
        epoch: 0,
        primary: 0,
        versions: Vec::new(),
        seal: unsealed(master),
        other_seals: Vec::new(),
    };
    let mut first = new_version(&file, 0, cipher, key, now);
    first.state = VersionState::Primary;
    first.promoted = Some(first.created.clone());
    first.wraps = vec![first_of(hsms, |hsm| wrap::wrap(hsm, &file, &first, master, key))?];
    file.versions.push(first);
    Ok(file)
}

/// Adds a staged version, wrapped under all masters of the file, and gives its number.
///
/// # Errors
/// A sentence for the operator.
pub fn stage(
    file: &mut KeyFile,
    hsms: &mut [Box<dyn Hsm + '_>],
    (cipher, key): (Cipher, &RawKey),
    now: OffsetDateTime,
) -> Result<u16, String> {
    if let Some(staged) = file.versions.iter().find(|v| v.state == VersionState::Staged) {
        return Err(format!("version {} is staged already: promote it first", staged.version));
    }
    if file.versions.len() == KEY_VERSIONS_MAX {
        return Err(format!("it has {KEY_VERSIONS_MAX} versions, and there can be no more"));
    }
    let last = file.versions.last().map_or(0, |version| version.version);
    let number = last.checked_add(1).ok_or("its version numbers are used up")?;
    let mut version = new_version(file, number, cipher, key, now);
    for master in masters(file) {
        let wrapped = first_of(hsms, |hsm| wrap::wrap(hsm, file, &version, &master, key));
        version.wraps.push(wrapped.map_err(|fault| at_master(&master, &fault))?);
    }
    file.versions.push(version);
    Ok(number)
}

/// Makes a version the one that encrypts: the staged one where none is named. That which was
/// decrypts from then on.
///
/// # Errors
/// A sentence for the operator.
pub fn promote(
    file: &mut KeyFile,
    number: Option<u16>,
    now: OffsetDateTime,
) -> Result<u16, String> {
    let number = match number {
        Some(number) => number,
        None => {
            let staged = file.versions.iter().find(|v| v.state == VersionState::Staged);
            staged.map(|version| version.version).ok_or("no version is staged: rotate it first")?
        }
    };
    match state(file, number)? {
        VersionState::Staged | VersionState::DecryptOnly => {}
        VersionState::Primary => return Err(format!("version {number} is primary already")),
        other => return Err(format!("version {number} is {}: enable it first", other.name())),
    }
    for version in &mut file.versions {
        if version.version == number {
            version.state = VersionState::Primary;
            version.promoted = Some(timestamp(now));
        } else if version.state == VersionState::Primary {
            version.state = VersionState::DecryptOnly;
        }
    }
    file.primary = number;
    Ok(number)
}

/// Disables a version that does not encrypt.
///
/// # Errors
/// A sentence for the operator.
pub fn disable(file: &mut KeyFile, number: u16) -> Result<(), String> {
    match state(file, number)? {
        VersionState::Staged | VersionState::DecryptOnly => {
            version(file, number)?.state = VersionState::Disabled;
            Ok(())
        }
        VersionState::Primary => Err(primary(number)),
        other => Err(format!("version {number} is {} already", other.name())),
    }
}

/// Has a disabled version decrypt again.
///
/// # Errors
/// A sentence for the operator.
pub fn enable(file: &mut KeyFile, number: u16) -> Result<(), String> {
    match state(file, number)? {
        VersionState::Disabled => {
            let version = version(file, number)?;
            if version.destroy_after.is_some() {
                return Err(format!("version {number} is to be destroyed: cancel that first"));
            }
            version.state = VersionState::DecryptOnly;
            Ok(())
        }
        other => Err(format!("version {number} is {}, not disabled", other.name())),
    }
}

/// Disables a version, and has it count as destroyed `after` this time.
///
/// # Errors
/// A sentence for the operator.
pub fn destroy(
    file: &mut KeyFile,
    number: u16,
    after: Duration,
    now: OffsetDateTime,
) -> Result<(), String> {
    match state(file, number)? {
        VersionState::Primary => Err(primary(number)),
        VersionState::Destroyed => Err(format!("version {number} is destroyed already")),
        _ => {
            let version = version(file, number)?;
            if let Some(at) = &version.destroy_after {
                return Err(format!(
                    "version {number} is to be destroyed after {at}, and it is not that time yet. \
                     For another time take that back first"
                ));
            }
            version.state = VersionState::Disabled;
            let at = now.checked_add(after).ok_or("that is too far away")?;
            version.destroy_after = Some(timestamp(at));
            Ok(())
        }
    }
}

/// Takes back what [`destroy`] has said; the version stays disabled.
///
/// # Errors
/// A sentence for the operator.
pub fn cancel_destroy(file: &mut KeyFile, number: u16) -> Result<(), String> {
    let version = version(file, number)?;
    if version.state == VersionState::Destroyed {
        return Err(format!("version {number} is destroyed: only a backup has it"));
    }
    match version.destroy_after.take() {
        Some(_) => Ok(()),
        None => Err(format!("version {number} is not to be destroyed")),
    }
}

/// Takes away the wraps of a version whose time has come; its number stays. False where it has not
/// come, or they are gone already.
pub fn bury(file: &mut KeyFile, number: u16, now: OffsetDateTime) -> bool {
    let Ok(version) = version(file, number) else { return false };
    let is_due = version.state != VersionState::Destroyed
        && version.state_at(now) == VersionState::Destroyed;
    if is_due {
        version.state = VersionState::Destroyed;
        version.destroy_after = None;
        version.wraps.clear();
    }
    is_due
}

/// Adds a wrap under `master` to each version. The other ones stay.
///
/// # Errors
/// A sentence for the operator.
pub fn rewrap(
    file: &mut KeyFile,
    hsms: &mut [Box<dyn Hsm + '_>],
    master: &str,
) -> Result<(), String> {
    let known = masters(file);
    if known.iter().any(|known| known == master) {
        return Err(format!("it is wrapped under {master:?} already"));
    }
    if known.len() == KEY_FILE_MASTERS_MAX {
        return Err(format!("it has {KEY_FILE_MASTERS_MAX} masters: drop one first"));
    }
    for at in 0..file.versions.len() {
        let version = &file.versions[at];
        if version.state == VersionState::Destroyed {
            continue;
        }
        let key = raw_key(file, version, hsms)?;
        let wrapped = first_of(hsms, |hsm| wrap::wrap(hsm, file, version, master, &key))
            .map_err(|fault| format!("the master {master:?} cannot be used: {fault}"))?;
        file.versions[at].wraps.push(wrapped);
    }
    file.other_seals.push(unsealed(master));
    Ok(())
}

/// Takes the wraps under `master` away.
///
/// # Errors
/// A sentence for the operator: it is the only one, or none of them.
pub fn drop_master(file: &mut KeyFile, master: &str) -> Result<(), String> {
    let known = masters(file);
    if !known.iter().any(|known| known == master) {
        return Err(format!("it is not wrapped under {master:?}"));
    }
    if known.len() == 1 {
        return Err(format!("{master:?} is its only master"));
    }
    for version in &mut file.versions {
        version.wraps.retain(|wrap| wrap.master != master);
    }
    let mut seals: Vec<Encrypted> = file.seals().cloned().collect();
    seals.retain(|seal| seal.master != master);
    file.seal = seals.remove(0);
    file.other_seals = seals;
    Ok(())
}

/// The key of a version, opened by whichever HSM can, and compared with its check value.
///
/// # Errors
/// A sentence for the operator.
pub fn raw_key(
    file: &KeyFile,
    version: &FileVersion,
    hsms: &mut [Box<dyn Hsm + '_>],
) -> Result<RawKey, String> {
    let number = version.version;
    let mut failed = format!("version {number} has no wrap");
    for wrapped in &version.wraps {
        match first_of(hsms, |hsm| wrap::unwrap(hsm, file, version, wrapped)) {
            Ok(key) if same_bytes(&check_value(&key, &file.label, number), &version.check.0) => {
                return Ok(key);
            }
            Ok(_) => failed = format!("version {number}: the HSM gave another key than it wrapped"),
            Err(fault) => failed = format!("version {number}: {fault}"),
        }
    }
    Err(failed)
}

/// Ends a change: counts the epoch and seals the file under each of its masters. `random` fills
/// bytes.
///
/// # Errors
/// A sentence for the operator.
pub fn seal(
    file: &mut KeyFile,
    hsms: &mut [Box<dyn Hsm + '_>],
    random: &mut dyn FnMut(&mut [u8]) -> Result<(), String>,
) -> Result<(), String> {
    file.epoch = file.epoch.checked_add(1).ok_or("its epochs are used up")?;
    let mut seals = Vec::new();
    for master in masters(file) {
        let mut bytes = Zeroizing::new(vec![0; KEY_BYTES]);
        random(&mut bytes)?;
        let sealed = first_of(hsms, |hsm| wrap::seal(hsm, file, &master, bytes.clone()));
        seals.push(sealed.map_err(|fault| at_master(&master, &fault))?);
    }
    file.seal = seals.remove(0);
    file.other_seals = seals;
    Ok(())
}

/// The masters under which a file is wrapped and sealed.
pub fn masters(file: &KeyFile) -> Vec<String> {
    file.seals().map(|seal| seal.master.clone()).collect()
}

fn new_version(
    file: &KeyFile,
    number: u16,
    cipher: Cipher,
    key: &RawKey,
    now: OffsetDateTime,
) -> FileVersion {
    FileVersion {
        version: number,
        state: VersionState::Staged,
        cipher: cipher_number(cipher),
        created: timestamp(now),
        promoted: None,
        destroy_after: None,
        check: Base64(check_value(key, &file.label, number).to_vec()),
        wraps: Vec::new(),
    }
}

/// Stands where [`seal`] will put one.
fn unsealed(master: &str) -> Encrypted {
    let none = || Base64(Vec::new());
    Encrypted { master: master.to_owned(), iv: none(), ciphertext: none(), tag: none() }
}

fn version(file: &mut KeyFile, number: u16) -> Result<&mut FileVersion, String> {
    let found = file.versions.iter_mut().find(|version| version.version == number);
    found.ok_or_else(|| format!("it has no version {number}"))
}

fn state(file: &mut KeyFile, number: u16) -> Result<VersionState, String> {
    version(file, number).map(|version| version.state)
}

fn primary(number: u16) -> String {
    format!("version {number} is primary: promote another one first")
}

fn at_master(master: &str, fault: &Fault) -> String {
    format!(
        "the master {master:?} cannot be used: {fault}. All masters of a file are needed for a \
         change of it; one that is gone for good is dropped with: xksd key rewrap --drop {master}"
    )
}
