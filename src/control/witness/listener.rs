//! Cosigns the checkpoints of other trails: `add-checkpoint` of C2SP tlog-witness, over plain HTTP.
//! It has no other authentication than the trail's own signature on what is sent, and changes
//! nothing but the memory of what was cosigned.

use std::net::TcpStream;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;

use crate::audit::cosignature::Cosigner;
use crate::audit::witness::{Answer, Memory, Witness};
use crate::config::{self, Config};
use crate::control::connections::{self, Response};
use crate::control::movable_listener::{self, Bound, MovableListener};
use crate::control::state_dir::StateDir;
use crate::http1::{Body, Header, Progress, RequestHead};
use crate::limits::{HEADERS_MAX, WITNESS_FILE_BYTES_MAX};
use crate::telemetry::limiter::LogLimiter;
use crate::telemetry::{Level, Log};

/// The key of the configuration.
pub const LISTEN: &str = "witness.listen";
const FILE: &str = "witness.json";
/// Whoever reaches the listener can have so many lines of a kind logged within a minute.
const LINES_A_MINUTE: u32 = 5;
const MINUTE: Duration = Duration::from_secs(60);

/// The witness that runs, if there is one.
pub struct ServiceWitness {
    dir: Arc<StateDir>,
    /// Read once. It stays while there is no witness: what is under way may still add to it.
    memory: OnceLock<Arc<Memory>>,
    running: Arc<Running>,
    listener: MovableListener,
}

type Running = ArcSwapOption<Configured>;

/// A witness, and what it was made of.
struct Configured {
    by: config::Witness,
    witness: Witness,
}

/// What a reload does to it.
pub(in crate::control) struct Change {
    wanted: Option<Arc<Configured>>,
    listener: movable_listener::Change,
}

impl ServiceWitness {
    /// The witness of this configuration, if it has one, with what it has seen. Does not listen
    /// yet.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open(config: &Config, dir: &Arc<StateDir>) -> Result<ServiceWitness, String> {
        let running = Arc::<Running>::default();
        let shown = running.clone();
        let told = move |address| {
            let running = shown.load();
            let key = running.as_ref().map_or_else(String::new, |it| it.witness.key().to_string());
            format!("witness {key} on http://{address}: /add-checkpoint")
        };
        let listener = MovableListener::new(LISTEN, "xksd-witness", told);
        let service =
            ServiceWitness { dir: dir.clone(), memory: OnceLock::new(), running, listener };
        service.running.store(service.configured(config)?);
        Ok(service)
    }

    /// Answers on the socket of the start, if there is one, and on those of reloads.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn start(&self, bound: Option<Bound>, log: &Log) -> Result<(), String> {
        let limiter = Mutex::new(LogLimiter::new(LINES_A_MINUTE, MINUTE));
        let (running, limited) = (self.running.clone(), Limited { log: log.clone(), limiter });
        let answer = move |stream: &TcpStream| answer(&running, &limited, stream);
        self.listener.start(Arc::new(answer), bound, log)
    }

    /// Reads and opens what this configuration needs, and changes nothing yet. `None`: it is as it
    /// runs.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(in crate::control) fn prepare(&self, config: &Config) -> Result<Option<Change>, String> {
        let running = self.running.load_full();
        if running.as_ref().map(|running| &running.by) == config.witness.as_ref() {
            return Ok(None);
        }
        let wanted = self.configured(config)?;
        let listen = config.witness.as_ref().map(|witness| witness.listen);
        Ok(Some(Change { wanted, listener: self.listener.prepare(listen)? }))
    }

    /// Does it.
    pub(in crate::control) fn take_over(&self, change: Option<Change>, log: &Log) {
        let Some(Change { wanted, listener }) = change else { return };
        self.running.store(wanted);
        self.listener.take_over(listener, log);
    }

    fn configured(&self, config: &Config) -> Result<Option<Arc<Configured>>, String> {
        let Some(by) = &config.witness else { return Ok(None) };
        let cosigner = by
            .signing_key
            .base64()
            .and_then(|seed| Cosigner::new(&seed, &by.name))
            .ok_or("witness.signing_key is not an Ed25519 seed")?;
        let witness = Witness::new(cosigner, by.verifier_keys.clone(), self.memory()?);
        Ok(Some(Arc::new(Configured { by: by.clone(), witness })))
    }

    fn memory(&self) -> Result<Arc<Memory>, String> {
        if let Some(memory) = self.memory.get() {
            return Ok(memory.clone());
        }
        let saved = self.dir.read(FILE, WITNESS_FILE_BYTES_MAX)?;
        let dir = self.dir.clone();
        let save = move |bytes: &[u8]| dir.write(FILE, bytes);
        let memory = Memory::new(saved.as_deref(), Box::new(save)).map_err(|why| {
            format!(
                "{FILE} of the state directory cannot be read: {why}. A witness that has \
                 forgotten what it has seen would cosign a trail that went back: bring the file \
                 back. Where that cannot be, move it away and tell who relies on this witness"
            )
        })?;
        Ok(self.memory.get_or_init(|| Arc::new(memory)).clone())
    }
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

fn answer(running: &Running, log: &Limited, stream: &TcpStream) -> std::io::Result<()> {
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
                break match &*running.load() {
                    Some(it) => respond(&it.witness, log, (request.method, request.path), content),
                    None => text(404, "there is no witness here any more\n"),
                };
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
