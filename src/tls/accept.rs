//! Accepting a connection, and why one was not accepted, told so that an on-call can act on it.

use std::fmt::{self, Write};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;

use futures_rustls::TlsAcceptor;
use futures_rustls::server::TlsStream;
use futures_util::{AsyncRead, AsyncWrite};
use rustls::{CommonState, Error};

use super::client_auth::refused_name;
use super::failure::{handshake_failure_label, tls_failure_label, tls_failure_words};
use super::server::Server;
use crate::limits::{COMMON_NAME_CHARS_MAX, HANDSHAKE_DETAIL_CHARS_MAX};

impl Server {
    /// The whole handshake, and after it [`Server::confirm`]: who comes out of here may be read
    /// from.
    ///
    /// # Errors
    /// Why there is no connection; the client has been told by an alert where TLS has one for it.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> Result<TlsStream<S>, HandshakeFailure> {
        let mut accepting = TlsAcceptor::from(self.config().clone()).accept(stream);
        let mut name = None;
        let accepted = poll_fn(|cx| {
            let polled = Pin::new(&mut accepting).poll(cx);
            // Taken out in the poll that has put it there: within one no other connection's
            // certificate is verified on this thread.
            name = refused_name::take().or(name.take());
            polled
        });
        match accepted.await {
            Ok(stream) => match self.confirm(stream.get_ref().1) {
                Ok(()) => Ok(stream),
                Err(error) => Err(HandshakeFailure::of_tls(&error, refused_name::take())),
            },
            Err(error) => Err(HandshakeFailure::of_io(&error, name)),
        }
    }
}

impl Server {
    /// Whether the client of an open connection, which `former` admitted, is still admitted.
    ///
    /// # Errors
    /// Why not: the connection must end before it is answered.
    pub fn readmit(
        &self,
        former: &Server,
        connection: &CommonState,
    ) -> Result<(), HandshakeFailure> {
        self.still_admits(former, connection)
            .map_err(|error| HandshakeFailure::of_tls(&error, refused_name::take()))
    }
}

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

    /// What [`handshake_failure_label`] or [`tls_failure_label`] says of it, or `timeout`.
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

    fn of_tls(error: &Error, name: Option<String>) -> Self {
        Self { reason: tls_failure_label(error), detail: tls_failure_words(error), name }
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
