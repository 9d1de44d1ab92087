//! `openssl s_client` against a server made of `xksd::tls`: one thread, blocking sockets, one
//! connection at a time.

#![allow(dead_code, reason = "shared by several test files, none of which uses everything")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{HandshakeKind, ServerConnection};
use xksd::tls::{Server, handshake_failure_label};

use test_harness::pki::SERVER_NAME;

/// Only so that a broken test ends: nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(30);
const GREETING: &str = "served by xksd";

/// What the server knows of a handshake that it completed and confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub version: String,
    pub suite: String,
    pub alpn: Option<String>,
    pub resumed: bool,
}

/// How a handshake ended for the server; a label where it failed.
pub type Outcome = Result<Accepted, &'static str>;

pub struct TestServer {
    port: u16,
    server: Arc<Mutex<Server>>,
    outcomes: Receiver<Outcome>,
}

impl TestServer {
    /// Listens until the test process ends.
    pub fn start(server: Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Arc::new(Mutex::new(server));
        let (sender, outcomes) = channel();
        let shared = server.clone();
        std::thread::spawn(move || accept_all(&listener, &shared, &sender));
        Self { port, server, outcomes }
    }

    /// Another generation for the connections from now on.
    pub fn reload(&self, server: Server) {
        *self.server.lock().unwrap() = server;
    }

    /// One connection by `openssl s_client` with these arguments besides. Client and server must
    /// agree on whether it served.
    pub fn connect(&self, arguments: &[&str]) -> Outcome {
        let address = format!("127.0.0.1:{}", self.port);
        let mut client = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-servername", SERVER_NAME])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl is missing: run scripts/test");
        // An s_client whose input ends closes at once, perhaps before it has read what the server
        // says.
        let input = client.stdin.take();
        let output = client.wait_with_output().unwrap();
        drop(input);
        let outcome = self.outcome();
        let served = String::from_utf8_lossy(&output.stdout).contains(GREETING);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            served,
            outcome.is_ok(),
            "s_client {arguments:?}: {outcome:?}, but the client says {said}"
        );
        assert_eq!(
            output.status.success(),
            outcome.is_ok(),
            "s_client {arguments:?}: {outcome:?}, but the client says {said}"
        );
        outcome
    }

    /// Sends bytes that are no handshake, then nothing more.
    pub fn send(&self, bytes: &[u8]) -> Outcome {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // The alert, or nothing; a reset where the server left bytes unread.
        let _ = stream.read_to_end(&mut Vec::new());
        self.outcome()
    }

    fn outcome(&self) -> Outcome {
        self.outcomes.recv_timeout(PATIENCE).expect("the server saw no connection")
    }
}

fn accept_all(listener: &TcpListener, server: &Mutex<Server>, outcomes: &Sender<Outcome>) {
    for stream in listener.incoming() {
        let server = server.lock().unwrap().clone();
        let outcome =
            serve(&server, &mut stream.unwrap()).map_err(|error| handshake_failure_label(&error));
        if outcomes.send(outcome).is_err() {
            return;
        }
    }
}

fn serve(server: &Server, stream: &mut TcpStream) -> io::Result<Accepted> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut connection =
        ServerConnection::new(server.config().clone()).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(stream)?;
    }
    server
        .confirm(&connection)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let accepted = Accepted {
        version: format!("{:?}", connection.protocol_version().unwrap()),
        suite: format!("{:?}", connection.negotiated_cipher_suite().unwrap().suite()),
        alpn: connection.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
    };
    writeln!(connection.writer(), "{GREETING}")?;
    connection.send_close_notify();
    while connection.wants_write() {
        connection.write_tls(stream)?;
    }
    stream.shutdown(Shutdown::Write)?;
    // Until the client has read everything: closing a socket with unread bytes resets the
    // connection.
    let _ = io::copy(stream, &mut io::sink());
    Ok(accepted)
}
