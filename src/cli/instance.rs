//! An instance that is asked through its admin listener.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

/// For each step of asking an instance.
const STEP_TIME: Duration = Duration::from_secs(5);
/// Of an answer; thousands of keys take some hundred bytes each.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// An instance's admin listener.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) url: String,
    /// Host and port.
    address: String,
}

impl Instance {
    /// `http://10.0.0.2:9180`
    pub(super) fn parse(url: &str) -> Result<Instance, String> {
        let address = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let has_port = |address: &&str| {
            let port = address.rsplit_once(':').map(|(host, port)| (!host.is_empty(), port));
            port.is_some_and(|(has_host, port)| has_host && port.parse::<u16>().is_ok())
        };
        let address = address.filter(has_port).ok_or("http://ADDRESS:PORT is meant")?;
        Ok(Instance { url: url.to_owned(), address: address.to_owned() })
    }

    /// The admin listener of this machine.
    pub(super) fn of(address: SocketAddr) -> Instance {
        // What listens on all addresses is reached by this one, too.
        let address = match address.ip() {
            ip if !ip.is_unspecified() => address,
            IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())),
            IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, address.port())),
        };
        Instance { url: format!("http://{address}"), address: address.to_string() }
    }

    /// The JSON at a path.
    pub(super) fn get(&self, path: &str) -> Result<Value, String> {
        get(&self.address, path)
    }
}

fn get(address: &str, path: &str) -> Result<Value, String> {
    let failed = |error: std::io::Error| format!("it cannot be asked: {error}");
    let to = address.to_socket_addrs().map_err(failed)?.next().ok_or("it has no address")?;
    let mut stream = TcpStream::connect_timeout(&to, STEP_TIME).map_err(failed)?;
    stream.set_read_timeout(Some(STEP_TIME)).map_err(failed)?;
    stream.set_write_timeout(Some(STEP_TIME)).map_err(failed)?;
    // HTTP/1.0: the answer ends with the connection.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(failed)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.ok_or("it does not answer as an admin listener does")?);
    let first = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    if first.split(|&byte| byte == b' ').nth(1) != Some(b"200") {
        return Err(format!("it answers {:?}", String::from_utf8_lossy(first)));
    }
    serde_json::from_slice(&body[4..]).map_err(|_| format!("its {path} is not JSON"))
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
        assert!(get("127.0.0.1:1", "/status").unwrap_err().contains("cannot be asked"));
    }
}
