//! A real etcd with one member, and a way to what it holds beside xksd's.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::{eventually, free_port};

/// The process; it ends with this.
pub struct Etcd {
    child: Child,
    dir: tempfile::TempDir,
    pub port: u16,
    tls: Vec<String>,
}

impl Etcd {
    /// Over plain HTTP.
    pub fn start() -> Etcd {
        Etcd::with(&[], Vec::new())
    }

    /// Over TLS: `server` are arguments of etcd, `curl` those of a client.
    pub fn with_tls(server: &[&str], curl: Vec<String>) -> Etcd {
        Etcd::with(server, curl)
    }

    fn with(server: &[&str], tls: Vec<String>) -> Etcd {
        let dir = tempfile::tempdir().expect("a directory");
        let (port, scheme) = (free_port(), if tls.is_empty() { "http" } else { "https" });
        let child = spawn(dir.path(), scheme, port, server);
        let etcd = Etcd { child, dir, port, tls };
        etcd.wait();
        etcd
    }

    fn wait(&self) {
        eventually("etcd answers", || {
            self.try_call("/v3/maintenance/status", &json!({})).is_some()
        });
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, over plain HTTP, with what it had.
    pub fn start_again(&mut self) {
        self.kill();
        self.child = spawn(self.dir.path(), "http", self.port, &[]);
        self.wait();
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_empty() { "http" } else { "https" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// A call of its JSON gateway, by curl: another client than xksd's.
    pub fn try_call(&self, path: &str, body: &Value) -> Option<Value> {
        let output = Command::new("curl")
            .args(["-s", "--fail", "--max-time", "5", "-d", &body.to_string()])
            .args(&self.tls)
            .arg(format!("{}{path}", self.url()))
            .output()
            .expect("curl");
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    pub fn call(&self, path: &str, body: &Value) -> Value {
        self.try_call(path, body).unwrap_or_else(|| panic!("etcd refuses {path} {body}"))
    }

    /// What stands under a key.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.call("/v3/kv/range", &json!({ "key": STANDARD.encode(key) }));
        let value = answer["kvs"].as_array()?.first()?["value"].as_str()?.to_owned();
        STANDARD.decode(value).ok()
    }

    pub fn put(&self, key: &str, value: &[u8]) {
        let (key, value) = (STANDARD.encode(key), STANDARD.encode(value));
        self.call("/v3/kv/put", &json!({ "key": key, "value": value }));
    }

    pub fn delete(&self, key: &str) {
        self.call("/v3/kv/deleterange", &json!({ "key": STANDARD.encode(key) }));
    }
}

fn spawn(dir: &Path, scheme: &str, port: u16, more: &[&str]) -> Child {
    let client = format!("{scheme}://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", free_port());
    Command::new("etcd")
        .args(["--name", "one", "--data-dir", dir.join("data").to_str().expect("UTF-8")])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("one={peer}"), "--unsafe-no-fsync"])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd is missing: run scripts/test")
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
