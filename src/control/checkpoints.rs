//! Checkpoints of the audit trail leave the machine: for the log, syslog and witnesses.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::syslog;
use super::witness::client::Witnesses;
use crate::audit::layout::Layout;
use crate::audit::trail::News;
use crate::config::Audit;
use crate::telemetry::{Level, Log};

/// The log tells a checkpoint this often: whoever keeps the log elsewhere keeps an anchor of the
/// trail there.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Where they go.
pub struct Outlets {
    log: Log,
    syslog: ArcSwapOption<Syslog>,
    /// Who cosigns them.
    pub witnesses: Arc<Witnesses>,
    /// The next one goes to the log and syslog, however soon after the last.
    at_once: AtomicBool,
}

/// The machine's syslog daemon.
struct Syslog {
    socket: PathBuf,
    /// Whether it took the last checkpoint.
    takes: AtomicBool,
}

impl Outlets {
    /// The log, and nothing else yet, for the trail with these files.
    pub fn new(layout: Layout, log: Log) -> Outlets {
        let witnesses = Arc::new(Witnesses::new(layout));
        let (syslog, at_once) = (ArcSwapOption::empty(), AtomicBool::new(true));
        Outlets { log, syslog, witnesses, at_once }
    }

    /// From now on they go where this configuration says.
    pub fn set(&self, audit: &Audit) {
        self.witnesses.set(&audit.witnesses);
        let before = self.syslog.load().as_ref().map(|syslog| syslog.socket.clone());
        if before != audit.syslog {
            let new = |socket| Arc::new(Syslog { socket, takes: AtomicBool::new(true) });
            self.syslog.store(audit.syslog.clone().map(new));
            self.at_once.store(true, Ordering::Relaxed);
        }
    }

    /// Where they go to besides the log, and whether the last one got there.
    pub fn sent(&self) -> Vec<(String, bool)> {
        let syslog = self.syslog.load();
        let syslog = syslog.as_ref().map(|it| ("syslog".into(), it.takes.load(Ordering::Relaxed)));
        syslog.into_iter().chain(self.witnesses.cosign()).collect()
    }

    fn send(&self, note: &str, last: bool, logged: &mut Option<Instant>) {
        self.witnesses.offer(note);
        let due = logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
        if self.at_once.swap(false, Ordering::Relaxed) || due || last {
            *logged = Some(Instant::now());
            if let Some(syslog) = &*self.syslog.load() {
                syslog.send(note, &self.log);
            }
            self.log.event(Level::Info, format!("audit checkpoint\n{note}"));
        }
    }
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
pub fn teller(outlets: Arc<Outlets>) -> impl FnMut(News) + Send + 'static {
    let mut checkpoint_logged: Option<Instant> = None;
    move |news| {
        let log = &outlets.log;
        match news {
            News::Unwritable { why, refused } => {
                let way_out = if refused {
                    ". Requests are refused until it can be: see to the disk, or set \
                     audit.when_unwritable = \"continue\" and reload"
                } else {
                    ""
                };
                let message = format!("the audit trail cannot be written: {why}{way_out}");
                log.event(Level::Error, message);
            }
            News::Unsigned(why) => log.event(
                Level::Error,
                format!(
                    "audit trail: {why}. Records are written and requests answered, but nothing is \
                     signed from now on"
                ),
            ),
            News::Signed => {
                log.event(Level::Info, "checkpoints of the audit trail can be written again");
            }
            News::Writable { missed: 0 } => {
                log.event(Level::Info, "the audit trail can be written again; nothing is missing");
            }
            News::Writable { missed } => log.event(
                Level::Error,
                format!(
                    "the audit trail can be written again; {missed} records are missing from it"
                ),
            ),
            News::Checkpoint { note, last } => outlets.send(&note, last, &mut checkpoint_logged),
            News::Deleted(files) => {
                let message = format!("audit trail: {files} old files of records deleted");
                log.event(Level::Info, message);
            }
        }
    }
}
