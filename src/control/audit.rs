//! The audit trail of the running service: opened at the start, given what control does, closed
//! at the end. Its checkpoints leave for the log, syslog and witnesses.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::syslog;
use super::witness::client::{Client, Outbox, Shown};
use crate::audit::checkpoint::Signer;
use crate::audit::layout::Layout;
use crate::audit::record::Record;
use crate::audit::recovery::{self, Recovered};
use crate::audit::store::Store;
use crate::audit::trail::{News, Settings, Trail};
use crate::config::{Audit, Config};
use crate::telemetry::{Level, Log};

/// The log tells a checkpoint this often: whoever keeps the log elsewhere keeps an anchor of the
/// trail there.
const CHECKPOINT_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// The writer's end is looked for this often.
const END_POLL: Duration = Duration::from_millis(5);

/// The trail, where the configuration asks for one.
#[derive(Default)]
pub struct ServiceAudit {
    open: Option<Open>,
}

struct Open {
    trail: Trail,
    writer: Mutex<Option<JoinHandle<()>>>,
    syslog: Option<Arc<Syslog>>,
    witnesses: Vec<Arc<Shown>>,
}

/// The machine's syslog daemon.
struct Syslog {
    socket: PathBuf,
    /// Whether it took the last checkpoint.
    takes: AtomicBool,
}

impl ServiceAudit {
    /// Opens the configuration's trail, if it has one, and records the start.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open(config: &Config, shards: usize, log: &Log) -> Result<ServiceAudit, String> {
        let Some(audit) = &config.audit else { return Ok(ServiceAudit::default()) };
        let previous = &audit.previous_verifier_keys;
        let (store, recovered) =
            recovery::open(Layout::new(&audit.directory), signer(audit)?, previous)?;
        let settings = Settings {
            durability: audit.durability,
            when_unwritable: audit.when_unwritable,
            retention: audit.retention,
            shards,
        };
        log.event(
            Level::Info,
            format!(
                "audit trail {}: {} records in {}",
                audit.origin,
                store.size(),
                audit.directory.display()
            ),
        );
        let opened = start(audit, store, settings, log)
            .map_err(|error| format!("audit: no thread: {error}"))?;
        let Recovered { removed_bytes, not_yet_signed } = recovered;
        if recovered != Recovered::default() {
            log.event(
                Level::Warn,
                format!(
                    "audit trail: the last run did not end in order: {not_yet_signed} records \
                     were not signed yet, and {removed_bytes} bytes of an unfinished one are \
                     removed"
                ),
            );
            opened.record(&Record::Recovered { not_yet_signed, removed_bytes });
        }
        let (version, config_sha256) = (env!("CARGO_PKG_VERSION"), &*config.sha256);
        opened.record(&Record::Start { version, config_sha256 });
        Ok(opened)
    }

    /// For the shards.
    pub fn trail(&self) -> Option<Trail> {
        self.open.as_ref().map(|open| open.trail.clone())
    }

    /// Where checkpoints go to besides the log, and whether the last one got there.
    pub fn sent(&self) -> impl Iterator<Item = (&str, bool)> {
        self.open.iter().flat_map(|open| {
            let syslog = open.syslog.iter().map(|syslog| ("syslog", &syslog.takes));
            let witnesses = open.witnesses.iter().map(|shown| (&*shown.name, &shown.cosigns));
            syslog.chain(witnesses).map(|(name, sent)| (name, sent.load(Ordering::Relaxed)))
        })
    }

    /// Records something that control did or saw.
    pub fn record(&self, record: &Record<'_>) {
        if let Some(open) = &self.open {
            // Without a place it is counted, and the trail says so.
            let _ = open.trail.append(record, &mut Vec::new());
        }
    }

    /// Records the end and signs it. False when the writer does not end by the deadline: a disk
    /// that hangs.
    pub fn close(&self, deadline: Instant) -> bool {
        let Some(open) = &self.open else { return true };
        let mut writer = open.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = writer.take() else { return true };
        self.record(&Record::Stop {});
        open.trail.stop();
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(END_POLL);
        }
        thread.join().is_ok()
    }
}

/// Starts the writer and, apart from it, who asks witnesses.
fn start(
    audit: &Audit,
    store: Store,
    settings: Settings,
    log: &Log,
) -> std::io::Result<ServiceAudit> {
    let outbox = Arc::new(Outbox::default());
    let syslog = audit
        .syslog
        .clone()
        .map(|socket| Arc::new(Syslog { socket, takes: AtomicBool::new(true) }));
    let verifier = store.verifier().clone();
    let teller = teller(log.clone(), syslog.clone(), outbox.clone());
    let (trail, writer) = Trail::start(store, settings, teller)?;
    let layout = Layout::new(&audit.directory);
    let client = Client { outbox, trail: trail.clone(), verifier, layout, log: log.clone() };
    let witnesses = client.start(&audit.witnesses)?;
    let writer = Mutex::new(Some(writer));
    Ok(ServiceAudit { open: Some(Open { trail, writer, syslog, witnesses }) })
}

/// What signs the checkpoints of this configuration.
///
/// # Errors
/// When the key is none, which the configuration's check has ruled out.
pub fn signer(audit: &Audit) -> Result<Signer, String> {
    audit
        .signing_key
        .base64()
        .and_then(|seed| Signer::new(&seed, &audit.origin))
        .ok_or_else(|| "audit.signing_key is not an Ed25519 seed".to_owned())
}

impl Syslog {
    /// Sends a checkpoint as a JSON string of ASCII: one line, whatever a daemon does to line ends
    /// and to other letters.
    fn send(&self, note: &str, log: &Log) {
        let quoted = serde_json::to_string(note).unwrap_or_default();
        let message = format!("audit checkpoint {}", quoted.replace('\u{2014}', "\\u2014"));
        let sent = syslog::send(&self.socket, "checkpoint", &message);
        let socket = self.socket.display();
        match (sent, self.takes.load(Ordering::Relaxed)) {
            (Ok(()), false) => {
                log.event(Level::Info, format!("syslog {socket} takes checkpoints again"));
                self.takes.store(true, Ordering::Relaxed);
            }
            (Err(error), true) => {
                let message = format!("syslog {socket} does not take checkpoints: {error}");
                log.event(Level::Error, message);
                self.takes.store(false, Ordering::Relaxed);
            }
            (Ok(()), true) | (Err(_), false) => {}
        }
    }
}

/// Puts the writer's news into the log, and sends checkpoints out.
fn teller(
    log: Log,
    syslog: Option<Arc<Syslog>>,
    outbox: Arc<Outbox>,
) -> impl FnMut(News) + Send + 'static {
    let mut checkpoint_logged: Option<Instant> = None;
    move |news| match news {
        News::Unwritable(why) => {
            log.event(Level::Error, format!("the audit trail cannot be written: {why}"));
        }
        News::Writable { missed: 0 } => {
            log.event(Level::Info, "the audit trail can be written again; nothing is missing");
        }
        News::Writable { missed } => log.event(
            Level::Error,
            format!("the audit trail can be written again; {missed} records are missing from it"),
        ),
        News::Checkpoint { note, last } => {
            outbox.offer(&note);
            let due = checkpoint_logged.is_none_or(|at| at.elapsed() >= CHECKPOINT_LOG_INTERVAL);
            if due || last {
                checkpoint_logged = Some(Instant::now());
                syslog.iter().for_each(|syslog| syslog.send(&note, &log));
                log.event(Level::Info, format!("audit checkpoint\n{note}"));
            }
        }
        News::Deleted(files) => {
            log.event(Level::Info, format!("audit trail: {files} old files of records deleted"));
        }
    }
}
