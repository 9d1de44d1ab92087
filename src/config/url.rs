//! Addresses of other services: etcd, witnesses, instances.

use std::fmt;
use std::net::Ipv6Addr;

/// `http[s]://HOST[:PORT][/PREFIX]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Whether it is https.
    pub tls: bool,
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Empty, or with `/` in front and none at the end.
    pub prefix: String,
}

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

impl Url {
    /// `None` where it is something else.
    pub fn parse(text: &str) -> Option<Url> {
        let (tls, rest) = match text.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("http://")?),
        };
        let is_plain =
            |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && !b"?#@".contains(&b));
        let (authority, prefix) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, if tls { HTTPS_PORT } else { HTTP_PORT }),
        };
        let host = match host.strip_prefix('[') {
            Some(address) => address.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.to_string(),
            None => Some(host).filter(|host| !host.contains(':'))?.to_owned(),
        };
        let prefix = prefix.trim_end_matches('/').to_owned();
        let is_url = !host.is_empty() && port != 0 && is_plain(rest);
        is_url.then_some(Url { tls, host, port, prefix })
    }

    /// The same, if it is not https.
    pub(super) fn parse_plain(text: &str) -> Option<Url> {
        Url::parse(text).filter(|url| !url.tls)
    }

    /// Host and port, as in the field `Host`.
    pub fn authority(&self) -> String {
        let Url { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}
