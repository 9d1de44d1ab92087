//! The thread of a wrapped key manager: has an HSM open the key files, asks it time and again
//! whether it still would, and takes new files over.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use time::OffsetDateTime;

use super::probes::Inside;
use super::reload;
use super::state::State;
use super::unsealing::Unsealing;
use super::unsealing::hsm::{InNewSession, OfLanes};
use crate::audit::record::Record;
use crate::key_manager::wrapped::wrap::Hsm;
use crate::key_manager::wrapped::{
    Closed, Epoch, FileState, Finding, Folder, Loaded, NotLoaded, Table, load, look_at_hsm,
};
use crate::limits::{KEY_FOLDER_INTERVAL, UNSEAL_RETRY_INTERVAL};
use crate::telemetry::Level;

/// Between two looks at what there is to do.
const TICK: Duration = Duration::from_millis(100);

/// Starts the threads; they end when `stop` is disconnected.
///
/// # Errors
/// When no thread can be started.
pub fn start(state: &Arc<State>, stop: &Receiver<()>) -> std::io::Result<Vec<Inside>> {
    let thread = |unsealing: &Arc<Unsealing>| {
        let (state, unsealing, stop) = (state.clone(), unsealing.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("xksd-unseal".into());
        let name = unsealing.name.as_str().into();
        Ok((name, thread.spawn(move || Keeper::new(&state, &unsealing).run(&stop))?))
    };
    state.unsealing.iter().map(thread).collect()
}

struct Keeper<'a> {
    state: &'a Arc<State>,
    unsealing: &'a Unsealing,
    folder: Folder,
    hsms: Vec<Box<dyn Hsm + 'a>>,
    look_at_hsm: Instant,
    look_at_folder: Instant,
    /// As they were when they were read last.
    seen: BTreeMap<String, FileState>,
    /// Some were not there in the last look.
    some_are_gone: bool,
    /// Some could not be opened for a reason that may pass.
    incomplete: bool,
    /// What the log said last of the HSM and of the folder.
    reported: Option<String>,
    reported_folder: Option<String>,
}

impl<'a> Keeper<'a> {
    fn new(state: &'a Arc<State>, unsealing: &'a Unsealing) -> Keeper<'a> {
        let hsm = |manager: &'a Arc<_>| {
            let client = crate::keystore::KeyManager::client(manager)?;
            Some(Box::new(OfLanes { manager, client }) as Box<dyn Hsm + 'a>)
        };
        let now = Instant::now();
        Keeper {
            state,
            unsealing,
            folder: Folder::new(&unsealing.settings.folder),
            hsms: unsealing.hsms.iter().filter_map(hsm).collect(),
            look_at_hsm: now,
            look_at_folder: now,
            seen: BTreeMap::new(),
            some_are_gone: false,
            incomplete: false,
            reported: None,
            reported_folder: None,
        }
    }

    fn run(&mut self, stop: &Receiver<()>) {
        while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            if self.is_sealed() {
                // To be opened from the beginning, should it be unsealed.
                self.look_at_hsm = Instant::now();
                continue;
            }
            self.look_at_hsm_if_due();
            if self.unsealing.lock().closed().is_none() && Instant::now() >= self.look_at_folder {
                self.take_over_files();
                self.look_at_folder = Instant::now() + KEY_FOLDER_INTERVAL;
            }
        }
    }

    fn is_sealed(&self) -> bool {
        matches!(self.unsealing.lock().closed(), Some(Closed::Sealed(_)))
    }

    fn look_at_hsm_if_due(&mut self) {
        if Instant::now() < self.look_at_hsm {
            return;
        }
        let finding = self.finding();
        let mut lease = self.unsealing.lock();
        let was_closed = lease.closed();
        lease.found(finding.clone(), Instant::now());
        let closed = lease.closed();
        self.unsealing.close_if(&lease);
        drop(lease);
        let interval = match (&finding, &closed) {
            (Finding::Yes, None) => self.unsealing.settings.recheck,
            _ => UNSEAL_RETRY_INTERVAL.min(self.unsealing.settings.recheck),
        };
        self.look_at_hsm = Instant::now() + interval;
        if was_closed.is_some() && closed.is_none() {
            // Nothing is in memory.
            self.seen.clear();
        }
        self.tell_finding(&finding);
    }

    /// Whether some HSM opens what it sealed. One that does is enough; a no of one counts where
    /// none does.
    fn finding(&mut self) -> Finding {
        let table = self.unsealing.keys.table();
        let canary = table.keys().next().map(|(_, key)| &**key);
        let master = &self.unsealing.settings.master;
        let mut finding = None;
        for (hsm, manager) in self.hsms.iter_mut().zip(&self.unsealing.hsms) {
            let mut found = look_at_hsm(&mut **hsm, master, canary);
            if canary.is_some() && matches!(found, Finding::No(_)) {
                // Keys are in use: once more, by a session that nothing of the others can mislead.
                found = match look_at_hsm(&mut InNewSession(manager), master, canary) {
                    // It gives no further session, perhaps.
                    Finding::Away(_) => look_at_hsm(&mut **hsm, master, canary),
                    found => found,
                };
            }
            let named = |why: String| format!("{}: {why}", manager.name);
            finding = match (found, finding) {
                (Finding::Yes, _) => return Finding::Yes,
                (Finding::No(why), _) => Some(Finding::No(named(why))),
                (Finding::Away(_), Some(before)) => Some(before),
                (Finding::Away(why), None) => Some(Finding::Away(named(why))),
            };
        }
        finding.unwrap_or_else(|| Finding::Away("no HSM is configured".to_owned()))
    }

    /// A line when it becomes another one.
    fn tell_finding(&mut self, finding: &Finding) {
        let reported = match finding {
            Finding::Yes => None,
            Finding::No(why) | Finding::Away(why) => Some(why.clone()),
        };
        if reported == self.reported {
            return;
        }
        let name = &self.unsealing.name;
        let (level, message) = match &reported {
            None => (Level::Info, format!("key manager {name:?}: the HSM opens its keys")),
            Some(why) if self.unsealing.closed().is_none() => {
                let seconds = self.unsealing.settings.hsm_absent_max.as_secs();
                let message = format!(
                    "key manager {name:?}: the HSM that opened its keys is away: {why}. They are \
                     used up to {seconds} s after its last answer, and then no more"
                );
                (Level::Error, message)
            }
            Some(why) => {
                let message =
                    format!("key manager {name:?}: the HSM does not open its keys: {why}");
                (Level::Error, message)
            }
        };
        self.state.log.event(level, message);
        self.reported = reported;
    }

    /// Reads what is new in the folder and has the HSM open it.
    fn take_over_files(&mut self) {
        let files = match self.folder.scan() {
            Ok(files) => files,
            Err(why) => return self.tell_folder(Some(why)),
        };
        self.tell_folder(None);
        let table = self.unsealing.keys.table();
        if table.closed().is_none() && files == self.seen && !self.incomplete {
            return;
        }
        let is_gone = |label: &String| !files.contains_key(label);
        if self.seen.keys().any(is_gone) && !std::mem::replace(&mut self.some_are_gone, true) {
            // Perhaps the folder is being replaced: they count as gone in the next look.
            return;
        }
        self.some_are_gone = false;
        self.incomplete = false;
        let (mut keys, mut refused) = (HashMap::new(), HashMap::new());
        let mut news = Vec::new();
        for (label, file) in &files {
            self.look_at_hsm_if_due();
            let label: Arc<str> = label.as_str().into();
            let before = table.key(&label);
            if self.seen.get(&*label) == Some(file)
                && let Some(before) = before
            {
                keys.insert(label, before.clone());
                continue;
            }
            match self.open(&label, before.map(|key| &**key)) {
                Ok(loaded) => {
                    if before.is_none_or(|before| before.epoch != loaded.epoch) {
                        let number = loaded.epoch.number;
                        news.push((label.clone(), format!("epoch {number} is in use")));
                    }
                    keys.insert(label, Arc::new(loaded));
                }
                Err(why) => {
                    let known = table.refused().find(|(refused, _)| **refused == label);
                    if known.is_none_or(|(_, known)| known != why) {
                        news.push((label.clone(), format!("refused: {why}")));
                    }
                    // What was believed goes on: the key itself is not in doubt.
                    if let Some(before) = before {
                        keys.insert(label.clone(), before.clone());
                    }
                    refused.insert(label, why);
                }
            }
        }
        for (label, _) in table.keys().filter(|(label, _)| !files.contains_key(&***label)) {
            news.push((label.clone(), "its file is gone: it is no longer used".to_owned()));
        }
        self.seen = files;
        self.put_in_use(keys, refused, &table);
        self.tell_news(news);
    }

    /// Opens the file of a key, if it is to be believed.
    fn open(&mut self, label: &str, before: Option<&Loaded>) -> Result<Loaded, String> {
        let Unsealing { name, settings, keys, .. } = self.unsealing;
        let file = self.folder.read(label)?.ok_or("its file is gone")?;
        let min = settings.min_epoch.get(label).copied().unwrap_or(0);
        self.unsealing.files.check(name, label, &Epoch::of(&file), min)?;
        let now = OffsetDateTime::now_utc();
        load(&file, &mut self.hsms, keys.arena(), before, now).map_err(|why| {
            self.incomplete |= !matches!(why, NotLoaded::File(_));
            format!("key file {}: {why}", self.folder.file(label).display())
        })
    }

    fn put_in_use(
        &self,
        keys: HashMap<Arc<str>, Arc<Loaded>>,
        refused: HashMap<Arc<str>, String>,
        before: &Table,
    ) {
        let believed = keys.iter().map(|(label, key)| (&**label, &key.epoch));
        if let Err(why) = self.unsealing.files.believe(&self.unsealing.name, believed) {
            let message = format!(
                "which key files are the newest is not remembered over a restart, because {why}"
            );
            self.state.log.event(Level::Error, message);
        }
        let count = keys.len();
        let lease = self.unsealing.lock();
        if lease.closed().is_some() {
            return;
        }
        self.unsealing.keys.open(keys, refused);
        drop(lease);
        if before.closed().is_some() {
            let name = &self.unsealing.name;
            let (protection, keys) =
                (self.unsealing.keys.protection(), if count == 1 { "key is" } else { "keys are" });
            let message = format!("key manager {name:?}: {count} {keys} open, in {protection}");
            self.state.log.event(Level::Info, message);
        }
        reload::renew_key_stores(self.state);
    }

    fn tell_news(&self, news: Vec<(Arc<str>, String)>) {
        for (label, what) in news {
            let name = &self.unsealing.name;
            let level = if what.starts_with("refused") { Level::Error } else { Level::Info };
            self.state.log.event(level, format!("key manager {name:?}, key {label:?}: {what}"));
            let record = Record::KeyFile { key_manager: name, label: &label, change: &what };
            self.state.audit.record(&record);
        }
    }

    fn tell_folder(&mut self, problem: Option<String>) {
        if problem != self.reported_folder {
            if let Some(why) = &problem {
                let name = &self.unsealing.name;
                self.state.log.event(Level::Error, format!("key manager {name:?}: {why}"));
            }
            self.reported_folder = problem;
        }
    }
}
