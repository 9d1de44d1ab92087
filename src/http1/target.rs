//! The request target (RFC 9112, section 3.2).

use super::Reject;
use crate::limits::TARGET_BYTES_MAX;

const INVALID: Reject = Reject::bad_request("invalid request target");

/// The two parts of a target that count, as sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// Starts with `/`, or is empty: an absolute-form target without a path means `/`.
    pub(super) path: &'a str,
    /// Without the `?`.
    pub(super) query: &'a str,
}

impl<'a> Target<'a> {
    /// Origin-form (`/path?query`) and absolute-form (`https://host/path?query`). Authority-form
    /// and `*` belong to CONNECT and OPTIONS, which are not served.
    ///
    /// The authority of an absolute-form target is checked and then left aside: nothing is routed
    /// by host name, and the signature covers the `Host` field.
    pub(super) fn parse(target: &'a str) -> Result<Target<'a>, Reject> {
        if target.len() > TARGET_BYTES_MAX {
            return Err(Reject { status: 414, reason: "request target too long" });
        }
        // A fragment is never sent; what stands behind `#` would be path for one reader and nothing
        // for another.
        if !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return Err(INVALID);
        }
        let after_authority =
            if target.starts_with('/') { target } else { skip_authority(target)? };
        let (path, query) = after_authority.split_once('?').unwrap_or((after_authority, ""));
        Ok(Target { path, query })
    }
}

/// What follows the authority of an absolute-form target; empty, or from the first `/` or `?`.
fn skip_authority(target: &str) -> Result<&str, Reject> {
    let (scheme, rest) = target.split_once("://").ok_or(INVALID)?;
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return Err(INVALID);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at_checked(end).ok_or(INVALID)?;
    // RFC 9110, 4.2.1: an empty host identifier is invalid. 4.2.4: userinfo SHOULD be treated as an
    // error; `@` is no authority byte here.
    if authority.is_empty()
        || authority.starts_with(':')
        || !authority.bytes().all(is_authority_byte)
    {
        return Err(INVALID);
    }
    Ok(after)
}

/// Characters of a host (name, IPv4, IPv6 in brackets, percent-encoded) and its port: RFC 3986,
/// 3.2.2 and 3.2.3, without userinfo.
pub(super) fn is_authority_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(b, b'-' | b'.' | b'_' | b'~' | b'%' | b':' | b'[' | b']')
        || matches!(b, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(target: &str) -> Result<(&str, &str), u16> {
        Target::parse(target).map(|t| (t.path, t.query)).map_err(|reject| reject.status)
    }

    #[test]
    fn origin_form() {
        assert_eq!(parse("/"), Ok(("/", "")));
        assert_eq!(parse("/a/b%2F"), Ok(("/a/b%2F", "")));
        assert_eq!(parse("/a?b=c?d"), Ok(("/a", "b=c?d")));
        assert_eq!(parse("//host/a"), Ok(("//host/a", "")));
        assert_eq!(parse("/http://host/a"), Ok(("/http://host/a", "")));
    }

    #[test]
    fn absolute_form() {
        assert_eq!(parse("http://host/a?b"), Ok(("/a", "b")));
        assert_eq!(parse("HTTPS://host:443/a"), Ok(("/a", "")));
        assert_eq!(parse("https://[::1]:443/a"), Ok(("/a", "")));
        assert_eq!(parse("https://host"), Ok(("", "")));
        assert_eq!(parse("https://host?b"), Ok(("", "b")));
    }

    #[test]
    fn refused() {
        for target in [
            "",
            "*",
            "host:443",
            "a/b",
            "?a",
            "ftp://host/a",
            "://host/a",
            "http:/a",
            "http:///a",
            "http://:80/a",
            "http://u@host/a",
            "http://ho\\st/a",
            "/a#b",
            "/a b",
            "/ä",
            "/a\u{7f}",
            "/a\u{0}",
        ] {
            assert_eq!(parse(target), Err(400), "{target:?}");
        }
    }

    #[test]
    fn length() {
        let longest = format!("/{}", "a".repeat(TARGET_BYTES_MAX - 1));
        assert!(parse(&longest).is_ok());
        assert_eq!(parse(&format!("{longest}a")), Err(414));
    }
}
