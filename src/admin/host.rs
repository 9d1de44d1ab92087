//! Which `Host` a request to the admin listener may name.

use std::net::{IpAddr, Ipv6Addr};

/// Whether `host` (the field's value) is an IP address, `localhost` or one of `names`, with or
/// without a port.
///
/// A page from anywhere can have its own name lead to this listener and then read from it as its
/// own ("DNS rebinding"). Its requests have that name in `Host`; no name but ours leads here for
/// anybody else.
pub(super) fn is_own_host(host: &[u8], names: &[String]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, port)| {
            address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || is_port(port))
        });
    }
    let name = match host.find(':') {
        Some(at) if is_port(&host[at..]) => &host[..at],
        Some(_) => return false,
        None => host,
    };
    // With a dot at its end a name is the same.
    let name = name.strip_suffix('.').unwrap_or(name);
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|own| name.eq_ignore_ascii_case(own))
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_our_names_are_ours() {
        let names = ["xksd-1.example.com".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:9180",
            "10.0.0.1:1",
            "[::1]",
            "[::1]:9180",
            "localhost",
            "LocalHost:9180",
            "localhost.",
            "xksd-1.example.com",
            "XKSD-1.example.com.:9180",
        ] {
            assert!(is_own_host(host.as_bytes(), &names), "{host}");
        }
        for host in [
            "",
            ":9180",
            "example.com",
            "xksd-1.example.com.evil.example",
            "evil.example:9180",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:9180:1",
            "[::1",
            "[::1]x",
            "[evil.example]",
            "::1",
            "localhost:x",
            "xksd-1.example.com..",
            "127.0.0.1@evil.example",
        ] {
            assert!(!is_own_host(host.as_bytes(), &names), "{host}");
        }
        assert!(!is_own_host(b"\xff", &names));
        assert!(!is_own_host(b"xksd-1.example.com", &[]));
    }
}
