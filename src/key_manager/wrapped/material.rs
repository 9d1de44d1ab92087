//! A key in memory, in the form in which it is used.

use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use ring::hkdf::{self, HKDF_SHA256, KeyType, Prk};
use ring::hmac;
use secret_memory::{Arena, Slot};

use super::key_file::{CHECK_BYTES, KEY_BYTES};
use super::not_loaded::NotLoaded;
use crate::key_manager::{Cipher, Fault, SUBKEY_BYTES};

/// First part of what a check value is made over.
const CHECK: &[u8] = b"xksd check 1";

/// One version of a key, ready to be used.
pub(super) enum Material {
    /// Encrypts itself.
    Direct(Slot<LessSafeKey>),
    /// Makes a key for each message.
    Derived(Slot<Prk>),
}

impl Material {
    /// Puts a key where it is used.
    pub(super) fn new(
        arena: &Arena,
        cipher: Cipher,
        key: &[u8; KEY_BYTES],
    ) -> Result<Material, NotLoaded> {
        Ok(match cipher {
            Cipher::Direct => Material::Direct(arena.place(|| aead(key).map_err(NotLoaded::Hsm))?),
            Cipher::Derived => {
                let base = || Ok::<_, NotLoaded>(Prk::new_less_safe(HKDF_SHA256, key));
                Material::Derived(arena.place(base)?)
            }
        })
    }
}

/// The key of one message: HKDF-SHA-256-Expand(key, label ‖ the 12 bytes in its metadata).
pub(super) fn subkey(
    key: &Prk,
    label: &str,
    message: [u8; SUBKEY_BYTES],
) -> Result<LessSafeKey, Fault> {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            KEY_BYTES
        }
    }
    let info = [label.as_bytes(), &message];
    let expanded: hkdf::Okm<'_, Length> = key.expand(&info, Length).map_err(|_| failed())?;
    let mut key = zeroize::Zeroizing::new([0; KEY_BYTES]);
    expanded.fill(&mut *key).map_err(|_| failed())?;
    aead(&key)
}

pub(super) fn aead(key: &[u8; KEY_BYTES]) -> Result<LessSafeKey, Fault> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| failed())
}

fn failed() -> Fault {
    Fault::Device { detail: "the key could not be made ready".to_owned() }
}

/// The first 16 bytes of HMAC-SHA-256(key, "xksd check 1" ‖ label ‖ u16be version): finds an HSM
/// that decrypts wrongly, and compares instances without a use of the key.
///
/// What a subkey of the same label is derived from has another length, so neither can be had from
/// the other.
pub fn check_value(key: &[u8; KEY_BYTES], label: &str, version: u16) -> [u8; CHECK_BYTES] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    context.update(CHECK);
    context.update(label.as_bytes());
    context.update(&version.to_be_bytes());
    let value = context.sign();
    std::array::from_fn(|n| value.as_ref()[n])
}
