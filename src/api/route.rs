//! Which of the four calls a path means, on which key store and key.

use super::error::{ApiError, ErrorName};
use crate::limits::{EXTERNAL_KEY_ID_CHARS_MAX, URI_PATH_CHARS_MAX};

#[cfg(test)]
mod tests;

/// What every path of the API holds between prefix and call.
pub const API_PATH: &str = "/kms/xks/v1";

/// One of the four calls of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// GetKeyMetadata.
    Metadata,
    /// Encrypt.
    Encrypt,
    /// Decrypt.
    Decrypt,
    /// GetHealthStatus.
    Health,
}

impl Operation {
    /// All four, in the specification's order.
    pub const ALL: [Self; 4] = [Self::Metadata, Self::Encrypt, Self::Decrypt, Self::Health];

    /// The last segment of the call's path: `metadata`, `encrypt`, `decrypt`, `health`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Health => "health",
        }
    }

    /// The specification's name of the call.
    pub const fn api_name(self) -> &'static str {
        match self {
            Self::Metadata => "GetKeyMetadata",
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
            Self::Health => "GetHealthStatus",
        }
    }
}

/// A path, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// What stands before `/kms/xks/v1`: `""` or `/a/b`. Whether a key store has this prefix is not
    /// known here.
    pub prefix: &'a str,
    /// The call.
    pub operation: Operation,
    /// The external key id; `""` for [`Operation::Health`].
    pub key_id: &'a str,
}

/// Takes apart the path of a request, as it was sent (percent-encoding is not undone: no legitimate
/// path needs it).
///
/// It is read from its end, because a prefix may hold any segments, `kms` and `keys` too, while a
/// key id holds no slash.
///
/// # Errors
/// InvalidUriPathException for whatever is no path of the API. A key id of a wrong length or with a
/// wrong character gets the same: this is decided before authentication, and KeyNotFoundException
/// is a statement about the keys of a key store, which an unauthenticated caller must not get.
pub fn route(path: &str) -> Result<Route<'_>, ApiError> {
    let (rest, last) = path.rsplit_once('/').ok_or_else(no_such_path)?;
    if last == Operation::Health.as_str() {
        let prefix = prefix_before(rest, API_PATH)?;
        return Ok(Route { prefix, operation: Operation::Health, key_id: "" });
    }
    let operation = match last {
        "metadata" => Operation::Metadata,
        "encrypt" => Operation::Encrypt,
        "decrypt" => Operation::Decrypt,
        _ => return Err(no_such_path()),
    };
    let (rest, key_id) = rest.rsplit_once('/').ok_or_else(no_such_path)?;
    let rest = rest.strip_suffix("/keys").ok_or_else(no_such_path)?;
    let prefix = prefix_before(rest, API_PATH)?;
    if !is_key_id(key_id) {
        return Err(ApiError::new(
            ErrorName::InvalidUriPathException,
            format!(
                "the external key id in the URI path is not 1 to {EXTERNAL_KEY_ID_CHARS_MAX} of \
                 A-Z a-z 0-9 . _ -, or is . or .. alone"
            ),
        ));
    }
    Ok(Route { prefix, operation, key_id })
}

/// The API has only POST. To be called with a routed path, so that an unknown path stays 404 for
/// every method.
///
/// # Errors
/// 405 for every other method. spec: "If the XKS Proxy receives an HTTP GET request at a URI
/// associated with any of these four APIs, it MUST reject the request with a 405 Method Not Allowed
/// error."
pub fn check_method(method: &str) -> Result<(), ApiError> {
    if method == "POST" {
        Ok(())
    } else {
        Err(ApiError::transport(405, "every call of the XKS proxy API is a POST"))
    }
}

/// No call takes parameters. To be called with a routed path and method, so that an unknown path
/// and a GET keep their own errors.
///
/// spec: "The CanonicalQueryString for the XKS Proxy API calls will be \"\" because the APIs
/// described in this specification do not use query parameters."
///
/// # Errors
/// InvalidUriPathException for every query but the empty one. Decided before authentication, as for
/// paths: a parameter that something on the way has added makes the signature wrong as well, and
/// AuthenticationFailedException would send the operator to the credentials.
pub fn check_query(query: &str) -> Result<(), ApiError> {
    if query.is_empty() {
        Ok(())
    } else {
        Err(ApiError::new(
            ErrorName::InvalidUriPathException,
            "the URI has a query string, and no call of the XKS proxy API has one",
        ))
    }
}

/// Whether `text` can be an external key id. spec: at most 128 characters, "uppercase or lowercase
/// letters A through Z, the digits 0 through 9, the hyphen, the period and the underscore". `.` and
/// `..` are refused on top: as a part of a path they mean other paths (RFC 3986, 5.2.4), and HTTP
/// clients and SigV4 normalise them away, so that no such key could ever be asked for.
pub fn is_key_id(text: &str) -> bool {
    (1..=EXTERNAL_KEY_ID_CHARS_MAX).contains(&text.len())
        && !matches!(text, "." | "..")
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Whether `text` can be the path prefix of a key store: empty, or segments that each begin with a
/// slash. spec: with `/kms/xks/v1` at most 128 characters, "a through z, A through Z, 0 through 9,
/// slash (/), dash (-) and underscore (_)". Empty segments are refused on top: SigV4 normalises
/// them away.
pub fn is_path_prefix(text: &str) -> bool {
    text.is_empty()
        || (text.len() + API_PATH.len() <= URI_PATH_CHARS_MAX
            && text.starts_with('/')
            && !text.ends_with('/')
            && !text.contains("//")
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-')))
}

fn prefix_before<'a>(path: &'a str, tail: &str) -> Result<&'a str, ApiError> {
    path.strip_suffix(tail).filter(|prefix| is_path_prefix(prefix)).ok_or_else(no_such_path)
}

fn no_such_path() -> ApiError {
    ApiError::new(
        ErrorName::InvalidUriPathException,
        "the URI path is none of [/prefix]/kms/xks/v1/health and \
         [/prefix]/kms/xks/v1/keys/id/{metadata,encrypt,decrypt}",
    )
}
