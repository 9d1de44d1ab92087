//! Cosigns the checkpoints of other trails: `add-checkpoint` of C2SP tlog-witness, over plain HTTP.
//! It has no other authentication than the trail's own signature on what is sent, and changes
//! nothing but the memory of what was cosigned.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::audit::cosignature::Cosigner;
use crate::audit::witness::{Answer, Witness};
use crate::config;
use crate::control::connections::{self, Response};
use crate::control::state_dir::StateDir;
use crate::http1::{Body, Header, Progress, RequestHead};
use crate::limits::{HEADERS_MAX, WITNESS_FILE_BYTES_MAX};
use crate::telemetry::limiter::LogLimiter;
use crate::telemetry::{Level, Log};

const FILE: &str = "witness.json";
/// Whoever reaches the listener can have so many lines of a kind logged within a minute.
const LINES_A_MINUTE: u32 = 5;
const MINUTE: Duration = Duration::from_secs(60);

/// The witness of this configuration, with what it has seen.
///
/// # Errors
/// A sentence for the operator.
pub fn open(configured: &config::Witness, dir: &Arc<StateDir>) -> Result<Witness, String> {
    let cosigner = configured
        .signing_key
        .base64()
        .and_then(|seed| Cosigner::new(&seed, &configured.name))
        .ok_or("witness.signing_key is not an Ed25519 seed")?;
    let saved = dir.read(FILE, WITNESS_FILE_BYTES_MAX)?;
    let dir = dir.clone();
    let save = move |bytes: &[u8]| dir.write(FILE, bytes);
    let logs = configured.verifier_keys.clone();
    Witness::new(cosigner, logs, saved.as_deref(), Box::new(save)).map_err(|why| {
        format!(
            "{FILE} of the state directory cannot be read: {why}. A witness that has forgotten \
             what it has seen would cosign a trail that went back: bring the file back. Where that \
             cannot be, move it away and tell who relies on this witness"
        )
    })
}

/// Binds the listener.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(listen: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(listen).map_err(|e| format!("witness.listen: cannot listen on {listen}: {e}"))
}

/// Answers who connects, until the process ends; gives the address.
///
/// # Errors
/// When no thread can be started.
pub fn start(witness: Arc<Witness>, log: Log, listener: TcpListener) -> Result<SocketAddr, String> {
    let log = Limited { log, limiter: Mutex::new(LogLimiter::new(LINES_A_MINUTE, MINUTE)) };
    connections::serve("xksd-witness", listener, move |stream| answer(&witness, &log, stream))
        .map(|listening| listening.address())
        .map_err(|error| format!("witness.listen: {error}"))
}

struct Limited {
    log: Log,
    limiter: Mutex<LogLimiter>,
}

impl Limited {
    fn event(&self, kind: &'static str, text: String) {
        let now = Instant::now();
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.sweep(now, |kind, count| {
            self.log.event(Level::Warn, format!("witness: {count} more times: {kind}"));
        });
        if limiter.take(kind, now) {
            self.log.event(Level::Error, text);
        }
    }
}

fn answer(witness: &Witness, log: &Limited, stream: &TcpStream) -> std::io::Result<()> {
    let end = connections::begin(stream)?;
    let (mut buffer, mut head) = (Vec::new(), RequestHead::new());
    let mut body: Option<Body> = None;
    let mut chunk = [0; 4096];
    let response = loop {
        let progress = match &mut body {
            Some(body) => body.advance(&mut buffer),
            None => head.parse(&buffer),
        };
        match (progress, &body) {
            (Ok(Progress::Complete { end }), None) => body = Some(Body::new(end, head.framing())),
            (Ok(Progress::Complete { end }), Some(body)) => {
                let mut headers = [Header::EMPTY; HEADERS_MAX];
                let request = head.request(&buffer, &mut headers);
                let content = buffer.get(body.start()..end).unwrap_or_default();
                break respond(witness, log, (request.method, request.path), content);
            }
            (Ok(Progress::Partial), _) => match connections::read(stream, &mut chunk, end)? {
                0 => return Ok(()),
                n => buffer.extend_from_slice(&chunk[..n]),
            },
            (Err(reject), _) => break text(reject.status, format!("{}\n", reject.reason)),
        }
    };
    connections::end(stream, &response, head.is_head(&buffer))
}

fn text(status: u16, body: impl Into<String>) -> Response {
    let content_type = "text/plain; charset=utf-8";
    Response { status, content_type, fields: "", body: body.into() }
}

fn respond(
    witness: &Witness,
    log: &Limited,
    (method, path): (&str, &str),
    body: &[u8],
) -> Response {
    match (method, path) {
        ("POST", "/add-checkpoint") => add_checkpoint(witness, log, body),
        (_, "/add-checkpoint") => {
            Response { fields: "Allow: POST\r\n", ..text(405, "only POST\n") }
        }
        ("GET" | "HEAD", path) => {
            let origin_hash = path.strip_prefix('/').and_then(|p| p.strip_suffix("/checkpoint"));
            match origin_hash.and_then(|hash| witness.checkpoint(hash)) {
                Some(note) => text(200, note),
                None => text(404, "there are /add-checkpoint and /<origin hash>/checkpoint\n"),
            }
        }
        _ => Response { fields: "Allow: GET, HEAD\r\n", ..text(405, "only GET and HEAD\n") },
    }
}

fn add_checkpoint(witness: &Witness, log: &Limited, body: &[u8]) -> Response {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match witness.add_checkpoint(body, time) {
        Answer::Cosigned(line) => text(200, line),
        Answer::Malformed(why) => text(400, format!("{why}\n")),
        Answer::NotSigned => text(403, "no right signature of the trail's key\n"),
        Answer::UnknownLog => text(404, "this trail is not known here\n"),
        Answer::Conflict(size) => {
            Response { content_type: "text/x.tlog.size", ..text(409, format!("{size}\n")) }
        }
        Answer::Inconsistent => {
            // May be proof that somebody has changed a trail; the origin is its first line.
            let checkpoint = String::from_utf8_lossy(body);
            let kind = "a signed checkpoint does not go on from what was cosigned";
            log.event(kind, format!("witness: {kind}:\n{checkpoint}"));
            text(422, "it does not go on from what was cosigned\n")
        }
        Answer::NotSaved(why) => {
            let kind = "what is cosigned cannot be saved";
            log.event(kind, format!("witness: {kind}, so nothing is: {why}"));
            text(500, "it cannot be saved\n")
        }
    }
}
