//! Which hellos are answered.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_util::{AsyncRead, AsyncWrite};

use super::*;
use crate::limits::{CLIENT_HELLO_BYTES_MAX, CLIENT_HELLO_WAIT_MAX};

/// A socket as it is seen from the server.
#[derive(Default)]
struct Socket {
    /// What the client has sent, in the pieces in which it comes.
    received: Vec<Vec<u8>>,
    /// The client sends no more.
    closed: bool,
    reset: bool,
    sent: Vec<u8>,
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Socket>>);

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut socket = self.0.borrow_mut();
        if socket.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let Some(piece) = socket.received.first_mut() else {
            return if socket.closed { Poll::Ready(Ok(0)) } else { Poll::Pending };
        };
        let count = piece.len().min(buf.len());
        buf[..count].copy_from_slice(&piece[..count]);
        piece.drain(..count);
        if piece.is_empty() {
            socket.received.remove(0);
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Shared {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().sent.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn poll<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// What a server does about a client.
#[derive(Debug, PartialEq, Eq)]
enum Done {
    /// Waits for the whole hello.
    Waits,
    /// Has sent its part of the handshake, with a signature in it.
    Answered,
    /// Has sent nothing but an alert.
    Alerted(&'static str),
    /// Has sent nothing.
    Dropped(&'static str),
}

/// A hello of such pieces came, then `happens` to the socket, and after `waited` it has its turn.
fn done(pieces: &[&[u8]], waited: Duration, happens: impl FnOnce(&mut Socket)) -> Done {
    let world = World::new(&Leaf::server());
    let server = server(&world.settings).unwrap();
    let socket = Shared::default();
    socket.0.borrow_mut().received = pieces.iter().map(|piece| piece.to_vec()).collect();
    let hello = match poll(Hello::read(socket.clone())) {
        None => return Done::Waits,
        Some(Err(failure)) => return Done::Dropped(failure.reason()),
        Some(Ok(hello)) => hello,
    };
    happens(&mut socket.0.borrow_mut());
    let accepted = poll(server.accept(hello, waited));
    let sent = std::mem::take(&mut socket.0.borrow_mut().sent);
    match (accepted, sent.as_slice()) {
        (None, [22, ..]) => Done::Answered,
        (Some(Err(failure)), []) => Done::Dropped(failure.reason()),
        (Some(Err(failure)), [21, ..]) => Done::Alerted(failure.reason()),
        (accepted, sent) => panic!("{:?} {sent:?}", accepted.map(|ended| ended.is_ok())),
    }
}

/// Of a client of today, as it goes over the wire.
fn client_hello() -> Vec<u8> {
    let world = World::new(&Leaf::server());
    let config = world.client(&Leaf::client(KMS_NAME), &rustls::version::TLS13);
    let mut client = ClientConnection::new(config, SERVER_NAME.try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// With a padding extension (RFC 7685) that makes the record so long, bytes.
fn padded_to(hello: &[u8], bytes: usize) -> Vec<u8> {
    let padding = bytes - hello.len() - 4;
    let mut padded = hello.to_vec();
    padded.extend([0, 21]);
    padded.extend((padding as u16).to_be_bytes());
    padded.resize(bytes, 0);
    let u16_at = |hello: &[u8], at: usize| u16::from_be_bytes([hello[at], hello[at + 1]]) as usize;
    let mut set = |at: usize, value: usize| {
        padded[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
    };
    // Record, handshake message (of 24 bits), and list of extensions, which stands behind version,
    // random, session id, suites and compression methods.
    set(3, bytes - 5);
    set(7, bytes - 9);
    let session = 5 + 4 + 2 + 32;
    let suites = session + 1 + usize::from(hello[session]);
    let compression = suites + 2 + u16_at(hello, suites);
    let extensions = compression + 1 + usize::from(hello[compression]);
    set(extensions, u16_at(hello, extensions) + 4 + padding);
    padded
}

const AT_ONCE: Duration = Duration::ZERO;
const NOTHING: fn(&mut Socket) = |_| {};

#[test]
fn hellos_are_answered_whose_clients_are_still_there() {
    let hello = client_hello();
    assert_eq!(done(&[&hello], AT_ONCE, NOTHING), Done::Answered);
    assert_eq!(done(&[&hello], AT_ONCE, |it| it.closed = true), Done::Dropped("closed"));
    assert_eq!(done(&[&hello], AT_ONCE, |it| it.reset = true), Done::Dropped("closed"));
    // What comes behind the hello does not hide the end, and is not lost if there is none.
    let more = |it: &mut Socket| it.received.push(vec![20, 3, 3, 0, 1, 1]);
    assert_eq!(done(&[&hello], AT_ONCE, more), Done::Answered);
    let more_and_end = |it: &mut Socket| {
        it.received.push(vec![20, 3, 3, 0, 1, 1]);
        it.closed = true;
    };
    assert_eq!(done(&[&hello], AT_ONCE, more_and_end), Done::Dropped("closed"));
}

#[test]
fn hellos_are_answered_that_have_waited_for_a_second_at_most() {
    let hello = client_hello();
    let late = CLIENT_HELLO_WAIT_MAX + Duration::from_millis(1);
    assert_eq!(done(&[&hello], CLIENT_HELLO_WAIT_MAX, NOTHING), Done::Answered);
    assert_eq!(done(&[&hello], late, NOTHING), Done::Dropped("overload"));
}

#[test]
fn a_hello_comes_in_whatever_pieces() {
    let hello = client_hello();
    let bytes: Vec<&[u8]> = hello.chunks(1).collect();
    assert_eq!(done(&bytes, AT_ONCE, NOTHING), Done::Answered);
    assert_eq!(done(&bytes[..bytes.len() - 1], AT_ONCE, NOTHING), Done::Waits);
    let with_more = [hello.as_slice(), &[20, 3, 3, 0, 1, 1]].concat();
    assert_eq!(done(&[&with_more], AT_ONCE, NOTHING), Done::Answered);
}

#[test]
fn what_is_no_hello_is_told_so_whether_the_client_waits_or_not() {
    let request: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let not_tls = Done::Alerted("not_tls");
    assert_eq!(done(&[request], AT_ONCE, NOTHING), not_tls);
    assert_eq!(done(&[request], AT_ONCE, |it| it.closed = true), not_tls);
}

#[test]
fn a_hello_has_a_bound() {
    let hello = client_hello();
    let within = padded_to(&hello, CLIENT_HELLO_BYTES_MAX);
    assert_eq!(done(&[&within], AT_ONCE, NOTHING), Done::Answered);
    let beyond = padded_to(&hello, CLIENT_HELLO_BYTES_MAX + 1);
    assert_eq!(done(&[&beyond], AT_ONCE, NOTHING), Done::Dropped("malformed"));
}
