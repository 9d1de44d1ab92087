//! Whether other instances have a version of a key: their admin listeners say.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

use super::super::Failure;

/// For each step of asking an instance.
const STEP_TIME: Duration = Duration::from_secs(5);
/// Of an answer; thousands of keys take some hundred bytes each.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// An instance's admin listener.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    url: String,
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
}

/// Refuses when an instance does not have the version of the key, staged or in use.
pub(super) fn refuse_without(
    instances: &[Instance],
    label: &str,
    version: u16,
) -> Result<(), Failure> {
    let wrong: Vec<String> = instances
        .iter()
        .filter_map(|Instance { url, address }| {
            let lacks = status(address).and_then(|status| why_not(&status, label, version));
            lacks.err().map(|why| format!("instance {url}: {why}"))
        })
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!("{}\nnothing was changed", wrong.join("\n"))))
}

/// What `/status` says of the version.
fn why_not(status: &Value, label: &str, version: u16) -> Result<(), String> {
    let stores = status["key_stores"].as_array().into_iter().flatten();
    let keys = stores.flat_map(|store| store["key_versions"].as_array().into_iter().flatten());
    let versions = keys.flat_map(|key| key["versions"].as_array().into_iter().flatten());
    let mut of_label = versions.filter(|found| found["label"] == label).peekable();
    if of_label.peek().is_none() {
        return Err(format!("it has no key {label:?} in use"));
    }
    let found = of_label.find(|found| found["number"] == version);
    match found.and_then(|found| found["state"].as_str()) {
        Some("staged" | "primary" | "decrypt_only") => Ok(()),
        Some(state) => Err(format!("version {version} of {label:?} is {state} there")),
        None => Err(format!("it does not have version {version} of {label:?} yet")),
    }
}

/// `GET /status` of an admin listener.
fn status(address: &str) -> Result<Value, String> {
    let failed = |error: std::io::Error| format!("it cannot be asked: {error}");
    let to = address.to_socket_addrs().map_err(failed)?.next().ok_or("it has no address")?;
    let mut stream = TcpStream::connect_timeout(&to, STEP_TIME).map_err(failed)?;
    stream.set_read_timeout(Some(STEP_TIME)).map_err(failed)?;
    stream.set_write_timeout(Some(STEP_TIME)).map_err(failed)?;
    // HTTP/1.0: the answer ends with the connection.
    let request = format!("GET /status HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(failed)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.ok_or("it does not answer as an admin listener does")?);
    let first = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    if first.split(|&byte| byte == b' ').nth(1) != Some(b"200") {
        return Err(format!("it answers {:?}", String::from_utf8_lossy(first)));
    }
    serde_json::from_slice(&body[4..]).map_err(|_| "its /status is not JSON".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_instance_has_a_version_or_it_is_said_why_not() {
        let of = |state: &str| {
            let versions = json!([
                { "number": 0, "label": "foo", "state": "primary" },
                { "number": 1, "label": "foo", "state": state },
            ]);
            json!({ "key_stores": [{ "key_versions": [{ "key": "a", "versions": versions }] }] })
        };
        for state in ["staged", "primary", "decrypt_only"] {
            assert_eq!(why_not(&of(state), "foo", 1), Ok(()));
        }
        for (status, version, why) in [
            (of("disabled"), 1, "is disabled there"),
            (of("staged"), 2, "does not have version 2"),
            (json!({}), 1, "no key \"foo\""),
        ] {
            assert!(why_not(&status, "foo", version).unwrap_err().contains(why), "{why}");
        }
    }

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
        assert!(status("127.0.0.1:1").unwrap_err().contains("cannot be asked"));
    }
}
