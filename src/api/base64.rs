//! Base64 as the specification has it: "standard Base64 encoding (not URL-safe encoding) as defined
//! in Section 4 of RFC 4648", with padding, and with no second spelling of the same bytes (trailing
//! bits are zero).

use std::ops::Deref;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::limits::{CIPHERTEXT_METADATA_BYTES_MAX, TAG_BYTES};

#[cfg(test)]
mod tests;

/// Why a text was not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Not Base64 in its one canonical form.
    NotBase64,
    /// More bytes than the caller has a use for.
    TooLong,
}

/// Characters of Base64 for `bytes` bytes.
pub(super) const fn text_len(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// Appends the Base64 of `bytes`.
///
/// Moves `out` to a larger allocation when there is no room, which leaves a copy of its earlier
/// content behind: if that is secret, reserve before.
pub(super) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + text_len(bytes.len()), b'=');
    // The slice has the text's exact length, whatever the bytes are, so this cannot fail.
    let written = STANDARD.encode_slice(bytes, &mut out[start..]);
    debug_assert_eq!(written, Ok(out.len() - start));
}

/// Decodes the inside of a JSON string (between its quotes, escapes as they came) of at most `max`
/// bytes.
///
/// Everything on the way may be plaintext, and is wiped: the result, and the text where it had
/// escapes (some encoders write `/` as `\/`).
pub(super) fn decode(json: &str, max: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    decode_with_capacity(json, max, 0)
}

/// As [`decode`], with capacity for so many `more` bytes.
pub(super) fn decode_with_capacity(
    json: &str,
    max: usize,
    more: usize,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    of_text(json, max, |text| {
        let mut bytes = Zeroizing::new(Vec::with_capacity(decoded_max(text.len()) + more));
        bytes.resize(decoded_max(text.len()), 0);
        let len = decode_into(text, max, &mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    })
}

/// A few bytes that are no secret, without an allocation: a tag, ciphertext metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    bytes: [u8; decoded_max(text_len(SHORT_BYTES_MAX))],
    len: usize,
}

const SHORT_BYTES_MAX: usize = CIPHERTEXT_METADATA_BYTES_MAX;
const _: () = assert!(TAG_BYTES <= SHORT_BYTES_MAX);

impl Deref for Short {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// As [`decode`]; `max` is at most [`SHORT_BYTES_MAX`].
pub(super) fn decode_short(json: &str, max: usize) -> Result<Short, Failure> {
    of_text(json, max, |text| {
        let mut bytes = [0; _];
        let buffer = bytes.get_mut(..decoded_max(text.len())).ok_or(Failure::TooLong)?;
        let len = decode_into(text, max, buffer)?;
        Ok(Short { bytes, len })
    })
}

/// Bytes that are written at the most for so many characters.
const fn decoded_max(chars: usize) -> usize {
    chars.div_ceil(4) * 3
}

fn decode_into(text: &[u8], max: usize, buffer: &mut [u8]) -> Result<usize, Failure> {
    let len = STANDARD.decode_slice(text, buffer).map_err(|_| Failure::NotBase64)?;
    // The last group of the text may stand for one to three bytes.
    if len > max { Err(Failure::TooLong) } else { Ok(len) }
}

/// Decodes the text that the inside of a JSON string means, where it is not too long for `max`
/// bytes.
fn of_text<T>(
    json: &str,
    max: usize,
    decode: impl FnOnce(&[u8]) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let unescaped;
    let text = if json.contains('\\') {
        unescaped = unescape(json.as_bytes())?;
        unescaped.as_slice()
    } else {
        json.as_bytes()
    };
    // Before decoding, so that the work is bounded by what can be accepted.
    if text.len() > text_len(max) {
        return Err(Failure::TooLong);
    }
    decode(text)
}

/// Undoes JSON's escapes where they stand for an ASCII character that Base64 can hold; any other
/// makes it no Base64.
fn unescape(json: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut text = Zeroizing::new(Vec::with_capacity(json.len()));
    let mut rest = json;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        match rest {
            [b'/', after @ ..] => {
                text.push(b'/');
                rest = after;
            }
            [b'u', b'0', b'0', high, low, after @ ..] => {
                let high = char::from(*high).to_digit(16).ok_or(Failure::NotBase64)?;
                let low = char::from(*low).to_digit(16).ok_or(Failure::NotBase64)?;
                text.push(u8::try_from(high * 16 + low).map_err(|_| Failure::NotBase64)?);
                rest = after;
            }
            _ => return Err(Failure::NotBase64),
        }
    }
    Ok(text)
}
