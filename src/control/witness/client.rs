//! Has the checkpoints of this trail cosigned, apart from every request: what a witness does not
//! answer in time is missing until the next checkpoint, and alarms.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use arc_swap::ArcSwap;

use crate::audit::checkpoint::{Checkpoint, Verifier};
use crate::audit::cosignature::CosignerKey;
use crate::audit::layout::Layout;
use crate::audit::record::Record;
use crate::audit::trail::Trail;
use crate::audit::witnessed::Witnessed;
use crate::config::{AuditWitness, Url};
use crate::control::http_client::{self, Bounds, Request};
use crate::limits::{WITNESS_ANSWER_BYTES_MAX, WITNESS_INTERVAL, WITNESS_TIME_MAX};
use crate::telemetry::{Level, Log};

/// The witnesses of this trail, and the newest checkpoint on its way to them.
pub struct Witnesses {
    /// The trail's files.
    layout: Layout,
    all: ArcSwap<Vec<Arc<Asked>>>,
    outbox: Mutex<Outbox>,
    /// There is something in the outbox.
    arrived: Condvar,
}

#[derive(Default)]
struct Outbox {
    newest: Option<String>,
    /// Somebody was never asked, and is not to wait until all are the next time.
    at_once: bool,
}

/// One witness.
struct Asked {
    key: CosignerKey,
    url: Url,
    /// The same for another URL of the same witness.
    witnessed: Arc<Mutex<Witnessed>>,
    /// Whether it cosigned the last checkpoint that it was sent.
    cosigns: AtomicBool,
    /// Whether it has been asked, and what is wrong was said.
    told: Mutex<Option<bool>>,
}

/// What the thread needs that asks them.
pub struct Client {
    /// Whom.
    pub witnesses: Arc<Witnesses>,
    /// Where cosigned checkpoints go to.
    pub trail: Trail,
    /// The trail's own key.
    pub verifier: Verifier,
    /// For what goes wrong.
    pub log: Log,
}

impl Witnesses {
    /// None yet, of the trail with these files.
    pub fn new(layout: Layout) -> Witnesses {
        Witnesses {
            layout,
            all: ArcSwap::default(),
            outbox: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    /// From now on these are asked. Who was asked before goes on from there; a new one is sent the
    /// next checkpoint at once, with all that it lacks.
    pub fn set(&self, configured: &[AuditWitness]) {
        let before = self.all.load_full();
        let all: Vec<_> = configured.iter().map(|witness| self.asked(&before, witness)).collect();
        let is_new = |asked| !before.iter().any(|before| Arc::ptr_eq(before, asked));
        let some_are_new = all.iter().any(is_new);
        self.all.store(Arc::new(all));
        if some_are_new {
            self.outbox().at_once = true;
            self.arrived.notify_one();
        }
    }

    fn asked(&self, before: &[Arc<Asked>], configured: &AuditWitness) -> Arc<Asked> {
        let AuditWitness { url, verifier_key: key } = configured.clone();
        let same = before.iter().find(|asked| asked.key == key);
        if let Some(same) = same
            && same.url == url
        {
            return same.clone();
        }
        let witnessed = match same {
            Some(same) => same.witnessed.clone(),
            None => Arc::new(Mutex::new(Witnessed::load(self.layout.clone(), key.clone()))),
        };
        let (cosigns, told) = (AtomicBool::new(false), Mutex::new(None));
        Arc::new(Asked { key, url, witnessed, cosigns, told })
    }

    /// Each by name, and whether it cosigned the last checkpoint that it was sent.
    pub fn cosign(&self) -> Vec<(String, bool)> {
        let shown =
            |it: &Arc<Asked>| (it.key.name().to_owned(), it.cosigns.load(Ordering::Relaxed));
        self.all.load().iter().map(shown).collect()
    }

    /// The next checkpoint to be cosigned, in the place of one that waits. Never waits for a
    /// witness.
    pub fn offer(&self, note: &str) {
        self.outbox().newest = Some(note.to_owned());
        self.arrived.notify_one();
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> String {
        let mut outbox = self.outbox();
        loop {
            if let Some(note) = outbox.newest.take() {
                outbox.at_once = false;
                return note;
            }
            outbox = self.arrived.wait(outbox).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Until all may be asked again.
    fn pause(&self) {
        let waits = |outbox: &mut Outbox| !outbox.at_once;
        drop(self.arrived.wait_timeout_while(self.outbox(), WITNESS_INTERVAL, waits));
    }
}

impl Client {
    /// Starts the thread, which ends with the process.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(self) -> std::io::Result<()> {
        let run = move || {
            loop {
                let note = self.witnesses.take();
                self.round(&note);
                self.witnesses.pause();
            }
        };
        Builder::new().name("xksd-witnesses".into()).spawn(run).map(drop)
    }

    /// Asks all at once: one that does not answer must not keep the others' lines away.
    fn round(&self, note: &str) {
        let all = self.witnesses.all.load_full();
        let Ok(checkpoint) = self.verifier.open(note) else { return };
        let checkpoint = &checkpoint;
        let lines: String = std::thread::scope(|scope| {
            let ask = |asked: &Arc<Asked>| {
                let asked = asked.clone();
                let name = || Builder::new().name("xksd-witness".into());
                name().spawn_scoped(scope, move || self.ask(&asked, checkpoint, note))
            };
            let threads: Vec<_> = all.iter().map(ask).collect();
            let lines = threads.into_iter().filter_map(|thread| thread.ok()?.join().ok()?);
            lines.collect()
        });
        if !lines.is_empty() {
            self.trail.keep_cosigned(checkpoint.size, format!("{note}{lines}"));
        }
    }

    fn ask(&self, asked: &Asked, checkpoint: &Checkpoint, note: &str) -> Option<String> {
        let answer = asked.ask(checkpoint, note);
        let cosigns = answer.is_ok();
        asked.cosigns.store(cosigns, Ordering::Relaxed);
        let told = asked.told.lock().unwrap_or_else(PoisonError::into_inner).replace(cosigns);
        if told != Some(cosigns) {
            let name = asked.key.name();
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
    fn ask(&self, checkpoint: &Checkpoint, note: &str) -> Result<String, String> {
        let mut witnessed = self.witnessed.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |error: std::io::Error| format!("the trail's hashes: {error}");
        let size = checkpoint.size;
        let mut again = true;
        loop {
            let body = witnessed.request(checkpoint, note).map_err(failed)?;
            let body = body.ok_or_else(|| went_back(witnessed.size(), size))?;
            let (status, answer) = add_checkpoint(&self.url, &body)?;
            let at = match status {
                200 => return witnessed.accept(checkpoint, note, &answer),
                // It was cosigned by another run, or what was kept here is lost.
                409 if again => answer.trim_end().parse().ok(),
                // What was kept here is wrong, or the trail.
                422 if again => Some(witnessed.size()),
                _ => None,
            };
            match at {
                Some(at) if at > size => return Err(went_back(at, size)),
                Some(at) => witnessed.is_at(at).map_err(failed)?,
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
