//! What an HSM does for key files: it encrypts keys and seals, and opens them.

use ring::digest::{Context, SHA256};
use zeroize::Zeroizing;

use super::key_file::{Base64, Encrypted, FileVersion, KEY_BYTES, KeyFile};
use crate::key_manager::{Answer, Fault, KeyRef, Outcome, Secret, Task};

/// An HSM that opens key files.
pub trait Hsm {
    /// Name of the key manager, for the operator.
    fn name(&self) -> &str;
    /// Does a task with one of its keys. Blocks.
    fn execute(&mut self, key: &KeyRef, task: Task) -> Outcome;
}

/// Asks one HSM after the other until one does it: they may hold different masters.
///
/// # Errors
/// Of those that did not, what says the most: a fault of an HSM may pass, a refusal of the file is
/// final.
pub fn first_of<T>(
    hsms: &mut [Box<dyn Hsm + '_>],
    mut ask: impl FnMut(&mut dyn Hsm) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut failed: Option<Fault> = None;
    for hsm in hsms {
        match ask(&mut **hsm) {
            Ok(done) => return Ok(done),
            Err(fault) => {
                let fault = named(hsm.name(), fault);
                failed = match failed {
                    Some(before @ Fault::BadCiphertext) => Some(before),
                    Some(before) if matches!(fault, Fault::KeyNotFound { .. }) => Some(before),
                    _ => Some(fault),
                };
            }
        }
    }
    Err(failed.unwrap_or_else(|| Fault::Device { detail: "no HSM can be asked".to_owned() }))
}

fn named(hsm: &str, fault: Fault) -> Fault {
    match fault {
        Fault::KeyNotFound { detail } => Fault::KeyNotFound { detail: format!("{hsm}: {detail}") },
        Fault::KeyRefused { detail } => Fault::KeyRefused { detail: format!("{hsm}: {detail}") },
        Fault::Device { detail } => Fault::Device { detail: format!("{hsm}: {detail}") },
        other => other,
    }
}

/// First part of the AAD of a wrap: no other use of the master has the same.
const WRAP: &[u8] = b"xksd key wrap 1";

/// The AAD of a wrap: each part behind its length, u16be.
pub fn wrap_aad(set: &str, label: &str, version: &FileVersion, master: &str) -> Vec<u8> {
    let number = version.version.to_be_bytes();
    let parts: [&[u8]; 7] = [
        WRAP,
        set.as_bytes(),
        label.as_bytes(),
        &number,
        &[version.cipher],
        version.created.as_bytes(),
        master.as_bytes(),
    ];
    let mut aad = Vec::new();
    for part in parts {
        // Of labels, dates and the like: far below 64 KiB.
        aad.extend_from_slice(&(part.len() as u16).to_be_bytes());
        aad.extend_from_slice(part);
    }
    aad
}

/// Wraps a key.
///
/// # Errors
/// As the HSM says.
pub fn wrap(
    hsm: &mut dyn Hsm,
    file: &KeyFile,
    version: &FileVersion,
    master: &str,
    key: &[u8; KEY_BYTES],
) -> Result<Encrypted, Fault> {
    let aad = wrap_aad(&file.set, &file.label, version, master);
    encrypt(hsm, master, Zeroizing::new(key.to_vec()), aad)
}

/// The key of a version, from the wrap under `master`.
///
/// # Errors
/// As the HSM says; [`Fault::BadCiphertext`] where wrap or what is said beside it was changed.
pub fn unwrap(
    hsm: &mut dyn Hsm,
    file: &KeyFile,
    version: &FileVersion,
    wrap: &Encrypted,
) -> Result<Zeroizing<[u8; KEY_BYTES]>, Fault> {
    let aad = wrap_aad(&file.set, &file.label, version, &wrap.master);
    let opened = decrypt(hsm, wrap, aad)?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if opened.len() != KEY_BYTES {
        return Err(Fault::Device { detail: "the HSM gave a key of another length".to_owned() });
    }
    key.copy_from_slice(&opened);
    Ok(key)
}

/// Seals what a file says.
///
/// # Errors
/// As the HSM says.
pub fn seal(
    hsm: &mut dyn Hsm,
    file: &KeyFile,
    master: &str,
    random: Secret,
) -> Result<Encrypted, Fault> {
    encrypt(hsm, master, random, file.digest().to_vec())
}

/// Whether a seal is what was made over this file.
///
/// # Errors
/// As the HSM says; [`Fault::BadCiphertext`] where the file was changed.
pub fn verify_seal(hsm: &mut dyn Hsm, digest: [u8; 32], seal: &Encrypted) -> Result<(), Fault> {
    decrypt(hsm, seal, digest.to_vec()).map(drop)
}

fn encrypt(
    hsm: &mut dyn Hsm,
    master: &str,
    plaintext: Secret,
    aad: Vec<u8>,
) -> Result<Encrypted, Fault> {
    // With an integrity value the key manager decrypts and compares before it answers.
    let task = Task::Encrypt { plaintext, aad, integrity: Some(Context::new(&SHA256)) };
    match hsm.execute(&KeyRef::first(master), task)? {
        Answer::Encrypted { iv, ciphertext, tag, .. } => Ok(Encrypted {
            master: master.to_owned(),
            iv: Base64(iv),
            ciphertext: Base64(ciphertext),
            tag: Base64(tag.to_vec()),
        }),
        _ => Err(another_answer()),
    }
}

fn decrypt(hsm: &mut dyn Hsm, sealed: &Encrypted, aad: Vec<u8>) -> Result<Secret, Fault> {
    let Encrypted { master, iv, ciphertext, tag } = sealed;
    let tag = tag.0.as_slice().try_into().map_err(|_| Fault::BadCiphertext)?;
    let task = Task::Decrypt { ciphertext: ciphertext.0.clone(), iv: iv.0.clone(), tag, aad };
    match hsm.execute(&KeyRef::first(master.as_str()), task)? {
        Answer::Decrypted(plaintext) => Ok(plaintext.0),
        _ => Err(another_answer()),
    }
}

fn another_answer() -> Fault {
    Fault::Device { detail: "the HSM gave an answer of the wrong kind".to_owned() }
}
