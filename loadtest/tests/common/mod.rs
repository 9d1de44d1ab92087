//! What there is to be loaded: xksd itself in demo mode, and a proxy that misbehaves on purpose.
#![allow(dead_code)] // each test file uses its part

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Runs the tool.
pub fn load(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xksd-load")).args(args).stdin(Stdio::null()).output().unwrap()
}

/// Exit code and everything that was said.
pub fn told(output: &Output) -> (i32, String) {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.code().unwrap_or(-1), text)
}

/// The server is another package: its binary stands beside this tool's own.
fn xksd() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_xksd-load")).with_file_name("xksd");
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace` first, as scripts/test does",
        path.display()
    );
    path
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// `xksd demo`, ended with the value.
pub struct Demo {
    child: Child,
    dir: tempfile::TempDir,
}

impl Demo {
    /// Starts it and waits until it is ready.
    pub fn start() -> Demo {
        Demo::start_with(|_, config| config)
    }

    /// The same with a configuration that `edit` made of its directory and the demo's own.
    pub fn start_with(edit: impl FnOnce(&Path, String) -> String) -> Demo {
        let dir = tempfile::tempdir().unwrap();
        let (listen, admin) = (free_address(), free_address());
        let made = Command::new(xksd())
            .args(["demo", "--files-only", "--dir"])
            .arg(dir.path())
            .args(["--listen", &listen.to_string(), "--admin", &admin.to_string()])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let config = dir.path().join("xksd.toml");
        std::fs::write(&config, edit(dir.path(), std::fs::read_to_string(&config).unwrap()))
            .unwrap();
        let child = Command::new(xksd())
            .args(["serve", "--config"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let demo = Demo { child, dir };
        let deadline = Instant::now() + Duration::from_secs(60);
        // Ready speaks of the key managers; the XKS listener opens a moment later.
        while !is_ready(admin) || TcpStream::connect(listen).is_err() {
            assert!(Instant::now() < deadline, "xksd demo did not become ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        demo
    }

    /// Its configuration.
    pub fn config(&self) -> String {
        self.file("xksd.toml")
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        let config = std::fs::read_to_string(self.config()).unwrap();
        config.split("listen = \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    }

    /// A path in its directory.
    pub fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }
}

impl Demo {
    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_ready(admin: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(admin) else { return false };
    let mut text = String::new();
    let _ = stream
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        .and_then(|()| stream.read_to_string(&mut text).map(drop));
    text.starts_with("HTTP/1.1 200")
}

/// Files as `xksd demo` makes them, without it serving.
pub fn demo_files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let listen = free_address().to_string();
    let done = Command::new(xksd())
        .args(["demo", "--files-only", "--listen", &listen, "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    dir
}

/// An answer of a fake proxy.
pub enum Answer {
    /// Status and body.
    Say(u16, String),
    /// Closes the connection.
    HangUp,
}

/// Serves with the certificate of `dir`, a thread a connection; `answer` gets path and body. It
/// ends with the test process.
pub fn fake_proxy(
    dir: &Path,
    answer: impl Fn(&str, &serde_json::Value) -> Answer + Send + Sync + 'static,
) -> SocketAddr {
    fake_proxy_that_closes_after(dir, None, answer)
}

/// The same; connections without a request for `idle` are closed.
pub fn fake_proxy_that_closes_after(
    dir: &Path,
    idle: Option<Duration>,
    answer: impl Fn(&str, &serde_json::Value) -> Answer + Send + Sync + 'static,
) -> SocketAddr {
    let chain = CertificateDer::pem_file_iter(dir.join("tls/chain.pem"))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_file(dir.join("tls/key.pem")).unwrap();
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
    let (config, answer) = (Arc::new(config), Arc::new(answer));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let (config, answer) = (config.clone(), answer.clone());
            std::thread::spawn(move || {
                socket.set_read_timeout(idle).unwrap();
                let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
                while serve_one(&mut stream, answer.as_ref()).is_some() {}
            });
        }
    });
    address
}

fn serve_one(
    stream: &mut (impl Read + Write),
    answer: &(impl Fn(&str, &serde_json::Value) -> Answer + ?Sized),
) -> Option<()> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 8192]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("Content-Length: "))?
                .parse::<usize>()
                .ok()?;
            if body.len() >= length {
                let json = serde_json::from_str(&body[..length]).ok()?;
                let Answer::Say(status, body) = answer(head.split(' ').nth(1)?, &json) else {
                    return None;
                };
                let answer = format!(
                    "HTTP/1.1 {status} \r\nContent-Type: application/json\r\nContent-Length: \
                     {}\r\n\r\n{body}",
                    body.len()
                );
                return stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).ok();
            }
        }
        match stream.read(&mut chunk) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
            _ => return None,
        }
    }
}
