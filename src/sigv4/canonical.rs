//! The canonical request: the one text that signer and verifier must have in common.
//!
//! By the AWS rules for all services but S3. These map several requests to one text where they
//! normalise the path and decode the query. A verifier need not: it refuses what is not in normal
//! form already ([`check`]), so that a signature says the same of the bytes that the router sees.
//! No XKS path needs normalising, and XKS has no query.

use super::authorization::{SignedHeaders, encode_lower_hex};
use super::error::{AuthError, Excerpt};
use crate::http1::Request;

/// Refuses requests whose canonical form would also be another request's: a path that normalising
/// changes, a query that is not encoded in the one way of AWS, control bytes (a line break would
/// pass for a further line), a signed header that is not there.
pub(super) fn check(
    request: &Request<'_>,
    signed_headers: SignedHeaders<'_>,
) -> Result<(), AuthError> {
    let ambiguous = |problem| Err(AuthError::AmbiguousRequest { problem });
    if request.method.is_empty() || !request.method.bytes().all(|byte| byte.is_ascii_graphic()) {
        return ambiguous("the method is not a token");
    }
    let Some(relative) = request.path.strip_prefix('/') else {
        return ambiguous("the path does not start with '/'");
    };
    let mut segments = relative.split('/').peekable();
    while let Some(segment) = segments.next() {
        // empty: the path ends in '/', as normalising leaves it
        let is_last = segments.peek().is_none();
        if segment == "." || segment == ".." || (segment.is_empty() && !is_last) {
            return ambiguous("the path has an empty segment, '.' or '..'");
        }
    }
    if !request.query.is_empty() && !request.query.split('&').all(is_canonical_parameter) {
        return ambiguous("the query is not percent-encoded in the way of AWS");
    }
    for name in signed_headers.names() {
        let mut is_present = false;
        for value in request.values(name) {
            is_present = true;
            if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
                return ambiguous("a signed header has control bytes");
            }
        }
        if !is_present {
            return Err(AuthError::SignedHeaderMissing { name: Excerpt::of(name) });
        }
    }
    if request.values("host").nth(1).is_some() {
        return ambiguous("there is more than one host header");
    }
    Ok(())
}

/// Writes the canonical request of a request that passed [`check`], piece by piece. Allocates only
/// where there is a query.
pub(super) fn write(
    request: &Request<'_>,
    signed_headers: SignedHeaders<'_>,
    payload_hash: &[u8; 32],
    out: &mut impl FnMut(&[u8]),
) {
    out(request.method.as_bytes());
    out(b"\n");
    write_path(request.path, out);
    out(b"\n");
    write_query(request.query, out);
    out(b"\n");
    for name in signed_headers.names() {
        out(name.as_bytes());
        let mut separator: &[u8] = b":";
        for value in request.values(name) {
            out(separator);
            write_value(value, out);
            separator = b",";
        }
        out(b"\n");
    }
    out(b"\n");
    out(signed_headers.as_str().as_bytes());
    out(b"\n");
    out(&encode_lower_hex(payload_hash));
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Encodes the path as it was sent, which may be percent-encoded itself. AWS: "Each path segment
/// must be URI-encoded twice (except for Amazon S3 which only gets URI-encoded once)". Different
/// paths stay different.
fn write_path(path: &str, out: &mut impl FnMut(&[u8])) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for run in path.as_bytes().chunk_by(|a, b| is_kept(*a) && is_kept(*b)) {
        match run {
            [byte] if !is_kept(*byte) => {
                out(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
            }
            kept => out(kept),
        }
    }
    fn is_kept(byte: u8) -> bool {
        is_unreserved(byte) || byte == b'/'
    }
}

/// `name` or `name=value`, not empty, in the encoding that the canonical form has too: unreserved
/// characters as they are, every other byte as `%XX` in upper case.
fn is_canonical_parameter(parameter: &str) -> bool {
    let (name, value) = split_parameter(parameter);
    !name.is_empty() && is_canonically_encoded(name) && is_canonically_encoded(value)
}

fn split_parameter(parameter: &str) -> (&str, &str) {
    parameter.split_once('=').unwrap_or((parameter, ""))
}

fn is_canonically_encoded(text: &str) -> bool {
    let hex = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => return true,
            [b'%', high, low, rest @ ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) if !is_unreserved(high << 4 | low) => rest,
                _ => return false,
            },
            [byte, rest @ ..] if is_unreserved(*byte) => rest,
            _ => return false,
        };
    }
}

/// Parameters sorted by name, then value: compared apart, as '=' does not come before every other
/// character.
fn write_query(query: &str, out: &mut impl FnMut(&[u8])) {
    if query.is_empty() {
        return;
    }
    let mut parameters: Vec<(&str, &str)> = query.split('&').map(split_parameter).collect();
    parameters.sort_unstable();
    for (at, (name, value)) in parameters.iter().enumerate() {
        if at > 0 {
            out(b"&");
        }
        out(name.as_bytes());
        out(b"=");
        out(value.as_bytes());
    }
}

/// White space around the value removed, inner runs of it folded into one space.
fn write_value(value: &[u8], out: &mut impl FnMut(&[u8])) {
    let words = value.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    for (at, word) in words.enumerate() {
        if at > 0 {
            out(b" ");
        }
        out(word);
    }
}
