//! What the header fields say about the message itself: where its body ends, whether the connection
//! stays open, whether the client waits for a 100 (RFC 9112, sections 3.2, 6 and 9.3; RFC 9110,
//! section 10.1.1).

use httparse::Header;

use super::Reject;
use super::target::is_authority_byte;
use crate::limits::BODY_BYTES_MAX;

/// Version of HTTP that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `HTTP/1.0`
    Http10,
    /// `HTTP/1.1`
    Http11,
}

/// How the end of a request's body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// `Content-Length`, bytes, at most [`BODY_BYTES_MAX`].
    Length(usize),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A message's framing and what it wants of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) framing: Framing,
    pub(super) keep_alive: bool,
    pub(super) expect_continue: bool,
}

impl Delivery {
    /// Of a message without any header field.
    pub(super) const BARE: Delivery =
        Delivery { framing: Framing::None, keep_alive: false, expect_continue: false };

    pub(super) fn read(version: Version, headers: &[Header<'_>]) -> Result<Delivery, Reject> {
        let Fields { content_length, codings, hosts, close, keep_alive, expect_continue } =
            Fields::read(headers)?;
        // RFC 9112, 3.2: "A server MUST respond with a 400 (Bad Request) status code to any
        // HTTP/1.1 request message that lacks a Host header field and to any request message that
        // contains more than one Host header field line".
        match (version, hosts) {
            (Version::Http11, 0) => return Err(Reject::bad_request("Host is missing")),
            (_, 0 | 1) => {}
            _ => return Err(Reject::bad_request("more than one Host")),
        }
        // RFC 9112, 6.1: "A server MAY reject a request that contains both Content-Length and
        // Transfer-Encoding".
        if content_length.is_some() && codings.any() {
            return Err(Reject::bad_request("Content-Length together with Transfer-Encoding"));
        }
        let framing = match content_length {
            _ if codings.are_chunked(version)? => Framing::Chunked,
            Some(length) if length > BODY_BYTES_MAX => {
                return Err(Reject { status: 413, reason: "body too large" });
            }
            Some(length) => Framing::Length(length),
            None => Framing::None,
        };
        Ok(Delivery {
            framing,
            // RFC 9112, 9.3, in its order: close wins; then 1.1 stays open; 1.0 does when it says
            // so.
            keep_alive: !close && (version == Version::Http11 || keep_alive),
            // RFC 9110, 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0
            // request MUST ignore that expectation"; and without a body to come there is nothing to
            // continue.
            expect_continue: expect_continue
                && version == Version::Http11
                && !matches!(framing, Framing::None | Framing::Length(0)),
        })
    }
}

/// What the fields that decide on it say.
#[derive(Default)]
struct Fields {
    content_length: Option<usize>,
    codings: Codings,
    hosts: usize,
    close: bool,
    keep_alive: bool,
    expect_continue: bool,
}

impl Fields {
    #[inline]
    fn read(headers: &[Header<'_>]) -> Result<Fields, Reject> {
        let mut fields = Fields::default();
        for Header { name, value } in headers {
            // By length first: of the dozen fields of a request, few reach the comparison.
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => {
                    fields.hosts += 1;
                    if !is_host(value) {
                        return Err(Reject::bad_request("invalid Host"));
                    }
                }
                6 if name.eq_ignore_ascii_case("expect") => {
                    if !members(value).all(|member| member.eq_ignore_ascii_case(b"100-continue")) {
                        return Err(Reject {
                            status: 417,
                            reason: "only 100-continue can be expected",
                        });
                    }
                    fields.expect_continue = true;
                }
                10 if name.eq_ignore_ascii_case("connection") => {
                    for option in members(value) {
                        fields.close |= option.eq_ignore_ascii_case(b"close");
                        fields.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    // RFC 9112, 6.3 would let a server accept equal values; a second one shows that
                    // somebody on the way has added it.
                    let length = parse_length(value)?;
                    if fields.content_length.replace(length).is_some() {
                        return Err(Reject::bad_request("more than one Content-Length"));
                    }
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    fields.codings.add(value)?
                }
                _ => {}
            }
        }
        Ok(fields)
    }
}

/// The transfer codings of a message, over all its `Transfer-Encoding` fields.
#[derive(Default)]
struct Codings {
    chunked: usize,
    other: usize,
    chunked_is_last: bool,
}

impl Codings {
    fn add(&mut self, value: &[u8]) -> Result<(), Reject> {
        for coding in members(value) {
            // Also refuses empty members, parameters and quotes: `chunked;a=b`, `"chunked"` and
            // `,chunked` are read differently by different implementations, and no client needs
            // them.
            if coding.is_empty() || !coding.iter().copied().all(is_token_byte) {
                return Err(Reject::bad_request("malformed Transfer-Encoding"));
            }
            self.chunked_is_last = coding.eq_ignore_ascii_case(b"chunked");
            *(if self.chunked_is_last { &mut self.chunked } else { &mut self.other }) += 1;
        }
        Ok(())
    }

    fn any(&self) -> bool {
        self.chunked > 0 || self.other > 0
    }

    /// False when there are none, true when chunked is the one.
    fn are_chunked(&self, version: Version) -> Result<bool, Reject> {
        if !self.any() {
            return Ok(false);
        }
        // RFC 9112, 6.1: "A server or client that receives an HTTP/1.0 message containing a
        // Transfer-Encoding header field MUST treat the message as if the framing is faulty".
        if version == Version::Http10 {
            return Err(Reject::bad_request("Transfer-Encoding in HTTP/1.0"));
        }
        if self.chunked > 1 || (self.chunked == 1 && !self.chunked_is_last) {
            return Err(Reject::bad_request(
                "chunked is not the last transfer coding, or there twice",
            ));
        }
        if self.other > 0 {
            return Err(Reject { status: 501, reason: "unknown transfer coding" });
        }
        Ok(true)
    }
}

/// Members of a comma-separated list, without the white space around them.
fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii)
}

/// `1*DIGIT`; a number too large to count in stays too large.
fn parse_length(value: &[u8]) -> Result<usize, Reject> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Reject::bad_request("malformed Content-Length"));
    }
    Ok(value
        .iter()
        .fold(0_usize, |n, digit| n.saturating_mul(10).saturating_add(usize::from(digit - b'0'))))
}

/// `uri-host [ ":" port ]`, by its characters. May be empty: RFC 9112, 3.2 has clients send it so
/// where the target has no authority.
fn is_host(value: &[u8]) -> bool {
    value.iter().copied().all(is_authority_byte)
}

/// `tchar` of RFC 9110, 5.6.2.
pub(super) fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(
            b,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// What may stand in a field's value: all but control characters, of which the tab is allowed (RFC
/// 9110, 5.5).
pub(super) fn is_value_byte(b: u8) -> bool {
    b == b'\t' || (b >= b' ' && b != 0x7f)
}
