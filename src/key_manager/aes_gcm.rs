//! AES-256-GCM by ring, for the kinds of key manager that compute in this process.

use std::sync::{Mutex, PoisonError};

use ring::aead::{Aad, LessSafeKey, Nonce};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::{Answer, Fault, Outcome, Plaintext, Secret, same_bytes};
use crate::limits::{IV_BLOCK, IV_BYTES, TAG_BYTES};

/// Told where the system's generator fails.
pub(super) const NO_RANDOM: &str = "the operating system gives no random bytes";

/// 96 random bits, never given twice.
#[derive(Default)]
pub struct Nonces {
    /// Drawn in blocks, each used once: a system call for each encryption was 2 % of a request's
    /// CPU time.
    drawn: Mutex<Vec<[u8; IV_BYTES]>>,
}

impl Nonces {
    /// The next.
    ///
    /// # Errors
    /// Where the system gives no random bytes.
    pub fn fresh(&self) -> Result<[u8; IV_BYTES], Fault> {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(nonce) = drawn.pop() {
            return Ok(nonce);
        }
        let mut block = [[0; IV_BYTES]; IV_BLOCK];
        SystemRandom::new()
            .fill(block.as_flattened_mut())
            .map_err(|_| Fault::Device { detail: NO_RANDOM.to_owned() })?;
        let [nonce, left @ ..] = block;
        drawn.extend(left);
        Ok(nonce)
    }
}

/// Encrypts and decrypts under a key that is no customer's, and compares.
pub(super) fn probe(key: &LessSafeKey, ivs: &Nonces) -> Result<(), Fault> {
    let text = [0; 32];
    let (iv, mut sealed) = seal(key, ivs, &text, b"")?;
    match open(key, iv, b"", &mut sealed) {
        Some(opened) if same_bytes(opened, &text) => Ok(()),
        _ => Err(mismatch()),
    }
}

/// As [`Task::Encrypt`](super::Task::Encrypt) asks for.
pub(super) fn encrypt(
    key: &LessSafeKey,
    ivs: &Nonces,
    plaintext: &[u8],
    aad: &[u8],
    integrity: Option<digest::Context>,
) -> Outcome {
    let (iv, mut sealed) = seal(key, ivs, plaintext, aad)?;
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
    let ciphertext = std::mem::take(&mut *sealed);
    Ok(Answer::Encrypted { iv: iv.to_vec(), ciphertext, tag, integrity })
}

/// As [`Task::Decrypt`](super::Task::Decrypt) asks for.
pub(super) fn decrypt(
    key: &LessSafeKey,
    ciphertext: &[u8],
    iv: &[u8],
    tag: [u8; TAG_BYTES],
    aad: &[u8],
) -> Outcome {
    // ring's AES-GCM takes 12-byte IVs only. None other was ever made here, so a ciphertext with
    // one is not ours.
    let iv = <[u8; IV_BYTES]>::try_from(iv).map_err(|_| Fault::BadCiphertext)?;
    let mut sealed = Zeroizing::new([ciphertext, &tag].concat());
    if open(key, iv, aad, &mut sealed).is_none() {
        return Err(Fault::BadCiphertext);
    }
    sealed.truncate(ciphertext.len());
    Ok(Answer::Decrypted(Plaintext(sealed)))
}

/// A fresh IV, and ciphertext ‖ tag.
fn seal(
    key: &LessSafeKey,
    ivs: &Nonces,
    plaintext: &[u8],
    aad: &[u8],
) -> Result<([u8; IV_BYTES], Secret), Fault> {
    let iv = ivs.fresh()?;
    // Large enough from the start: growing would leave plaintext behind in freed memory.
    let mut sealed = Zeroizing::new(Vec::with_capacity(plaintext.len() + TAG_BYTES));
    sealed.extend_from_slice(plaintext);
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(iv), Aad::from(aad), &mut sealed)
        .map_err(|_| Fault::Device { detail: "AES-GCM: not encrypted".to_owned() })?;
    sealed.extend_from_slice(tag.as_ref());
    Ok((iv, sealed))
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

fn mismatch() -> Fault {
    Fault::Device {
        detail: "integrity check: what was encrypted does not decrypt to what it was".to_owned(),
    }
}
