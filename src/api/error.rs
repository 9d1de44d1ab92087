//! The one table of errors that AWS KMS gets: status, name, message.

use std::borrow::Cow;
use std::fmt;

use crate::limits::ERROR_MESSAGE_CHARS_MAX;

#[cfg(test)]
mod tests;

/// The specification's errors. KMS decides by this name, not by the status: it retries
/// only [`InternalException`](Self::InternalException),
/// [`DependencyTimeoutException`](Self::DependencyTimeoutException) and
/// [`ThrottlingException`](Self::ThrottlingException).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorName {
    /// An input parameter is invalid.
    ValidationException,
    /// The key or key store is disabled, deactivated or blocked.
    InvalidStateException,
    /// Ciphertext, IV, AAD, ciphertext metadata or tag are not what was encrypted.
    InvalidCiphertextException,
    /// The key does not support the operation.
    InvalidKeyUsageException,
    /// The SigV4 signature does not verify.
    AuthenticationFailedException,
    /// Secondary authorization says no.
    AccessDeniedException,
    /// No such external key in this key store.
    KeyNotFoundException,
    /// No such path.
    InvalidUriPathException,
    /// Too much load, or over quota.
    ThrottlingException,
    /// Not implemented, or a parameter larger than this implementation supports.
    UnsupportedOperationException,
    /// The key manager did not answer in time.
    DependencyTimeoutException,
    /// The key manager, or the proxy itself, failed.
    InternalException,
}

impl ErrorName {
    /// All of them, in the specification's order.
    pub const ALL: [Self; 12] = [
        Self::ValidationException,
        Self::InvalidStateException,
        Self::InvalidCiphertextException,
        Self::InvalidKeyUsageException,
        Self::AuthenticationFailedException,
        Self::AccessDeniedException,
        Self::KeyNotFoundException,
        Self::InvalidUriPathException,
        Self::ThrottlingException,
        Self::UnsupportedOperationException,
        Self::DependencyTimeoutException,
        Self::InternalException,
    ];

    /// The table: HTTP status and `errorName`.
    const fn row(self) -> (u16, &'static str) {
        match self {
            Self::ValidationException => (400, "ValidationException"),
            Self::InvalidStateException => (400, "InvalidStateException"),
            Self::InvalidCiphertextException => (400, "InvalidCiphertextException"),
            Self::InvalidKeyUsageException => (400, "InvalidKeyUsageException"),
            Self::AuthenticationFailedException => (401, "AuthenticationFailedException"),
            Self::AccessDeniedException => (403, "AccessDeniedException"),
            Self::KeyNotFoundException => (404, "KeyNotFoundException"),
            Self::InvalidUriPathException => (404, "InvalidUriPathException"),
            Self::ThrottlingException => (429, "ThrottlingException"),
            Self::UnsupportedOperationException => (501, "UnsupportedOperationException"),
            Self::DependencyTimeoutException => (503, "DependencyTimeoutException"),
            Self::InternalException => (500, "InternalException"),
        }
    }

    /// HTTP status.
    pub const fn status(self) -> u16 {
        self.row().0
    }

    /// `errorName` as it stands in the body.
    pub const fn as_str(self) -> &'static str {
        self.row().1
    }
}

impl fmt::Display for ErrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as KMS gets it.
///
/// KMS copies the message into the customer's CloudWatch Logs: it says which field or rule, and
/// never holds a value that came with the request, nor anything of the key manager but what helps
/// the customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    name: ErrorName,
    status: u16,
    message: Cow<'static, str>,
}

impl ApiError {
    /// An error of the table.
    pub fn new(name: ErrorName, message: impl Into<Cow<'static, str>>) -> Self {
        Self { name, status: name.status(), message: printable(message.into()) }
    }

    /// A request refused below the API, by an HTTP status that is not in the table: 405, 408, 413,
    /// 431, 505, …
    ///
    /// The body is the API's JSON all the same, since KMS "cannot interpret" anything else:
    /// ValidationException for what the client did wrong (4xx), UnsupportedOperationException for
    /// 501 and 505, InternalException for the rest.
    pub fn transport(status: u16, message: impl Into<Cow<'static, str>>) -> Self {
        let name = match status {
            400..=499 => ErrorName::ValidationException,
            501 | 505 => ErrorName::UnsupportedOperationException,
            _ => ErrorName::InternalException,
        };
        Self { name, status, message: printable(message.into()) }
    }

    /// HTTP status of the response.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// `errorName`.
    pub fn name(&self) -> ErrorName {
        self.name
    }

    /// `errorMessage`: printable ASCII, at most [`ERROR_MESSAGE_CHARS_MAX`] characters; may be
    /// empty.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Appends the response body.
    pub fn write_body(&self, out: &mut Vec<u8>) {
        out.reserve(64 + 2 * self.message.len());
        out.extend_from_slice(b"{\"errorName\":\"");
        out.extend_from_slice(self.name.as_str().as_bytes());
        if !self.message.is_empty() {
            out.extend_from_slice(b"\",\"errorMessage\":\"");
            for byte in self.message.bytes() {
                // Printable ASCII: no other character needs an escape.
                if matches!(byte, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(byte);
            }
        }
        out.extend_from_slice(b"\"}");
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.message)
    }
}

impl std::error::Error for ApiError {}

/// spec: "The errorMessage, if included, MUST be less than 512 characters in length and only use
/// printable ASCII characters, i.e. hex values 0x20 (space) through 0x7e (tilde)."
fn printable(message: Cow<'static, str>) -> Cow<'static, str> {
    let is_printable = |c: char| matches!(c, ' '..='~');
    if message.len() <= ERROR_MESSAGE_CHARS_MAX && message.chars().all(is_printable) {
        return message;
    }
    message
        .chars()
        .take(ERROR_MESSAGE_CHARS_MAX)
        .map(|c| if is_printable(c) { c } else { '?' })
        .collect::<String>()
        .into()
}
