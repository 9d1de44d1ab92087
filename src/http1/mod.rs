//! HTTP/1.1, pure: bytes → request, response → bytes. No sockets, no clocks.
//!
//! A connection keeps one buffer, one [`RequestHead`] and one output buffer, and uses them for all
//! its requests:
//!
//! 1. append what was read to the buffer, call [`RequestHead::parse`] until it is complete;
//! 2. where [`RequestHead::expect_continue`] and nothing of the body is there yet, send
//!    [`CONTINUE`];
//! 3. [`Body::new`], then append and call [`Body::advance`] until it is complete: head and body now
//!    stand in the buffer one behind the other, behind them what the client has pipelined;
//! 4. [`RequestHead::request`] gives the borrowed [`Request`]; [`Response::write`] answers;
//! 5. remove the request from the front of the buffer, [`RequestHead::clear`].
//!
//! **Refuse rather than guess.** A load balancer in front (HAProxy, an ALB) and this parser must
//! see the same requests in the same bytes, else one client's bytes become another one's request
//! (request smuggling). So whatever two implementations are known to read differently is refused,
//! also where RFC 9112 would let a server repair it, and **every [`Reject`] ends the connection**:
//! behind a message of uncertain length nothing is a request.

mod body;
mod framing;
mod head;
mod response;
mod target;

pub use body::Body;
pub use framing::{Framing, Version};
pub use head::RequestHead;
pub use response::{CONTINUE, Response};

/// How far a head or a body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    Partial,
    /// It is whole.
    Complete {
        /// Offset in the buffer behind its last byte.
        end: usize,
    },
}

/// A message that is not accepted. The answer is `status`, and the connection is closed after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// HTTP status of the answer.
    pub status: u16,
    /// What is wrong, in printable ASCII; contains nothing of the message.
    pub reason: &'static str,
}

impl Reject {
    const fn bad_request(reason: &'static str) -> Self {
        Self { status: 400, reason }
    }
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.status, self.reason)
    }
}

impl std::error::Error for Reject {}

/// One header field as received: name in the case it came, value without surrounding white space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Field name, a valid token; compare with `eq_ignore_ascii_case`.
    pub name: &'a str,
    /// Field value, optional white space around it removed.
    pub value: &'a [u8],
}

impl Header<'_> {
    /// Fills the array that [`RequestHead::request`] is given.
    pub const EMPTY: Header<'static> = Header { name: "", value: b"" };
}

/// What a request says of itself before its body: all that routing and authentication need.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Method as sent, case-sensitive: `POST`.
    pub method: &'a str,
    /// Path of the target as sent (still percent-encoded), without query. Starts with `/`, also for
    /// absolute-form targets.
    pub path: &'a str,
    /// Query without the `?`; empty if there is none.
    pub query: &'a str,
    /// All header fields in the order received.
    pub headers: &'a [Header<'a>],
}

impl<'a> Request<'a> {
    /// Values of all fields called `name` (compared without case), in the order received.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
    }
}
