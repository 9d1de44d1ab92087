//! One request to etcd, another instance or a witness, blocking, over HTTP or HTTPS.
//!
//! HTTP/1.1 with a connection for each request: a few a second need none that is kept. A watch is
//! an answer that goes on.

pub mod body;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use self::body::Body;
use crate::config::Url;

const LATE: &str = "no answer in time";
/// Field lines of an answer.
const FIELDS_MAX: usize = 64;

/// What a request may take at the most.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Until there is a connection, and as long again for its TLS handshake.
    pub connect: Duration,
    /// All of it, from the connection to the answer's end; an answer that goes on apart.
    pub call: Duration,
    /// Head and body of the answer, bytes.
    pub answer_bytes: usize,
}

/// A request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// With `/` in front.
    pub path: &'a str,
    /// `Authorization`, where there is one.
    pub authorization: Option<&'a str>,
    /// Media type of the body.
    pub content_type: &'static str,
    /// Empty for none.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Asks for what is at `path`.
    pub fn get(path: &'a str) -> Request<'a> {
        let content_type = "application/json";
        Request { method: "GET", path, authorization: None, content_type, body: b"" }
    }
}

/// A socket that is used until a certain time, however slowly its other end drips.
struct Timed {
    socket: TcpStream,
    end: Instant,
}

impl Timed {
    fn left(&self) -> std::io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

enum Stream {
    Plain(Timed),
    Tls(Box<StreamOwned<ClientConnection, Timed>>),
}

impl Stream {
    fn set_end(&mut self, end: Instant) {
        let timed = match self {
            Stream::Plain(timed) => timed,
            Stream::Tls(tls) => &mut tls.sock,
        };
        timed.end = end;
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Plain(timed) => timed.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
        }
    }

    fn send(&mut self, text: &[u8]) -> std::io::Result<()> {
        match self {
            Stream::Plain(timed) => timed.write_all(text),
            Stream::Tls(tls) => tls.write_all(text).and_then(|()| tls.flush()),
        }
    }
}

/// An answer whose head was read.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    stream: Stream,
    /// As it was received.
    raw: Vec<u8>,
    framing: Body,
    /// Of the body, what was not asked for yet.
    buffer: Vec<u8>,
    end: Instant,
    bytes_max: usize,
}

/// Sends a request and reads the head of its answer.
///
/// # Errors
/// A sentence for the operator.
pub fn send(
    url: &Url,
    tls: Option<&Arc<ClientConfig>>,
    request: Request<'_>,
    bounds: Bounds,
) -> Result<Answer, String> {
    let end = Instant::now() + bounds.call;
    let addresses = (url.host.as_str(), url.port)
        .to_socket_addrs()
        .map_err(|error| format!("looking up {}: {error}", url.host))?;
    let socket = connect(addresses, bounds.connect, end)
        .map_err(|why| why.unwrap_or_else(|| format!("{} has no address", url.host)))?;
    let failed = |error: std::io::Error| format!("{url}: {}", words(&error));
    socket.set_nodelay(true).map_err(failed)?;
    let mut timed = Timed { socket, end: end.min(Instant::now() + bounds.connect) };
    let mut stream = match tls.filter(|_| url.tls) {
        None if url.tls => return Err(format!("{url}: no trust anchors are configured")),
        None => Stream::Plain(timed),
        Some(config) => {
            let name = ServerName::try_from(url.host.clone())
                .map_err(|error| format!("{}: {error}", url.host))?;
            let mut session = ClientConnection::new(config.clone(), name)
                .map_err(|error| format!("{url}: TLS: {error}"))?;
            while session.is_handshaking() {
                session.complete_io(&mut timed).map_err(failed)?;
            }
            Stream::Tls(Box::new(StreamOwned::new(session, timed)))
        }
    };
    stream.set_end(end);
    let authorization = request
        .authorization
        .map_or_else(String::new, |token| format!("Authorization: {token}\r\n"));
    let head = format!(
        "{} {}{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{authorization}Content-Type: \
         {}\r\nContent-Length: {}\r\n\r\n",
        request.method,
        url.prefix,
        request.path,
        url.authority(),
        request.content_type,
        request.body.len()
    );
    let text = [head.as_bytes(), request.body].concat();
    stream.send(&text).map_err(failed)?;
    let mut answer = Answer {
        status: 0,
        stream,
        raw: Vec::new(),
        framing: Body::Open,
        buffer: Vec::new(),
        end,
        bytes_max: bounds.answer_bytes,
    };
    while !answer.has_head().map_err(|why| format!("{url}: {why}"))? {
        if !answer.receive(end).map_err(failed)? {
            return Err(format!("{url}: the connection ended without an answer"));
        }
    }
    Ok(answer)
}

/// To the first that answers: `localhost` may be an IPv6 address on which nobody listens. The
/// error is the last one's; `None` where there is no address.
fn connect(
    addresses: impl Iterator<Item = SocketAddr>,
    patience: Duration,
    end: Instant,
) -> Result<TcpStream, Option<String>> {
    let mut failed = None;
    for address in addresses {
        let left = end.saturating_duration_since(Instant::now()).min(patience);
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = Some(format!("connecting to {address}: {error}")),
        }
    }
    Err(failed)
}

/// What a person understands: a timeout is "resource temporarily unavailable" to the system.
fn words(error: &std::io::Error) -> String {
    if is_late(error) { LATE.to_owned() } else { error.to_string() }
}

fn is_late(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

impl Answer {
    /// The whole body, within what is left of the call's time.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn body(mut self) -> Result<Vec<u8>, String> {
        let end = self.end;
        while self.read_more(end).map_err(|error| words(&error))? {}
        Ok(self.buffer)
    }

    /// The next line of an answer that goes on; `None` where none comes within `patience`.
    ///
    /// # Errors
    /// When the answer has ended.
    pub fn line(&mut self, patience: Duration) -> Result<Option<Vec<u8>>, String> {
        let end = Instant::now() + patience;
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(at + 1);
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            match self.read_more(end) {
                Ok(true) => {}
                Ok(false) => return Err("the answer has ended".to_owned()),
                Err(error) if is_late(&error) => return Ok(None),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// More of the body; false at its end.
    fn read_more(&mut self, end: Instant) -> std::io::Result<bool> {
        if self.framing.is_complete() {
            return Ok(false);
        }
        if !self.receive(end)? {
            let is_whole = self.framing.may_end();
            return if is_whole { Ok(false) } else { Err(wrong("it was cut off")) };
        }
        self.framing.take(&mut self.raw, &mut self.buffer).map_err(wrong)?;
        Ok(true)
    }

    /// More of what the server sends; false at the end of the connection.
    fn receive(&mut self, end: Instant) -> std::io::Result<bool> {
        self.stream.set_end(end);
        let mut piece = [0; 16 * 1024];
        let count = match self.stream.read(&mut piece) {
            Ok(count) => count,
            // Go's server ends without a close_notify.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        self.raw.extend_from_slice(&piece[..count]);
        if self.raw.len() + self.buffer.len() > self.bytes_max {
            let why = format!("an answer of more than {} bytes", self.bytes_max);
            return Err(std::io::Error::other(why));
        }
        Ok(count > 0)
    }

    /// Reads the head, once it is there; those that only announce one are passed over.
    fn has_head(&mut self) -> Result<bool, String> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
            let mut head = httparse::Response::new(&mut fields);
            let parsed = head.parse(&self.raw).map_err(|error| format!("no HTTP answer: {error}"));
            let httparse::Status::Complete(end) = parsed? else { return Ok(false) };
            self.status = head.code.unwrap_or(0);
            let framing = Body::of(self.status, head.headers);
            self.raw.drain(..end);
            if !(100..200).contains(&self.status) {
                self.framing = framing.map_err(|why| format!("no HTTP answer: {why}"))?;
                let taken = self.framing.take(&mut self.raw, &mut self.buffer);
                return taken.map(|()| true).map_err(|why| format!("its answer: {why}"));
            }
        }
    }
}

/// An answer is not as it should be.
fn wrong(why: &str) -> std::io::Error {
    std::io::Error::other(format!("its answer: {why}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_address_that_answers_is_taken() {
        let [listener, gone] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [open, closed] = [&listener, &gone].map(|socket| socket.local_addr().unwrap());
        drop(gone);
        let to = |all: &[SocketAddr]| {
            let patience = Duration::from_secs(10);
            connect(all.iter().copied(), patience, Instant::now() + patience)
        };
        assert_eq!(to(&[closed, open]).unwrap().peer_addr().unwrap(), open);
        let why = to(&[closed]).unwrap_err().unwrap();
        assert!(why.starts_with(&format!("connecting to {closed}: ")), "{why}");
        assert_eq!(to(&[]).unwrap_err(), None);
    }

    /// A server that sends such a byte now and then, and never an answer.
    fn dripping(first: &'static [u8]) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let bytes = first.iter().copied().chain(std::iter::repeat_n(b'x', 100));
            for byte in bytes {
                if socket.write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let scheme = if first.first() == Some(&0x16) { "https" } else { "http" };
        Url::parse(&format!("{scheme}://127.0.0.1:{port}")).unwrap()
    }

    #[test]
    fn who_drips_does_not_hold_up() {
        let patience = Duration::from_millis(300);
        let bounds = Bounds { connect: patience, call: patience, answer_bytes: 4096 };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let tls = Some(Arc::new(tls));
        let ask = |url: &Url| {
            send(url, tls.as_ref(), Request::get("/"), bounds).and_then(Answer::body).unwrap_err()
        };
        // A TLS record of 16 KiB; a head; a body.
        for first in [
            &b"\x16\x03\x03\x40\x00"[..],
            b"HTTP/1.1 200 OK\r\nName: ",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n",
        ] {
            let why = ask(&dripping(first));
            assert!(why.ends_with(LATE), "{first:?}: {why}");
        }
    }
}
