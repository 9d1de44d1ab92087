//! An instance that is asked through its admin listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use crate::config::Url;
use crate::control::http_client::{self, Bounds, Request};

/// For asking an instance.
const BOUNDS: Bounds = Bounds {
    connect: Duration::from_secs(5),
    call: Duration::from_secs(15),
    // Thousands of keys take some hundred bytes each.
    answer_bytes: 64 * 1024 * 1024,
};

/// An instance's admin listener.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) url: String,
    admin: Url,
}

impl Instance {
    /// `http://10.0.0.2:9180`
    pub(super) fn parse(url: &str) -> Result<Instance, String> {
        let has_port =
            |admin: &Url| url.trim_end_matches('/').ends_with(&format!(":{}", admin.port));
        let admin = Url::parse(url).filter(|at| !at.tls && at.prefix.is_empty() && has_port(at));
        let admin = admin.ok_or("http://ADDRESS:PORT is meant")?;
        Ok(Instance { url: url.to_owned(), admin })
    }

    /// The admin listener of this machine.
    pub(super) fn of(address: SocketAddr) -> Instance {
        // What listens on all addresses is reached by this one, too.
        let address = match address.ip() {
            ip if !ip.is_unspecified() => address,
            IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())),
            IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, address.port())),
        };
        let host = address.ip().to_string();
        let admin = Url { tls: false, host, port: address.port(), prefix: String::new() };
        Instance { url: admin.to_string(), admin }
    }

    /// The JSON at a path.
    pub(super) fn get(&self, path: &str) -> Result<Value, String> {
        let failed = |why: String| format!("it cannot be asked: {why}");
        let answer =
            http_client::send(&self.admin, None, Request::get(path), BOUNDS).map_err(failed)?;
        if answer.status != 200 {
            return Err(format!("it answers {}", answer.status));
        }
        let body = answer.body().map_err(failed)?;
        serde_json::from_slice(&body).map_err(|_| format!("its {path} is not JSON"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_admin_listener_can_be_asked() {
        for url in [
            "10.0.0.1:9180",
            "https://10.0.0.1:9180",
            "http://",
            "http://a",
            "http://:9180",
            "http://a:9180/status",
            "http://a:99999",
        ] {
            assert!(Instance::parse(url).is_err(), "{url}");
        }
        for url in ["http://10.0.0.1:9180", "http://[::1]:9180/", "http://a.example:1"] {
            assert!(Instance::parse(url).is_ok(), "{url}");
        }
        let nobody = Instance::parse("http://127.0.0.1:1").unwrap();
        assert!(nobody.get("/status").unwrap_err().contains("cannot be asked"));
    }
}
