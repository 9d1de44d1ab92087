//! Sealed values: what stands in etcd is secret and authentic. Who runs etcd, or reads a backup of
//! it, can neither read a value nor make one, nor put one in another's place.
//!
//! `0x01 ‖ u64be sequence ‖ nonce (12) ‖ AES-256-GCM`. The key is derived from the fleet's secret,
//! for each place by itself, so that the bound on random nonces (2^32 a key) holds for each.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use zeroize::Zeroizing;

/// Of the form above. Another one is not understood.
const FORMAT: u8 = 1;
const SEQUENCE_BYTES: usize = 8;
const HEAD_BYTES: usize = 1 + SEQUENCE_BYTES + NONCE_LEN;
const SALT: &[u8] = b"xksd fleet";

/// A fleet's secret, bytes.
pub const SECRET_BYTES: usize = 32;
/// What a nonce has, bytes.
pub const NONCE_BYTES: usize = NONCE_LEN;
/// By how much a sealed value is longer than its content, bytes.
pub const SEAL_BYTES: usize = HEAD_BYTES + 16;

/// Seals and opens the values of one fleet.
pub struct FleetKey {
    secret: Prk,
    prefix: String,
}

/// A value that was sealed with the fleet's secret, for this place.
#[derive(PartialEq, Eq)]
pub struct Opened {
    /// Its number: a later value of the same place has a higher one.
    pub sequence: u64,
    /// What was sealed.
    pub content: Zeroizing<Vec<u8>>,
}

impl FleetKey {
    /// Of the fleet at `prefix`; `None` where the secret has another length.
    pub fn new(secret: &[u8], prefix: &str) -> Option<FleetKey> {
        if secret.len() != SECRET_BYTES {
            return None;
        }
        let secret = Salt::new(HKDF_SHA256, SALT).extract(secret);
        Some(FleetKey { secret, prefix: prefix.to_owned() })
    }

    /// Seals `content` for the place `name`. The nonce must be random.
    pub fn seal(
        &self,
        name: &str,
        sequence: u64,
        nonce: [u8; NONCE_BYTES],
        content: &[u8],
    ) -> Vec<u8> {
        let sequence_bytes = sequence.to_be_bytes();
        let mut text = Zeroizing::new(content.to_vec());
        let aad = Aad::from(self.place(name, &sequence_bytes));
        let nonce_value = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .key(name)
            .seal_in_place_separate_tag(nonce_value, aad, &mut text)
            .expect("far below the bound of AES-GCM");
        [&[FORMAT], &sequence_bytes[..], &nonce, &text, tag.as_ref()].concat()
    }

    /// Opens what was sealed for the place `name`; `None` where it was not, or was changed.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Option<Opened> {
        let (head, text) = sealed.split_at_checked(HEAD_BYTES)?;
        let (format, head) = head.split_first()?;
        let (sequence, nonce) = head.split_at_checked(SEQUENCE_BYTES)?;
        if *format != FORMAT {
            return None;
        }
        let mut text = Zeroizing::new(text.to_vec());
        let aad = Aad::from(self.place(name, sequence));
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = self.key(name).open_in_place(nonce, aad, &mut text).ok()?.len();
        text.truncate(length);
        Some(Opened { sequence: u64::from_be_bytes(sequence.try_into().ok()?), content: text })
    }

    fn key(&self, name: &str) -> LessSafeKey {
        let place = self.place(name, &[]);
        let info = [&place[..]];
        let key = self.secret.expand(&info, &AES_256_GCM).expect("32 bytes are wanted");
        LessSafeKey::new(UnboundKey::from(key))
    }

    /// Format, prefix, name and sequence, each with its length.
    fn place(&self, name: &str, sequence: &[u8]) -> Vec<u8> {
        let mut place = Vec::new();
        for part in [&[FORMAT][..], self.prefix.as_bytes(), name.as_bytes(), sequence] {
            place.extend_from_slice(&(part.len() as u64).to_be_bytes());
            place.extend_from_slice(part);
        }
        place
    }
}

impl fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetKey").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(secret: u8, prefix: &str) -> FleetKey {
        FleetKey::new(&[secret; SECRET_BYTES], prefix).unwrap()
    }

    #[test]
    fn a_value_opens_in_its_place_only() {
        let sealed = key(1, "/a").seal("blocks", 7, [9; NONCE_BYTES], b"text");
        assert_eq!(sealed.len(), 4 + SEAL_BYTES);
        let opened = key(1, "/a").open("blocks", &sealed).unwrap();
        assert_eq!((opened.sequence, &opened.content[..]), (7, &b"text"[..]));
        assert_eq!(key(2, "/a").open("blocks", &sealed), None, "another secret");
        assert_eq!(key(1, "/b").open("blocks", &sealed), None, "another fleet");
        assert_eq!(key(1, "/a").open("block", &sealed), None, "another document");
        assert_eq!(key(1, "").open("/ablocks", &sealed), None, "another way to cut it");
        assert!(FleetKey::new(&[1; 31], "/a").is_none());
        assert!(!format!("{:?}{opened:?}", key(1, "/a")).contains("text"));
    }

    #[test]
    fn every_changed_byte_and_every_shorter_one_is_refused() {
        let key = key(1, "/a");
        let sealed = key.seal("blocks", 7, [9; NONCE_BYTES], b"text");
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(key.open("blocks", &changed), None, "byte {at} bit {bit}");
            }
            assert_eq!(key.open("blocks", &sealed[..at]), None, "{at} bytes");
        }
        assert_eq!(key.open("blocks", &[&sealed[..], &[0]].concat()), None);
    }

    proptest! {
        #[test]
        fn any_content_comes_back(
            name: String, sequence: u64, nonce: [u8; NONCE_BYTES], content: Vec<u8>,
        ) {
            let key = key(3, "/p");
            let opened = key.open(&name, &key.seal(&name, sequence, nonce, &content)).unwrap();
            prop_assert_eq!((opened.sequence, &*opened.content), (sequence, &content));
        }
    }
}
