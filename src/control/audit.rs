//! The audit trail of the running service: begun at the start or by a reload, given what control
//! does, closed at the end.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::checkpoints::{Outlets, teller};
use super::witness::client::Client;
use crate::audit::checkpoint::Signer;
use crate::audit::layout::Layout;
use crate::audit::record::Record;
use crate::audit::recording::Recording;
use crate::audit::recovery::{self, Recovered};
use crate::audit::store::Store;
use crate::audit::trail::{Settings, Trail};
use crate::config::{Audit, Config};
use crate::telemetry::{Level, Log};

/// The writer's end is looked for this often.
const END_POLL: Duration = Duration::from_millis(5);

/// The trail, once a configuration has asked for one. It goes on until the process ends.
pub struct ServiceAudit {
    recording: Arc<Recording>,
    open: OnceLock<Open>,
}

struct Open {
    writer: Mutex<Option<JoinHandle<()>>>,
    outlets: Arc<Outlets>,
}

/// What a configuration does to it.
pub(super) enum Change {
    /// There is no trail.
    Nothing,
    /// It begins, or goes on from the last run.
    Begin(Audit, Box<Store>, Recovered),
    /// It is written on, as this says.
    Set(Audit),
}

impl ServiceAudit {
    /// No trail yet, for so many shards.
    pub fn new(shards: usize) -> ServiceAudit {
        ServiceAudit { recording: Arc::new(Recording::new(shards)), open: OnceLock::new() }
    }

    /// Opens the configuration's trail, if it has one that does not run yet. Of one that runs,
    /// `config` has the directory, the key and the origin.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn open(&self, config: &Config) -> Result<Change, String> {
        let Some(audit) = config.audit.clone() else { return Ok(Change::Nothing) };
        if self.open.get().is_some() {
            return Ok(Change::Set(audit));
        }
        let (layout, previous) = (Layout::new(&audit.directory), &audit.previous_verifier_keys);
        let (store, recovered) = recovery::open(layout, signer(&audit)?, previous)?;
        Ok(Change::Begin(audit, Box::new(store), recovered))
    }

    /// As [`Self::open`], for a reload: what serves without a trail must not end by one that cannot
    /// be written. A start goes on without the proof, since there the disk may get place later.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn prepare(&self, config: &Config) -> Result<Change, String> {
        let change = self.open(config)?;
        if let Change::Begin(audit, store, _) = &change {
            store.prove_writable().map_err(|error| {
                let directory = audit.directory.display();
                format!("audit: {directory} cannot be written: {error}")
            })?;
        }
        Ok(change)
    }

    /// Does it. Nothing that was appended is lost, and answers that wait for their records get
    /// them.
    ///
    /// # Errors
    /// A sentence for the operator. Then nothing has changed.
    pub(super) fn take_over(
        &self,
        change: Change,
        config: &Config,
        log: &Log,
    ) -> Result<(), String> {
        match (change, self.open.get(), self.trail()) {
            (Change::Begin(audit, store, recovered), ..) => self
                .begin((&audit, *store, recovered), config, log)
                .map_err(|error| format!("audit: no thread: {error}")),
            (Change::Set(audit), Some(open), Some(trail)) => {
                open.outlets.set(&audit);
                trail.set(settings(&audit));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Starts the writer and, apart from it, who asks witnesses; records the start.
    fn begin(
        &self,
        (audit, store, recovered): (&Audit, Store, Recovered),
        config: &Config,
        log: &Log,
    ) -> std::io::Result<()> {
        let (records, directory) = (store.size(), audit.directory.display());
        let message = format!("audit trail {}: {records} records in {directory}", audit.origin);
        let layout = Layout::new(&audit.directory);
        let outlets = Arc::new(Outlets::new(layout, log.clone()));
        outlets.set(audit);
        let verifier = store.verifier().clone();
        let wakers = self.recording.wakers().clone();
        let (trail, writer) =
            Trail::start(store, settings(audit), wakers, teller(outlets.clone()))?;
        let witnesses = outlets.witnesses.clone();
        let client = Client { witnesses, trail: trail.clone(), verifier, log: log.clone() };
        client.start().inspect_err(|_| trail.stop())?;
        log.event(Level::Info, message);
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
            append(&trail, &Record::Recovered { not_yet_signed, removed_bytes });
        }
        let (version, config_sha256) = (env!("CARGO_PKG_VERSION"), &*config.sha256);
        append(&trail, &Record::Start { version, config_sha256 });
        let _ = self.open.set(Open { writer: Mutex::new(Some(writer)), outlets });
        self.recording.begin(trail);
        Ok(())
    }

    /// For the shards.
    pub fn recording(&self) -> Arc<Recording> {
        self.recording.clone()
    }

    /// The trail, if there is one.
    pub fn trail(&self) -> Option<&Trail> {
        self.recording.trail()
    }

    /// Where checkpoints go to besides the log, and whether the last one got there.
    pub fn sent(&self) -> Vec<(String, bool)> {
        self.open.get().map_or_else(Vec::new, |open| open.outlets.sent())
    }

    /// Records something that control did or saw.
    pub fn record(&self, record: &Record<'_>) {
        if let Some(trail) = self.trail() {
            append(trail, record);
        }
    }

    /// Records the end and signs it. False when the writer does not end by the deadline: a disk
    /// that hangs.
    pub fn close(&self, deadline: Instant) -> bool {
        let (Some(open), Some(trail)) = (self.open.get(), self.trail()) else { return true };
        let mut writer = open.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = writer.take() else { return true };
        append(trail, &Record::Stop {});
        trail.stop();
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(END_POLL);
        }
        thread.join().is_ok()
    }
}

fn append(trail: &Trail, record: &Record<'_>) {
    // Without a place it is counted, and the trail says so.
    let _ = trail.append(record, &mut Vec::new());
}

fn settings(audit: &Audit) -> Settings {
    let Audit { durability, when_unwritable, retention, .. } = *audit;
    Settings { durability, when_unwritable, retention }
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
