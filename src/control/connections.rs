//! Connections of a small listener that is asked now and then: plain HTTP, a thread for each, one
//! request each.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_TIME_MAX, HEAD_BYTES_MAX, LINGER_TIME_MAX};

/// Pause after accept(2) or a thread's start failed: both lack something that will not be there at
/// once.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// A listener that is answered.
pub struct Listening {
    address: SocketAddr,
    socket: Arc<TcpListener>,
    is_closed: Arc<AtomicBool>,
}

impl Listening {
    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no connection any more; those that are open are answered.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        // What waits in accept(2) sees an error.
        let _ = SockRef::from(&*self.socket).shutdown(Shutdown::Both);
    }
}

/// A listener with its thread, which answers nobody yet, and nobody at all where this is dropped.
pub struct Ready {
    listening: Listening,
    begin: Sender<()>,
}

impl Ready {
    /// Answers who connects, until it is closed.
    pub fn serve(self) -> Listening {
        let _ = self.begin.send(());
        self.listening
    }
}

/// Starts the thread of a listener. `thread` names it, and those of connections.
///
/// # Errors
/// When no thread can be started.
pub fn prepare(
    thread: &'static str,
    listener: TcpListener,
    answer: impl Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<Ready> {
    let address = listener.local_addr()?;
    let (answer, socket) = (Arc::new(answer), Arc::new(listener));
    let is_closed = Arc::<AtomicBool>::default();
    let listening = Listening { address, socket: socket.clone(), is_closed: is_closed.clone() };
    let (begin, begun) = channel();
    let run = move || {
        if begun.recv().is_err() {
            return;
        }
        let open = Arc::new(Open::default());
        for stream in socket.incoming() {
            if is_closed.load(Ordering::Acquire) {
                return;
            }
            let Ok(stream) = stream else {
                std::thread::sleep(ACCEPT_BACKOFF);
                continue;
            };
            let Some(stream) = open.add(stream) else { continue };
            let (answer, open_here, served) = (answer.clone(), open.clone(), stream.clone());
            let serve = move || {
                let _ = answer(&served);
                open_here.remove(&served);
            };
            if std::thread::Builder::new().name(thread.into()).spawn(serve).is_err() {
                open.remove(&stream);
                std::thread::sleep(ACCEPT_BACKOFF);
            }
        }
    };
    std::thread::Builder::new().name(thread.into()).spawn(run)?;
    Ok(Ready { listening, begin })
}

/// The open connections. Those of a client that is slow, or wants nothing but their places, must
/// not keep a load balancer from its answer: when there are [`ADMIN_CONNECTIONS_MAX`], the oldest
/// is cut. Who asks to be answered is so within milliseconds, and is not the oldest by then.
#[derive(Default)]
struct Open {
    /// Oldest first.
    streams: Mutex<VecDeque<Arc<TcpStream>>>,
    threads: AtomicUsize,
}

impl Open {
    fn streams(&self) -> MutexGuard<'_, VecDeque<Arc<TcpStream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be given back by [`Open::remove`]; none, and the connection closed, while too many that
    /// were cut have not ended.
    fn add(&self, stream: TcpStream) -> Option<Arc<TcpStream>> {
        if self.threads.load(Ordering::Relaxed) >= 2 * ADMIN_CONNECTIONS_MAX {
            return None;
        }
        self.threads.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(stream);
        let mut streams = self.streams();
        if streams.len() >= ADMIN_CONNECTIONS_MAX
            && let Some(oldest) = streams.pop_front()
        {
            // Its thread sees an end, and ends.
            let _ = oldest.shutdown(Shutdown::Both);
        }
        streams.push_back(stream.clone());
        Some(stream)
    }

    fn remove(&self, stream: &Arc<TcpStream>) {
        self.streams().retain(|open| !Arc::ptr_eq(open, stream));
        self.threads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Until when a request that begins now must be there as a whole: bytes that come one by one must
/// not hold a thread for longer.
///
/// # Errors
/// When the connection is gone.
pub fn begin(stream: &TcpStream) -> io::Result<Instant> {
    stream.set_write_timeout(Some(ADMIN_TIME_MAX))?;
    Ok(Instant::now() + ADMIN_TIME_MAX)
}

/// Reads some bytes until `end`.
///
/// # Errors
/// When there are none by then, or the connection is gone.
pub fn read(mut stream: &TcpStream, chunk: &mut [u8], end: Instant) -> io::Result<usize> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))?;
    stream.read(chunk)
}

/// What is answered.
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Media type.
    pub content_type: &'static str,
    /// Field lines besides, each with its end.
    pub fields: &'static str,
    /// As the client wants it.
    pub body: String,
}

/// Answers, without the body where only the head was asked for, and ends the connection.
///
/// # Errors
/// When it is gone.
pub fn end(mut stream: &TcpStream, response: &Response, is_head: bool) -> io::Result<()> {
    let Response { status, content_type, fields, body } = response;
    let head = format!(
        "HTTP/1.1 {status} \r\nContent-Type: {content_type}\r\nContent-Length: \
         {}\r\n{fields}Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    if !is_head {
        stream.write_all(body.as_bytes())?;
    }
    // A close with unread bytes is a reset, which would take the answer with it: what still comes
    // is thrown away, within bounds.
    stream.shutdown(Shutdown::Write)?;
    let end = Instant::now() + LINGER_TIME_MAX;
    let (mut thrown_away, mut chunk) = (0, [0; 2048]);
    while thrown_away < HEAD_BYTES_MAX * 4 {
        match read(stream, &mut chunk, end)? {
            0 => break,
            n => thrown_away += n,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_answered_before_it_serves_nor_where_it_is_given_up() {
        let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
        let answer = |mut stream: &TcpStream| stream.write_all(b"here");
        let ready = prepare("xksd-test", listener(), answer).unwrap();
        let mut waits = TcpStream::connect(ready.listening.address()).unwrap();
        waits.set_nonblocking(true).unwrap();
        let early = waits.read(&mut [0; 4]).unwrap_err();
        assert_eq!(early.kind(), ErrorKind::WouldBlock);
        waits.set_nonblocking(false).unwrap();
        let listening = ready.serve();
        let mut text = String::new();
        waits.read_to_string(&mut text).unwrap();
        assert_eq!(text, "here");
        listening.close();

        let given_up = prepare("xksd-test", listener(), answer).unwrap();
        let mut waits = TcpStream::connect(given_up.listening.address()).unwrap();
        drop(given_up);
        // Closed with its socket.
        let end = waits.read(&mut [0; 4]);
        assert!(end.is_err() || end.is_ok_and(|read| read == 0));
    }
}
