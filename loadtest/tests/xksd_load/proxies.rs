//! What there is to be loaded: xksd itself in demo mode, and a proxy that misbehaves on purpose.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use test_harness::{Server, programs};

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

/// `xksd demo`, ended with the value.
pub struct Demo {
    server: Server,
    dir: tempfile::TempDir,
}

impl Demo {
    /// Starts it and waits until it is ready.
    pub fn start() -> Demo {
        Demo::start_with(|_, config| config)
    }

    /// The same with a configuration that `edit` made of its directory and the demo's own.
    pub fn start_with(edit: impl FnOnce(&Path, String) -> String) -> Demo {
        let dir = demo_files();
        let config = dir.path().join("xksd.toml");
        let text = edit(dir.path(), std::fs::read_to_string(&config).unwrap());
        std::fs::write(&config, text).unwrap();
        Demo::serve(dir)
    }

    /// Another one with the same files, at other ports: two proxies of one fleet.
    pub fn beside(&self) -> Demo {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().to_str().unwrap();
        assert!(Command::new("cp").args(["-r", &self.file("."), to]).status().unwrap().success());
        let config = dir.path().join("xksd.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let any =
            |text: String, port: u16| text.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0");
        std::fs::write(&config, any(any(text, self.server.port), self.server.admin)).unwrap();
        Demo::serve(dir)
    }

    /// Serves what is in a directory, at any free ports.
    fn serve(dir: tempfile::TempDir) -> Demo {
        let config = dir.path().join("xksd.toml");
        let mut command = Command::new(programs::xksd());
        let server = Server::run(command.args(["serve", "--config"]).arg(&config));
        // The tool reads there where the listeners are, the admin listener's second.
        let text = [server.port, server.admin]
            .iter()
            .fold(std::fs::read_to_string(&config).unwrap(), |text, port| {
                text.replacen("127.0.0.1:0", &format!("127.0.0.1:{port}"), 1)
            });
        std::fs::write(&config, text).unwrap();
        server.wait_until_ready();
        Demo { server, dir }
    }

    /// Its configuration.
    pub fn config(&self) -> String {
        self.file("xksd.toml")
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.server.port)
    }

    /// Its admin listener.
    pub fn admin(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.admin)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// A path in its directory.
    pub fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.server.kill();
    }
}

/// Files as `xksd demo` makes them, without it serving. The listener's port is 0: any that is free.
pub fn demo_files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let done = Command::new(programs::xksd())
        .args(["demo", "--files-only", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .arg("--dir")
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
