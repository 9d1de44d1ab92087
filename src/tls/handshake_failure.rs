//! Why a connection was not accepted, told so that an on-call can act on it.

use std::fmt::{self, Write};
use std::io;
use std::time::Duration;

use rustls::Error;

use super::failure::{handshake_failure_label, tls_failure_label, tls_failure_words};
use crate::limits::{CLIENT_HELLO_BYTES_MAX, COMMON_NAME_CHARS_MAX, HANDSHAKE_DETAIL_CHARS_MAX};

/// Why a handshake failed. `Display` is for the log: bounded, and what comes from the client is
/// escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeFailure {
    reason: &'static str,
    detail: String,
    /// Subject common name of the client certificate that was refused, as the client sent it.
    name: Option<String>,
}

impl HandshakeFailure {
    /// It took longer than it may.
    pub fn timed_out() -> Self {
        Self { reason: "timeout", detail: "it took too long".to_owned(), name: None }
    }

    /// Its hello has waited for its turn, and its client will have given up.
    pub(super) fn overload(waited: Duration) -> Self {
        let detail = format!(
            "its ClientHello waited for {} ms and was not answered: more handshakes came than this \
             shard can do",
            waited.as_millis()
        );
        Self { reason: "overload", detail, name: None }
    }

    /// Nothing was done for a client that had gone when its turn came.
    pub(super) fn abandoned() -> Self {
        let detail = "the client was gone before its ClientHello was answered".to_owned();
        Self { reason: "closed", detail, name: None }
    }

    /// Nobody has so much to say.
    pub(super) fn hello_too_long() -> Self {
        let detail = format!("a ClientHello of more than {CLIENT_HELLO_BYTES_MAX} bytes");
        Self { reason: "malformed", detail, name: None }
    }

    /// A load balancer does not say whose connection it is, or somebody does who is none.
    pub fn proxy_protocol(why: &impl fmt::Display) -> Self {
        Self { reason: "proxy_protocol", detail: why.to_string(), name: None }
    }

    /// What [`handshake_failure_label`] or [`tls_failure_label`] says of it, or `timeout`,
    /// `overload` or `proxy_protocol`.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    pub(crate) fn of_io(error: &io::Error, name: Option<String>) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(error) => Self::of_tls(error, name),
            None => {
                Self { reason: handshake_failure_label(error), detail: error.to_string(), name }
            }
        }
    }

    pub(super) fn of_tls(error: &Error, name: Option<String>) -> Self {
        Self { reason: tls_failure_label(error), detail: tls_failure_words(error), name }
    }
}

impl From<io::Error> for HandshakeFailure {
    fn from(error: io::Error) -> Self {
        Self::of_io(&error, None)
    }
}

impl fmt::Display for HandshakeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, Cut(&self.detail, HANDSHAKE_DETAIL_CHARS_MAX))?;
        match &self.name {
            Some(name) => write!(
                f,
                "; the client's certificate has the subject CN \"{}\"",
                Cut(name, COMMON_NAME_CHARS_MAX)
            ),
            None => Ok(()),
        }
    }
}

/// Text in its first so many characters, control characters, quotes and backslashes escaped.
struct Cut<'a>(&'a str, usize);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, cut) = match self.0.char_indices().nth(self.1) {
            Some((end, _)) => (&self.0[..end], "…"),
            None => (self.0, ""),
        };
        for c in text.chars() {
            // Every other library's message has one of these, and it harms nobody.
            if c == '\'' { f.write_char(c)? } else { write!(f, "{}", c.escape_debug())? }
        }
        f.write_str(cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sends_is_cut_and_escaped() {
        let failure = |detail: &str, name: &str| {
            let failure = HandshakeFailure {
                reason: "other",
                detail: detail.to_owned(),
                name: Some(name.to_owned()),
            };
            failure.to_string()
        };
        assert_eq!(
            failure("a\nb\u{1b}", "\"x\" \u{202e}\0"),
            r#"other: a\nb\u{1b}; the client's certificate has the subject CN "\"x\" \u{202e}\0""#
        );
        let whole =
            failure(&"d".repeat(HANDSHAKE_DETAIL_CHARS_MAX), &"ä".repeat(COMMON_NAME_CHARS_MAX));
        assert!(!whole.contains('…'), "{whole}");
        let cut = failure(
            &"d".repeat(HANDSHAKE_DETAIL_CHARS_MAX + 1),
            &"ä".repeat(COMMON_NAME_CHARS_MAX + 1),
        );
        assert_eq!(cut.replace('…', ""), whole);
        assert_eq!(cut.matches('…').count(), 2);
    }
}
