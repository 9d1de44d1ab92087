//! The audit trail of the running service: opened at the start, given what control does, closed
//! at the end.

use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::audit::checkpoint::Signer;
use crate::audit::layout::Layout;
use crate::audit::record::Record;
use crate::audit::recovery::{self, Recovered};
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
        let (trail, writer) = Trail::start(store, settings, teller(log.clone()))
            .map_err(|error| format!("audit: no thread for the writer: {error}"))?;
        let opened = ServiceAudit { open: Some(Open { trail, writer: Mutex::new(Some(writer)) }) };
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

/// What signs the checkpoints of this configuration.
///
/// # Errors
/// When the key is none, which the configuration's check has ruled out.
pub fn signer(audit: &Audit) -> Result<Signer, String> {
    let seed = STANDARD.decode(audit.signing_key.expose()).map(Zeroizing::new);
    seed.ok()
        .and_then(|seed| Signer::new(&seed, &audit.origin))
        .ok_or_else(|| "audit.signing_key is not an Ed25519 seed".to_owned())
}

/// Puts the writer's news into the log.
fn teller(log: Log) -> impl FnMut(News) + Send + 'static {
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
            let due = checkpoint_logged.is_none_or(|at| at.elapsed() >= CHECKPOINT_LOG_INTERVAL);
            if due || last {
                checkpoint_logged = Some(Instant::now());
                log.event(Level::Info, format!("audit checkpoint\n{note}"));
            }
        }
        News::Deleted(files) => {
            log.event(Level::Info, format!("audit trail: {files} old files of records deleted"));
        }
    }
}
