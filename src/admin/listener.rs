//! The admin listener: health for load balancers, metrics, status. Plain HTTP for a private
//! address; never the XKS API.
//!
//! A thread a connection, one request each: what asks here asks every few seconds.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::host::is_own_host;
use super::metrics;
use super::status::Status;
use crate::control::state::State;
use crate::http1::{Header, Progress, Request, RequestHead};
use crate::limits::{
    ADMIN_CONNECTIONS_MAX, ADMIN_TIME_MAX, HEAD_BYTES_MAX, HEADERS_MAX, LINGER_TIME_MAX,
};

/// Pause after accept(2) or a thread's start failed: both lack something that will not be there at
/// once.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Answers who connects, until the process ends; gives the address.
///
/// # Errors
/// When no thread can be started.
pub fn start(state: &Arc<State>, listener: TcpListener) -> Result<SocketAddr, String> {
    let failed = |e: std::io::Error| format!("admin.listen: {e}");
    let address = listener.local_addr().map_err(failed)?;
    let state = state.clone();
    let run = move || {
        let open = Arc::new(Open::default());
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                std::thread::sleep(ACCEPT_BACKOFF);
                continue;
            };
            let Some(stream) = open.add(stream) else { continue };
            let (state, open_here, served) = (state.clone(), open.clone(), stream.clone());
            let serve = move || {
                let _ = answer(&state, &served);
                open_here.remove(&served);
            };
            if std::thread::Builder::new().name("xksd-admin".into()).spawn(serve).is_err() {
                open.remove(&stream);
                std::thread::sleep(ACCEPT_BACKOFF);
            }
        }
    };
    std::thread::Builder::new().name("xksd-admin".into()).spawn(run).map_err(failed)?;
    Ok(address)
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

fn answer(state: &State, mut stream: &TcpStream) -> std::io::Result<()> {
    // For the head as a whole: bytes that come one by one must not hold a thread for longer.
    let end = Instant::now() + ADMIN_TIME_MAX;
    stream.set_write_timeout(Some(ADMIN_TIME_MAX))?;
    let (mut buffer, mut head) = (Vec::new(), RequestHead::new());
    let mut chunk = [0; 2048];
    let (status, content_type, body) = loop {
        match head.parse(&buffer) {
            Ok(Progress::Complete { .. }) => {
                let mut headers = [Header::EMPTY; HEADERS_MAX];
                let request = head.request(&buffer, &mut headers);
                break match refuse_host(state, &request) {
                    Some(refused) => refused,
                    None => respond(state, request.method, request.path),
                };
            }
            Ok(Progress::Partial) => match read(stream, &mut chunk, end)? {
                0 => return Ok(()),
                n => buffer.extend_from_slice(&chunk[..n]),
            },
            Err(reject) => break (reject.status, TEXT, format!("{}\n", reject.reason)),
        }
    };
    // As GET, with the same head and no body (RFC 9110, 9.3.2), also where it is refused: load
    // balancers ask so.
    let is_head = head.is_head(&buffer);
    let allow = if status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status} \r\nContent-Type: {content_type}\r\nContent-Length: \
         {}\r\n{allow}Connection: close\r\n\r\n",
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
    let mut thrown_away = 0;
    while thrown_away < HEAD_BYTES_MAX * 4 {
        match read(stream, &mut chunk, end)? {
            0 => break,
            n => thrown_away += n,
        }
    }
    Ok(())
}

fn read(mut stream: &TcpStream, chunk: &mut [u8], end: Instant) -> std::io::Result<usize> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))?;
    stream.read(chunk)
}

/// Status, media type and body.
type Response = (u16, &'static str, String);

const TEXT: &str = "text/plain; charset=utf-8";

/// What a page in somebody's browser must not read through its own name that leads here ("DNS
/// rebinding"): see [`is_own_host`].
fn refuse_host(state: &State, request: &Request<'_>) -> Option<Response> {
    let config = state.config.load();
    let names = config.admin.as_ref().map_or(&[][..], |admin| &admin.hosts);
    let foreign = request.values("host").any(|host| !is_own_host(host, names));
    foreign.then(|| {
        let text = "this Host is neither an IP address, nor localhost, nor one of admin.hosts\n";
        (421, TEXT, text.into())
    })
}

fn respond(state: &State, method: &str, path: &str) -> Response {
    if method != "GET" && method != "HEAD" {
        return (405, TEXT, "only GET and HEAD\n".into());
    }
    match path {
        // Alive: the process answers. Restarting it because an HSM is down would help nobody.
        "/livez" | "/ping" => (200, TEXT, "ok\n".into()),
        "/readyz" if state.is_ready() => (200, TEXT, "ready\n".into()),
        "/readyz" if state.draining.load(Ordering::Acquire) => (503, TEXT, "stopping\n".into()),
        "/readyz" => (503, TEXT, "no key manager serves\n".into()),
        "/metrics" => (200, "text/plain; version=0.0.4; charset=utf-8", metrics::expose(state)),
        "/status" => (200, "application/json", Status::of(state).to_json()),
        _ => (404, TEXT, "there are /livez /readyz /ping /metrics /status\n".into()),
    }
}
