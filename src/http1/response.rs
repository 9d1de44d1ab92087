//! Responses (RFC 9112, section 4; RFC 9110, sections 6.6, 8 and 15).

use super::Version;

#[cfg(test)]
mod tests;

/// The interim response to `Expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A response with a JSON body. Nothing in its head comes from a request, so none can be injected.
///
/// It has no `Date`: RFC 9110, 6.6.1 asks for it of servers with a clock, and this module has none;
/// the field is for caches, and the answer to a POST is not stored. It has no `Server`: that would
/// only tell an attacker what to look up. A 401 has no `WWW-Authenticate`: there is no registered
/// challenge for SigV4, and the XKS specification names none.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// Status code, of three digits.
    pub status: u16,
    /// Version of the request; [`Version::Http11`] if it is not known.
    pub version: Version,
    /// False says that the connection will be closed after this response.
    pub keep_alive: bool,
    /// The request was HEAD: everything is sent but the body.
    pub without_body: bool,
    /// JSON.
    pub body: &'a [u8],
}

impl Response<'_> {
    /// Appends the response to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.reserve(HEAD_BYTES + self.body.len());
        out.extend_from_slice(b"HTTP/1.1 ");
        write_decimal(out, usize::from(self.status));
        out.push(b' ');
        out.extend_from_slice(reason_phrase(self.status).as_bytes());
        out.extend_from_slice(b"\r\nContent-Type: application/json\r\nContent-Length: ");
        write_decimal(out, self.body.len());
        if !self.keep_alive {
            out.extend_from_slice(b"\r\nConnection: close");
        } else if self.version == Version::Http10 {
            out.extend_from_slice(b"\r\nConnection: keep-alive");
        }
        if self.status == 405 {
            // RFC 9110, 15.5.6: "The origin server MUST generate an Allow header field in a 405
            // response".
            out.extend_from_slice(b"\r\nAllow: POST");
        }
        out.extend_from_slice(b"\r\n\r\n");
        if !self.without_body {
            out.extend_from_slice(self.body);
        }
    }
}

/// Room for every head that [`Response::write`] makes, bytes.
const HEAD_BYTES: usize = 192;

/// As RFC 9110, 15 and RFC 6585 call it; empty for a status that xksd does not use, which RFC 9112,
/// 4 allows.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

fn write_decimal(out: &mut Vec<u8>, mut n: usize) {
    let from = out.len();
    loop {
        out.push(b'0' + (n % 10) as u8);
        n /= 10;
        if n == 0 {
            break;
        }
    }
    if let Some(digits) = out.get_mut(from..) {
        digits.reverse();
    }
}
