//! A request's head: request line and header fields (RFC 9112, sections 2 to 5).

use std::mem::MaybeUninit;

use memchr::memchr;

use super::framing::{Delivery, Framing, Version};
use super::target::Target;
use super::{Header, Progress, Reject, Request};
use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX, LEADING_EMPTY_LINES_MAX};

#[cfg(test)]
mod tests;

/// The parser of heads and what it has found, for one connection; [`RequestHead::clear`] makes it
/// ready for the next request.
///
/// It holds offsets, not references: the buffer may grow and move while the body comes in. No
/// memory is allocated once the list of fields has its size. What it finds is meaningful only
/// after [`Progress::Complete`].
#[derive(Debug)]
pub struct RequestHead {
    /// No line ends between `line_start` and here, bytes; here the search goes on. A client that
    /// sends byte by byte costs one look at each byte, and httparse runs once.
    scanned: usize,
    /// Start of the line that has not ended yet.
    line_start: usize,
    /// Start of the request line, behind empty lines.
    start: usize,
    empty_lines: usize,
    /// Behind the head's last byte; 0 until it is complete.
    end: usize,
    version: Version,
    delivery: Delivery,
    method: Span,
    path: Span,
    query: Span,
    /// Name and value of each field.
    headers: Vec<(Span, Span)>,
}

impl Default for RequestHead {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestHead {
    /// Ready for a connection's first request.
    pub const fn new() -> Self {
        Self {
            scanned: 0,
            line_start: 0,
            start: 0,
            empty_lines: 0,
            end: 0,
            version: Version::Http11,
            delivery: Delivery::BARE,
            method: Span::EMPTY,
            path: Span::EMPTY,
            query: Span::EMPTY,
            headers: Vec::new(),
        }
    }

    /// Ready for the next request; keeps its memory.
    pub fn clear(&mut self) {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        *self = Self { headers, ..Self::new() };
    }

    /// Looks for a head at the start of `buf`. Between calls `buf` may only grow at its end, until
    /// [`RequestHead::clear`]. What comes out does not depend on how the bytes are divided into
    /// calls.
    pub fn parse(&mut self, buf: &[u8]) -> Result<Progress, Reject> {
        if self.end == 0 {
            let Some(end) = self.find_end(buf)? else { return Ok(Progress::Partial) };
            self.read(buf.get(..end).unwrap_or_default())?;
            self.end = end;
        }
        Ok(Progress::Complete { end: self.end })
    }

    /// Offset behind the empty line that ends the head, when it is there. All lines up to it end in
    /// CRLF.
    fn find_end(&mut self, buf: &[u8]) -> Result<Option<usize>, Reject> {
        let window = buf.get(..HEAD_BYTES_MAX).unwrap_or(buf);
        while let Some(found) = memchr(b'\n', window.get(self.scanned..).unwrap_or_default()) {
            let line_end = self.scanned + found + 1;
            // Without its line end. A recipient MAY take a bare LF as a line's end (RFC 9112, 2.2);
            // that not all do is what smuggling lives on.
            let Some(line) =
                window.get(self.line_start..line_end).and_then(|line| line.strip_suffix(b"\r\n"))
            else {
                return Err(Reject::bad_request("line does not end in CRLF"));
            };
            if line.is_empty() && self.line_start > self.start {
                return Ok(Some(line_end));
            }
            if line.is_empty() {
                if self.empty_lines == LEADING_EMPTY_LINES_MAX {
                    return Err(Reject::bad_request("no request line"));
                }
                self.empty_lines += 1;
                self.start = line_end;
            }
            self.line_start = line_end;
            self.scanned = line_end;
        }
        self.scanned = window.len();
        match () {
            () if window.len() < HEAD_BYTES_MAX => Ok(None),
            () if self.line_start == self.start => {
                Err(Reject { status: 414, reason: "request line too long" })
            }
            () => Err(Reject { status: 431, reason: "request head too large" }),
        }
    }

    /// `head` ends with its empty line.
    fn read(&mut self, head: &[u8]) -> Result<(), Reject> {
        let text = head.get(self.start..).unwrap_or_default();
        let mut fields = [MaybeUninit::uninit(); HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        let outcome = parsed.parse_with_uninit_headers(text, &mut fields);
        // `Partial` or another end cannot be: both look for the first empty line. If they ever
        // disagree, neither can be right.
        let (Some(method), Some(target), Some(minor)) = (match outcome {
            Ok(httparse::Status::Complete(end)) if end == text.len() => {
                (parsed.method, parsed.path, parsed.version)
            }
            Ok(_) => (None, None, None),
            Err(error) => return Err(explain(error, text)),
        }) else {
            return Err(Reject::bad_request("malformed request"));
        };
        let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        let target = Target::parse(target)?;
        self.delivery = Delivery::read(version, parsed.headers)?;
        self.version = version;
        self.method = Span::of(method.as_bytes(), head);
        self.path = Span::of(target.path.as_bytes(), head);
        self.query = Span::of(target.query.as_bytes(), head);
        self.headers.extend(
            parsed
                .headers
                .iter()
                .map(|h| (Span::of(h.name.as_bytes(), head), Span::of(h.value, head))),
        );
        Ok(())
    }

    /// The request, borrowed from `buf`, the one whose head was parsed. `headers` (of
    /// [`Header::EMPTY`]) is room for its fields.
    pub fn request<'h, 'b: 'h>(
        &self,
        buf: &'b [u8],
        headers: &'h mut [Header<'b>; HEADERS_MAX],
    ) -> Request<'h> {
        for (header, (name, value)) in headers.iter_mut().zip(&self.headers) {
            *header = Header { name: name.text(buf), value: value.bytes(buf) };
        }
        let path = match self.path.text(buf) {
            "" => "/",
            path => path,
        };
        Request {
            method: self.method.text(buf),
            path,
            query: self.query.text(buf),
            headers: headers.get(..self.headers.len()).unwrap_or_default(),
        }
    }

    /// Whether what has come in asks by HEAD, whose answer has no body (RFC 9112, 6.3), also where
    /// [`RequestHead::parse`] has refused the rest.
    pub fn is_head(&self, buf: &[u8]) -> bool {
        buf.get(self.start..).is_some_and(|line| line.starts_with(b"HEAD "))
    }

    /// Version of HTTP the client speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where the body ends.
    pub fn framing(&self) -> Framing {
        self.delivery.framing
    }

    /// Whether the client lets the connection stay open after the response.
    pub fn keep_alive(&self) -> bool {
        self.delivery.keep_alive
    }

    /// Whether the client waits for [`super::CONTINUE`] before it sends the body.
    pub fn expect_continue(&self) -> bool {
        self.delivery.expect_continue
    }
}

/// Why httparse does not take `text`, a whole head.
fn explain(error: httparse::Error, text: &[u8]) -> Reject {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => Reject { status: 431, reason: "too many header fields" },
        Error::Version => {
            let line = text.split(|&b| b == b'\r').next().unwrap_or_default();
            match line.splitn(3, |&b| b == b' ').nth(2) {
                Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']) => {
                    Reject { status: 505, reason: "only HTTP/1.1 and HTTP/1.0 are spoken" }
                }
                _ => Reject::bad_request("malformed request line"),
            }
        }
        Error::HeaderName => Reject::bad_request(
            "malformed header field (folded line, or white space before the colon, or no name)",
        ),
        Error::HeaderValue => Reject::bad_request("control character in a header field"),
        Error::NewLine | Error::Status | Error::Token => {
            Reject::bad_request("malformed request line")
        }
    }
}

/// Where a piece of the head stands in the buffer, bytes. Small, because every open connection
/// keeps a list of them.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u16,
    end: u16,
}

const _: () = assert!(HEAD_BYTES_MAX <= u16::MAX as usize, "offsets in a head are u16");

impl Span {
    const EMPTY: Span = Span { start: 0, end: 0 };

    /// `part` is a piece of `head`, which is at most HEAD_BYTES_MAX long: no cast cuts anything
    /// off.
    fn of(part: &[u8], head: &[u8]) -> Span {
        let start = part.as_ptr().addr().wrapping_sub(head.as_ptr().addr());
        Span { start: start as u16, end: (start.wrapping_add(part.len())) as u16 }
    }

    /// Empty when `buf` is not the one parsed.
    fn bytes(self, buf: &[u8]) -> &[u8] {
        buf.get(usize::from(self.start)..usize::from(self.end)).unwrap_or_default()
    }

    /// Everything asked for as text was found to be ASCII.
    fn text(self, buf: &[u8]) -> &str {
        str::from_utf8(self.bytes(buf)).unwrap_or_default()
    }
}
