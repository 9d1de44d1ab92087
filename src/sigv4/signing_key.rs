//! Signing keys: derived from a secret access key for one day, region and service, and kept while
//! that day lasts.

use std::collections::HashMap;
use std::fmt;

use ring::hmac;
use secret_memory::{Slot, burn_stack};
use zeroize::Zeroizing;

use super::authorization::{ALGORITHM, TERMINATOR, encode_lower_hex};
use super::credential::{Credential, Fingerprint};
use super::date;
use crate::limits::{CLOCK_SKEW_SECONDS_MAX, SIGNING_KEYS_CACHED_MAX};
use crate::secret::arena;

/// For what a signing key holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    /// `YYYYMMDD`.
    pub(super) date: &'a str,
    /// The same as a number, from 1970-01-01.
    pub(super) day: i64,
    /// Region.
    pub(super) region: &'a str,
    /// `kms-xks-proxy`.
    pub(super) service: &'static str,
}

/// One derived key. The raw bytes are kept, not ring's `hmac::Key`, whose many copies nobody
/// overwrites. It costs two rounds of SHA-256 a request.
type SigningKey = [u8; 32];

fn derive(credential: &Credential, scope: &Scope<'_>) -> Zeroizing<SigningKey> {
    let mut key = hmac_sha256(&credential.secret().derivation_key(), scope.date);
    for input in [scope.region, scope.service, TERMINATOR] {
        key = hmac_sha256(&*key, input);
    }
    key
}

/// In constant time with respect to the expected signature: ring compares.
fn is_signed_with(key: &SigningKey, string_to_sign: &[u8], signature: &[u8; 32]) -> bool {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), string_to_sign, signature).is_ok()
}

fn hmac_sha256(key: &[u8], input: &str) -> Zeroizing<[u8; 32]> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), input.as_bytes());
    let mut bytes = Zeroizing::new([0; 32]);
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

struct Cached {
    day: i64,
    region: Box<str>,
    service: &'static str,
    key: Slot<SigningKey>,
}

/// The signing keys that one shard has derived.
///
/// A key is found under the fingerprint of id **and** secret: after a secret was replaced under the
/// same id, the key of the old one is never found again. Only a request that was authenticated puts
/// a key here, so nobody without a secret can drive others out.
#[derive(Default)]
pub struct SigningKeys {
    by_credential: HashMap<Fingerprint, Vec<Cached>>,
    count: usize,
    /// Used from request to request.
    string_to_sign: Vec<u8>,
}

impl SigningKeys {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `signature` is the one that `credential` makes over this string to sign.
    pub(super) fn verify(
        &mut self,
        credential: &Credential,
        scope: &Scope<'_>,
        timestamp: &str,
        canonical_request_hash: &[u8; 32],
        signature: &[u8; 32],
        now: i64,
    ) -> bool {
        let text = &mut self.string_to_sign;
        text.clear();
        for piece in [
            ALGORITHM,
            "\n",
            timestamp,
            "\n",
            scope.date,
            "/",
            scope.region,
            "/",
            scope.service,
            "/",
            TERMINATOR,
            "\n",
        ] {
            text.extend_from_slice(piece.as_bytes());
        }
        text.extend_from_slice(&encode_lower_hex(canonical_request_hash));

        let cached = self.by_credential.get(credential.fingerprint()).and_then(|keys| {
            keys.iter().find(|cached| {
                cached.day == scope.day
                    && *cached.region == *scope.region
                    && cached.service == scope.service
            })
        });
        if let Some(cached) = cached {
            return is_signed_with(&cached.key, text, signature);
        }
        let key = derive(credential, scope);
        let is_valid = is_signed_with(&key, text, signature);
        // Without memory for it, it is derived for each request.
        if is_valid && let Ok(kept) = arena().and_then(|arena| arena.place(|| Ok(*key))) {
            self.keep(credential, scope, kept, now);
        }
        drop(key);
        burn_stack();
        is_valid
    }

    fn keep(
        &mut self,
        credential: &Credential,
        scope: &Scope<'_>,
        key: Slot<SigningKey>,
        now: i64,
    ) {
        // No request of another day is accepted any more (or, after the clock was set back, yet).
        let days = date::day(now.saturating_sub(CLOCK_SKEW_SECONDS_MAX))
            ..=date::day(now.saturating_add(CLOCK_SKEW_SECONDS_MAX));
        self.by_credential.retain(|_, keys| {
            keys.retain(|cached| days.contains(&cached.day));
            !keys.is_empty()
        });
        self.count = self.by_credential.values().map(Vec::len).sum();
        if self.count >= SIGNING_KEYS_CACHED_MAX {
            // More live credentials and regions than places: start again. Deriving again costs
            // microseconds.
            self.by_credential.clear();
            self.count = 0;
        }
        let cached =
            Cached { day: scope.day, region: scope.region.into(), service: scope.service, key };
        self.by_credential.entry(*credential.fingerprint()).or_default().push(cached);
        self.count += 1;
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKeys({} cached)", self.count)
    }
}
