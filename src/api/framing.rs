//! What binds a ciphertext to its context: the ciphertext metadata that xksd writes, the AAD that
//! the key manager gets, and what the integrity value (CDIV) is computed over. Whatever was once
//! encrypted must open for ever: nothing here changes, a new format gets a new first byte.

use ring::digest::{Context, SHA256, digest};

use super::error::{ApiError, ErrorName};
use crate::limits::CIPHERTEXT_METADATA_BYTES_MAX;

#[cfg(test)]
mod tests;

/// First byte of xksd's ciphertext metadata: encrypted with the key itself.
const FORMAT_V1: u8 = 0x01;
/// The same: encrypted with a key derived from it for this message.
const FORMAT_V2: u8 = 0x02;

/// Bytes of xksd's ciphertext metadata, format 1: format ‖ u16be key version.
const V1_BYTES: usize = 3;
/// Bytes behind them in format 2: which of the derived keys.
const SUBKEY_BYTES: usize = 12;
const METADATA_BYTES_MAX: usize = V1_BYTES + SUBKEY_BYTES;

/// The `ciphertextMetadata` of a new ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    bytes: [u8; METADATA_BYTES_MAX],
    len: usize,
}

impl Metadata {
    /// For what is encrypted with a version of a key itself, or with the key that `subkey` makes of
    /// it.
    pub fn new(key_version: u16, subkey: Option<[u8; SUBKEY_BYTES]>) -> Metadata {
        let mut bytes = [0; METADATA_BYTES_MAX];
        bytes[0] = if subkey.is_some() { FORMAT_V2 } else { FORMAT_V1 };
        bytes[1..V1_BYTES].copy_from_slice(&key_version.to_be_bytes());
        let Some(subkey) = subkey else { return Metadata { bytes, len: V1_BYTES } };
        bytes[V1_BYTES..].copy_from_slice(&subkey);
        Metadata { bytes, len: METADATA_BYTES_MAX }
    }

    /// As it stands in the answer.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// How a ciphertext was made, as its metadata says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// By xksd: [`aad_v1`].
    V1 {
        /// Version of the key; there need be none of this number.
        key_version: u16,
    },
    /// By xksd, with a key of the message's own: the AAD is that of format 1.
    V2 {
        /// Version of the key.
        key_version: u16,
        /// Which of the keys that are derived from it.
        subkey: [u8; SUBKEY_BYTES],
    },
    /// No metadata: another proxy's. Whether to open it, and how, is the key store's setting.
    Absent,
}

/// Reads the `ciphertextMetadata` of a decrypt request. Empty is absent: both give the same AAD.
///
/// # Errors
/// InvalidCiphertextException for a format that xksd never wrote.
pub fn parse(metadata: Option<&[u8]>) -> Result<Format, ApiError> {
    match metadata {
        None | Some([]) => Ok(Format::Absent),
        Some(&[FORMAT_V1, high, low]) => {
            Ok(Format::V1 { key_version: u16::from_be_bytes([high, low]) })
        }
        Some(&[FORMAT_V2, high, low, ref subkey @ ..]) if subkey.len() == SUBKEY_BYTES => {
            let key_version = u16::from_be_bytes([high, low]);
            Ok(Format::V2 { key_version, subkey: std::array::from_fn(|n| subkey[n]) })
        }
        Some(_) => Err(unknown_format()),
    }
}

/// The error for a ciphertext of a format that was never written here.
pub fn unknown_format() -> ApiError {
    ApiError::new(
        ErrorName::InvalidCiphertextException,
        "ciphertextMetadata is of an unknown format",
    )
}

/// What [`aad_v1`] puts around an AAD, bytes: the two lengths and the metadata.
pub const AAD_FRAMING_BYTES_MAX: usize = 2 + 1 + CIPHERTEXT_METADATA_BYTES_MAX;

/// The key manager's AAD, format 1. spec: "2-byte length, before Base64 encoding, of
/// additionalAuthenticatedData in big-endian format || additionalAuthenticatedData || 1-byte
/// length, before Base64 encoding, of ciphertextMetadata || ciphertextMetadata", lengths zero where
/// absent.
///
/// Made in the memory of `aad`, if that has capacity for it.
///
/// # Errors
/// UnsupportedOperationException where a length has no room in its field; never for what came out
/// of [`decode`](super::decode), see [`AAD_BYTES_MAX`](crate::limits::AAD_BYTES_MAX).
pub fn aad_v1(aad: Vec<u8>, metadata: &[u8]) -> Result<Vec<u8>, ApiError> {
    framed(aad.len(), aad, metadata)
}

/// The key manager's AAD as AWS's sample proxy (`aws-samples/aws-kms-xks-proxy`) makes it: the
/// SHA-256 of the AAD instead of the AAD, but its own length; nothing where no AAD was given, the
/// hash of nothing where an empty one was.
///
/// This framing and [`aad_v1`] are not disjoint: a 29-byte AAD whose SHA-256 ends in `03 01 00`
/// (found in 2^24 tries) gives what format 1 gives for the hash's first 29 bytes. So it is only
/// for key stores that are configured to accept it.
///
/// # Errors
/// As for [`aad_v1`].
pub fn aad_aws_sample(aad: Option<&[u8]>, metadata: &[u8]) -> Result<Vec<u8>, ApiError> {
    match aad {
        Some(aad) => framed(aad.len(), digest(&SHA256, aad).as_ref().to_vec(), metadata),
        None => framed(0, Vec::new(), metadata),
    }
}

fn framed(aad_len: usize, mut out: Vec<u8>, metadata: &[u8]) -> Result<Vec<u8>, ApiError> {
    let (Ok(aad_len), Ok(metadata_len)) = (u16::try_from(aad_len), u8::try_from(metadata.len()))
    else {
        return Err(ApiError::new(
            ErrorName::UnsupportedOperationException,
            "additionalAuthenticatedData or ciphertextMetadata is too long",
        ));
    };
    out.reserve_exact(2 + 1 + metadata.len());
    out.splice(..0, aad_len.to_be_bytes());
    out.push(metadata_len);
    out.extend_from_slice(metadata);
    Ok(out)
}

/// SHA-256 fed with the beginning of what the integrity value covers. spec, appendix C:
/// "additionalAuthenticatedData || ciphertextMetadata || initializationVector || ciphertext ||
/// authenticationTag"; the last three come from the key manager.
pub fn integrity_prefix(aad: &[u8], metadata: &[u8]) -> Context {
    let mut context = Context::new(&SHA256);
    context.update(aad);
    context.update(metadata);
    context
}
