//! Has the checkpoints of this trail cosigned, apart from every request: what a witness does not
//! answer in time is missing until the next checkpoint, and alarms.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::Builder;

use crate::audit::checkpoint::{Checkpoint, Verifier};
use crate::audit::layout::Layout;
use crate::audit::record::Record;
use crate::audit::trail::Trail;
use crate::audit::witnessed::Witnessed;
use crate::config::{AuditWitness, Url};
use crate::control::http_client::{self, Bounds, Request};
use crate::limits::{WITNESS_ANSWER_BYTES_MAX, WITNESS_INTERVAL, WITNESS_TIME_MAX};
use crate::telemetry::{Level, Log};

/// Newest checkpoint on its way to the witnesses.
#[derive(Default)]
pub struct Outbox {
    newest: Mutex<Option<String>>,
    arrived: Condvar,
}

impl Outbox {
    /// The next one to be cosigned, in the place of one that waits. Never waits for a witness.
    pub fn offer(&self, note: &str) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(note.to_owned());
        self.arrived.notify_one();
    }

    fn take(&self) -> String {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(note) = newest.take() {
                return note;
            }
            newest = self.arrived.wait(newest).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A witness as it is shown.
#[derive(Debug)]
pub struct Shown {
    /// Of its key.
    pub name: String,
    /// Whether it cosigned the last checkpoint that it was sent.
    pub cosigns: AtomicBool,
}

/// What the thread needs.
pub struct Client {
    /// Where checkpoints come from.
    pub outbox: Arc<Outbox>,
    /// Where cosigned ones go to.
    pub trail: Trail,
    /// The trail's own key.
    pub verifier: Verifier,
    /// The trail's files.
    pub layout: Layout,
    /// For what goes wrong.
    pub log: Log,
}

struct Asked {
    url: Url,
    witnessed: Witnessed,
    shown: Arc<Shown>,
    /// Whether it has been asked, and what is wrong was said.
    told: Option<bool>,
}

impl Client {
    /// Starts the thread. Gives what is shown of each witness.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(self, witnesses: &[AuditWitness]) -> std::io::Result<Vec<Arc<Shown>>> {
        let asked = |witness: &AuditWitness| {
            let key = witness.verifier_key.clone();
            let shown = Shown { name: key.name().to_owned(), cosigns: AtomicBool::new(false) };
            let witnessed = Witnessed::load(self.layout.clone(), key);
            Asked { url: witness.url.clone(), witnessed, shown: Arc::new(shown), told: None }
        };
        let mut all: Vec<Asked> = witnesses.iter().map(asked).collect();
        let shown = all.iter().map(|asked| asked.shown.clone()).collect();
        if !all.is_empty() {
            Builder::new().name("xksd-witnesses".into()).spawn(move || {
                loop {
                    self.round(&mut all);
                    std::thread::sleep(WITNESS_INTERVAL);
                }
            })?;
        }
        Ok(shown)
    }

    /// Asks all at once: one that does not answer must not keep the others' lines away.
    fn round(&self, all: &mut [Asked]) {
        let note = self.outbox.take();
        let Ok(checkpoint) = self.verifier.open(&note) else { return };
        let (note, checkpoint) = (&*note, &checkpoint);
        let lines: String = std::thread::scope(|scope| {
            let ask = |asked| {
                let name = || Builder::new().name("xksd-witness".into());
                name().spawn_scoped(scope, move || self.ask(asked, checkpoint, note))
            };
            let threads: Vec<_> = all.iter_mut().map(ask).collect();
            let lines = threads.into_iter().filter_map(|thread| thread.ok()?.join().ok()?);
            lines.collect()
        });
        if !lines.is_empty() {
            self.trail.keep_cosigned(checkpoint.size, format!("{note}{lines}"));
        }
    }

    fn ask(&self, asked: &mut Asked, checkpoint: &Checkpoint, note: &str) -> Option<String> {
        let answer = asked.ask(checkpoint, note);
        let cosigns = answer.is_ok();
        asked.shown.cosigns.store(cosigns, Ordering::Relaxed);
        if asked.told.replace(cosigns) != Some(cosigns) {
            let name = &*asked.shown.name;
            let (level, state) =
                if cosigns { (Level::Info, "cosigns") } else { (Level::Error, "does not cosign") };
            let detail = answer.as_ref().err().map_or("", String::as_str);
            let colon = if cosigns { "" } else { ": " };
            self.log.event(level, format!("audit witness {name} {state}{colon}{detail}"));
            let record = Record::Witness { name, state, detail };
            // Without a place it is counted.
            let _ = self.trail.append(&record, &mut Vec::new());
        }
        answer.ok()
    }
}

impl Asked {
    fn ask(&mut self, checkpoint: &Checkpoint, note: &str) -> Result<String, String> {
        let failed = |error: std::io::Error| format!("the trail's hashes: {error}");
        let size = checkpoint.size;
        let mut again = true;
        loop {
            let body = self.witnessed.request(checkpoint, note).map_err(failed)?;
            let body = body.ok_or_else(|| went_back(self.witnessed.size(), size))?;
            let (status, answer) = add_checkpoint(&self.url, &body)?;
            let at = match status {
                200 => return self.witnessed.accept(checkpoint, note, &answer),
                // It was cosigned by another run, or what was kept here is lost.
                409 if again => answer.trim_end().parse().ok(),
                // What was kept here is wrong, or the trail.
                422 if again => Some(self.witnessed.size()),
                _ => None,
            };
            match at {
                Some(at) if at > size => return Err(went_back(at, size)),
                Some(at) => self.witnessed.is_at(at).map_err(failed)?,
                None => return Err(refused(status, &answer)),
            }
            again = false;
        }
    }
}

/// Status and body of the answer. Over plain HTTP: checkpoints are public and signed, so TLS would
/// hide nothing, and what is changed on the way is not accepted.
fn add_checkpoint(url: &Url, body: &str) -> Result<(u16, String), String> {
    const BOUNDS: Bounds = Bounds {
        connect: WITNESS_TIME_MAX,
        call: WITNESS_TIME_MAX,
        answer_bytes: WITNESS_ANSWER_BYTES_MAX,
    };
    let request = Request {
        method: "POST",
        path: "/add-checkpoint",
        authorization: None,
        content_type: "text/plain",
        body: body.as_bytes(),
    };
    let answer = http_client::send(url, None, request, BOUNDS)?;
    let status = answer.status;
    Ok((status, String::from_utf8_lossy(&answer.body()?).into_owned()))
}

fn went_back(cosigned: u64, size: u64) -> String {
    format!(
        "it has cosigned {cosigned} records of this trail, which has {size}: THE TRAIL WENT BACK. \
         Were old files brought back, or does another instance sign under this origin?"
    )
}

fn refused(status: u16, answer: &str) -> String {
    const ANSWER_CHARS: usize = 200;
    let answer: String = answer.trim_end().chars().take(ANSWER_CHARS).collect();
    match status {
        422 => "what it has cosigned is not in this trail: RECORDS WERE CHANGED, or another \
                instance signs under this origin"
            .to_owned(),
        403 | 404 => format!(
            "it does not know this trail ({status} {answer:?}): put its verifier key into \
             witness.verifier_keys there"
        ),
        status => format!("it answered {status} {answer:?}"),
    }
}
