//! The `Authorization` header: `AWS4-HMAC-SHA256
//! Credential=<id>/<yyyymmdd>/<region>/<service>/aws4_request, SignedHeaders=<names>,
//! Signature=<hex>`.

use super::error::AuthError;
use crate::limits::SIGNED_HEADERS_MAX;

/// The only algorithm; also the first line of the string to sign.
pub(super) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Ends every credential scope.
pub(super) const TERMINATOR: &str = "aws4_request";

/// The header, taken apart. In form; nothing is compared with anything yet.
#[derive(Debug)]
pub(super) struct Authorization<'a> {
    /// As sent: any text, also with slashes.
    pub(super) access_key_id: &'a str,
    /// Day of the scope as sent.
    pub(super) date: &'a str,
    /// Region of the scope as sent.
    pub(super) region: &'a str,
    /// Service of the scope as sent.
    pub(super) service: &'a str,
    /// The headers that the signature covers.
    pub(super) signed_headers: SignedHeaders<'a>,
    /// The signature, decoded.
    pub(super) signature: [u8; 32],
}

impl<'a> Authorization<'a> {
    /// Takes the header's value apart.
    pub(super) fn parse(value: &'a [u8]) -> Result<Self, AuthError> {
        let malformed = |problem| AuthError::MalformedAuthorization { problem };
        let text = std::str::from_utf8(value)
            .ok()
            .filter(|text| text.bytes().all(|byte| matches!(byte, b' '..=b'~')))
            .ok_or(malformed("it has bytes outside printable ASCII"))?;
        let (algorithm, parameters) = text.split_once(' ').unwrap_or((text, ""));
        if algorithm != ALGORITHM {
            return Err(AuthError::UnsupportedAlgorithm);
        }

        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for parameter in parameters.split(',') {
            let (name, value) = parameter
                .trim_matches(' ')
                .split_once('=')
                .ok_or(malformed("a parameter has no '='"))?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => {
                    return Err(malformed(
                        "it has a parameter other than Credential, SignedHeaders and Signature",
                    ));
                }
            };
            if slot.replace(value).is_some() {
                return Err(malformed("a parameter is given twice"));
            }
        }
        let credential = credential.ok_or(malformed("Credential is missing"))?;
        let signed_headers = signed_headers.ok_or(malformed("SignedHeaders is missing"))?;
        let signature = signature.ok_or(malformed("Signature is missing"))?;

        // From the right: the id is the one part that may hold a slash, when somebody puts a secret
        // access key in its place. So no part of that is taken for a region and shown in an error.
        let malformed = |problem| AuthError::MalformedCredential { problem };
        let mut parts = credential.rsplitn(5, '/');
        if parts.next() != Some(TERMINATOR) {
            return Err(malformed("it does not end in /aws4_request"));
        }
        let (Some(service), Some(region), Some(date), Some(access_key_id)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed(
                "it is not <access key id>/<yyyymmdd>/<region>/<service>/aws4_request",
            ));
        };

        Ok(Self {
            access_key_id,
            date,
            region,
            service,
            signed_headers: SignedHeaders::parse(signed_headers)?,
            signature: decode_lower_hex(signature.as_bytes())
                .ok_or(AuthError::MalformedSignature)?,
        })
    }
}

/// `SignedHeaders`: lower-case names in strictly ascending order, so none twice, `host` and
/// `x-amz-date` among them.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignedHeaders<'a>(&'a str);

impl<'a> SignedHeaders<'a> {
    fn parse(text: &'a str) -> Result<Self, AuthError> {
        let malformed = |problem| AuthError::MalformedSignedHeaders { problem };
        let mut previous = "";
        for (at, name) in text.split(';').enumerate() {
            if at == SIGNED_HEADERS_MAX {
                return Err(malformed("it has too many names"));
            }
            if !name.bytes().all(is_lower_token) {
                return Err(malformed("a name is not in lower case, or not a header name"));
            }
            // The empty name is caught here too: nothing is less than it.
            if name <= previous {
                return Err(malformed("its names are not sorted, or one is empty or given twice"));
            }
            previous = name;
        }
        let signed = Self(text);
        // spec: "All XKS Proxy requests initiated by the XKS Proxy Management Fleet will include
        // the Host and X-Amz-Date headers in the signature."
        for name in ["host", "x-amz-date"] {
            if !signed.contains(name) {
                return Err(AuthError::HeaderNotSigned { name });
            }
        }
        Ok(signed)
    }

    /// The names in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.0.split(';')
    }

    /// Whether the header of that lower-case name is signed.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.names().any(|signed| signed == name)
    }

    /// As sent: the list itself is part of the canonical request.
    pub(super) fn as_str(&self) -> &'a str {
        self.0
    }
}

/// RFC 9110 section 5.6.2 `tchar`, without upper-case letters.
fn is_lower_token(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// 32 bytes out of exactly 64 lower-case hexadecimal digits.
pub(super) fn decode_lower_hex(text: &[u8]) -> Option<[u8; 32]> {
    /// Of each byte; this for one that is no digit.
    const NONE: u8 = 0xff;
    const DIGITS: [u8; 256] = {
        let mut digits = [NONE; 256];
        let mut value = 0;
        while value < 16 {
            digits[b"0123456789abcdef"[value] as usize] = value as u8;
            value += 1;
        }
        digits
    };
    let text: &[u8; 64] = text.try_into().ok()?;
    let mut bytes = [0; 32];
    let mut seen = 0;
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    (seen < 16).then_some(bytes)
}

/// 64 lower-case hexadecimal digits.
pub(super) fn encode_lower_hex(bytes: &[u8; 32]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}
