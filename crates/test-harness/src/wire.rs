//! A TLS connection to which a test may write whatever bytes it likes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, HandshakeKind, StreamOwned, WantsVerifier,
};
use serde_json::Value;

use crate::{Installation, PATIENCE, Request, Server};

pub fn client_builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
}

/// A TCP connection to the XKS listener.
pub fn tcp(server: &Server) -> TcpStream {
    tcp_to(server.port)
}

fn tcp_to(port: u16) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket.set_write_timeout(Some(PATIENCE)).expect("set");
    socket.set_nodelay(true).expect("set");
    socket
}

pub struct Wire {
    pub stream: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
}

/// An answer as it stood on the wire.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body. Every answer of the API must be JSON.
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Status and errorName. The message must be as the specification wants it.
    pub fn error(&self) -> (u16, String) {
        let json = self.json();
        if let Some(message) = json["errorMessage"].as_str() {
            assert!(
                message.len() < 512 && message.bytes().all(|b| (b' '..=b'~').contains(&b)),
                "{message:?}"
            );
        }
        (self.status, json["errorName"].as_str().unwrap_or("none").to_owned())
    }

    pub fn message(&self) -> String {
        self.json()["errorMessage"].as_str().unwrap_or_default().to_owned()
    }

    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With close_notify: nothing was cut off.
    CloseNotify,
    /// By a FIN or RST without it.
    Cut,
}

impl Wire {
    pub fn connect(installation: &Installation, server: &Server) -> Self {
        Self::connect_with(&installation.client(), server).expect("a TLS connection")
    }

    pub fn connect_with(config: &Arc<ClientConfig>, server: &Server) -> io::Result<Self> {
        Self::connect_to(config, server.port)
    }

    /// As [`Wire::connect_with`], to whatever stands before the server.
    pub fn connect_to(config: &Arc<ClientConfig>, port: u16) -> io::Result<Self> {
        Self::connect_over(config, tcp_to(port))
    }

    /// As [`Wire::connect_to`], over a connection on which something was said already.
    pub fn connect_over(config: &Arc<ClientConfig>, socket: TcpStream) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(tls, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub fn resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The server's certificate, DER.
    pub fn certificate(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().expect("shown")[0].to_vec()
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("sent");
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let n = self.stream.read(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..n]);
        Ok(n)
    }

    /// The next answer; `bodiless` for the one to a HEAD.
    fn read_response(&mut self, bodiless: bool) -> io::Result<Response> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if self.fill()? == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed without an answer"));
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).expect("ASCII");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("no HTTP: {head:?}"));
        let mut response = Response { status, head, body: Vec::new() };
        let length = if bodiless || status == 100 {
            0
        } else {
            response
                .header("content-length")
                .and_then(|length| length.parse().ok())
                .expect("Content-Length")
        };
        while self.buffer.len() < length {
            if self.fill()? == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed in an answer"));
            }
        }
        response.body = self.buffer.drain(..length).collect();
        Ok(response)
    }

    pub fn try_response(&mut self) -> io::Result<Response> {
        self.read_response(false)
    }

    pub fn response(&mut self) -> Response {
        self.try_response().expect("an answer")
    }

    pub fn head_response(&mut self) -> Response {
        self.read_response(true).expect("an answer")
    }

    pub fn call(&mut self, request: &Request) -> Response {
        self.send(&request.bytes());
        self.response()
    }

    /// Waits for the end of the connection; nothing more may come before it.
    pub fn end(&mut self) -> End {
        let end = match self.fill() {
            Ok(0) => End::CloseNotify,
            Ok(_) => panic!("more came: {:?}", String::from_utf8_lossy(&self.buffer)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("still open")
            }
            Err(_) => End::Cut,
        };
        assert!(self.buffer.is_empty(), "more came: {:?}", String::from_utf8_lossy(&self.buffer));
        end
    }
}
