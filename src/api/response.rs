//! The bodies of the four 200 responses, appended to the caller's buffer.

use std::borrow::Cow;
use std::num::NonZeroU32;

use serde::{Serialize, Serializer};

use super::base64;
use crate::key_manager::{self, KeyDescription, KeySpec, KeyUsage, KeyUsages};
use crate::limits::{EKM_FLEET_MAX, TAG_BYTES};

#[cfg(test)]
mod tests;

/// What an encrypt answers.
#[derive(Clone, Copy, Debug)]
pub struct Encrypted<'a> {
    /// As long as the plaintext was.
    pub ciphertext: &'a [u8],
    /// IV that was used.
    pub iv: &'a [u8],
    /// Authentication tag.
    pub tag: &'a [u8; TAG_BYTES],
    /// Ciphertext metadata; left out if there is none.
    pub metadata: Option<&'a [u8]>,
    /// `ciphertextDataIntegrityValue`; there exactly when it was asked for.
    pub integrity: Option<&'a [u8; 32]>,
}

/// Appends the body of an encrypt's answer.
pub fn encrypt(answer: &Encrypted<'_>, out: &mut Vec<u8>) {
    // Names, quotes and the four short fields stay below 320 bytes.
    out.reserve(320 + base64::text_len(answer.ciphertext.len()));
    out.push(b'{');
    base64_field("ciphertext", answer.ciphertext, out);
    out.push(b',');
    base64_field("initializationVector", answer.iv, out);
    out.push(b',');
    base64_field("authenticationTag", answer.tag, out);
    if let Some(metadata) = answer.metadata {
        out.push(b',');
        base64_field("ciphertextMetadata", metadata, out);
    }
    if let Some(integrity) = answer.integrity {
        out.push(b',');
        base64_field("ciphertextDataIntegrityValue", integrity, out);
    }
    out.push(b'}');
}

/// Appends the body of a decrypt's answer.
///
/// Room for all of it is made before the first byte of it is written: growing later would leave a
/// copy of the plaintext in freed memory. The caller wipes `out` once it is sent, and does not let
/// it grow before.
pub fn decrypt(plaintext: &[u8], out: &mut Vec<u8>) {
    out.reserve(DECRYPT_BODY_OVERHEAD_BYTES + base64::text_len(plaintext.len()));
    out.push(b'{');
    base64_field("plaintext", plaintext, out);
    out.push(b'}');
}

/// `{"plaintext":""}`.
const DECRYPT_BODY_OVERHEAD_BYTES: usize = 16;

fn base64_field(name: &str, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
    base64::encode(bytes, out);
    out.push(b'"');
}

/// spec: "The response MUST NOT contain more than ten keyUsage values."
pub const KEY_USAGE_MAX: usize = 10;
const _: () = assert!(KeyUsage::ALL.len() <= KEY_USAGE_MAX);

/// Appends the body of GetKeyMetadata's answer.
pub fn metadata(key: &KeyDescription, out: &mut Vec<u8>) {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        key_spec: &'a str,
        #[serde(serialize_with = "spelled")]
        key_usage: KeyUsages,
        key_status: &'static str,
    }
    fn spelled<S: Serializer>(usages: &KeyUsages, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(usages.iter().map(key_usage))
    }
    let key_status = if key.enabled { "ENABLED" } else { "DISABLED" };
    write_json(&Body { key_spec: &key_spec(key.spec), key_usage: key.usage, key_status }, out);
}

/// `keySpec`: `AES_256`, `GENERIC_SECRET_160`, …
pub fn key_spec(spec: KeySpec) -> Cow<'static, str> {
    let sized = |name: &'static str, bits: Option<u64>| match bits {
        Some(bits) => Cow::Owned(format!("{name}_{bits}")),
        None => Cow::Borrowed(name),
    };
    match spec {
        // The only one that serves: without an allocation.
        KeySpec::AES_256 => Cow::Borrowed("AES_256"),
        KeySpec::Aes(bits) => sized("AES", bits),
        KeySpec::GenericSecret(bits) => sized("GENERIC_SECRET", bits),
        KeySpec::ChaCha20(bits) => sized("CHACHA20", bits),
        // The bits that are key, without parity.
        KeySpec::Des => Cow::Borrowed("DES_56"),
        KeySpec::Des2 => Cow::Borrowed("DES2_112"),
        KeySpec::Des3 => Cow::Borrowed("DES3_168"),
        KeySpec::Other(key_type) => Cow::Owned(format!("CKK_{key_type:#x}")),
        KeySpec::Unknown => Cow::Borrowed("UNKNOWN"),
    }
}

/// A value of `keyUsage`.
pub fn key_usage(usage: KeyUsage) -> &'static str {
    match usage {
        KeyUsage::Encrypt => "ENCRYPT",
        KeyUsage::Decrypt => "DECRYPT",
        KeyUsage::Sign => "SIGN",
        KeyUsage::Verify => "VERIFY",
        KeyUsage::Wrap => "WRAP",
        KeyUsage::Unwrap => "UNWRAP",
        KeyUsage::Derive => "DERIVE",
    }
}

/// `healthStatus`. When all key managers are UNAVAILABLE, KMS takes the key store for unreachable.
pub fn health_status(health: key_manager::Health) -> &'static str {
    match health {
        key_manager::Health::Active => "ACTIVE",
        // spec: "unhealthy but can still serve traffic".
        key_manager::Health::Degraded => "DEGRADED",
        // spec: "unable to serve traffic".
        key_manager::Health::Unavailable => "UNAVAILABLE",
    }
}

/// One key manager in a health answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EkmFleetDetail {
    /// Unique among the key managers.
    pub id: String,
    /// spec: "SHOULD include the product name, version of the hardware and any other information
    /// that would be useful in troubleshooting and estimating TPS capacity".
    pub model: String,
    /// How it does, see [`health_status`].
    pub health_status: &'static str,
}

/// What GetHealthStatus answers.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health<'a> {
    /// Proxies in the fleet.
    pub xks_proxy_fleet_size: NonZeroU32,
    /// Who makes the proxy.
    pub xks_proxy_vendor: &'a str,
    /// Product name and version of the proxy.
    pub xks_proxy_model: &'a str,
    /// Who makes the key manager.
    pub ekm_vendor: &'a str,
    /// One to ten key managers; only the first [`EKM_FLEET_MAX`] are sent.
    pub ekm_fleet_details: &'a [EkmFleetDetail],
}

/// Appends the body of GetHealthStatus' answer.
pub fn health(answer: &Health<'_>, out: &mut Vec<u8>) {
    let told = answer.ekm_fleet_details.get(..EKM_FLEET_MAX).unwrap_or(answer.ekm_fleet_details);
    write_json(&Health { ekm_fleet_details: told, ..*answer }, out);
}

fn write_json(body: &impl Serialize, out: &mut Vec<u8>) {
    // Strings, integers and arrays of them, into memory: nothing that serde_json can refuse.
    let written = serde_json::to_writer(out, body);
    debug_assert!(written.is_ok());
}
