//! The thread of a wrapped key manager: has an HSM open the key files, asks it time and again
//! whether it still would, and takes new files over.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::serving;
use super::state::State;
use super::unsealing::look::{Look, look};
use super::unsealing::openers::{self, Done, Job, NotOpened};
use super::unsealing::{Means, Unsealing};
use crate::audit::record::Record;
use crate::key_manager::wrapped::wrap::Hsm;
use crate::key_manager::wrapped::{
    Closed, FileState, Finding, Folder, Refusal, Standing, needless_usage,
};
use crate::limits::{KEY_FOLDER_INTERVAL, UNSEAL_RETRY_INTERVAL};
use crate::telemetry::Level;

/// Between two looks at what there is to do.
const TICK: Duration = Duration::from_millis(100);

/// Why files are refused, by label.
type Reasons = HashMap<Arc<str>, Refusal>;
/// What happened to the key of a label.
type News = (Arc<str>, String);

/// Starts the thread; it ends when `stop` is disconnected.
///
/// # Errors
/// When no thread can be started.
pub fn start(
    state: &Arc<State>,
    unsealing: &Arc<Unsealing>,
    stop: &Receiver<()>,
) -> std::io::Result<JoinHandle<()>> {
    let (state, unsealing, stop) = (state.clone(), unsealing.clone(), stop.clone());
    let thread = std::thread::Builder::new().name("xksd-unseal".into());
    // Again and again, where a reload brings other means.
    thread.spawn(move || while keep(&state, &unsealing, &stop) == Ended::OtherMeans {})
}

/// Why a keeper has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// A reload has brought other settings, or other HSMs.
    OtherMeans,
    Stopped,
}

/// What opens the files are threads beside it.
fn keep(state: &Arc<State>, unsealing: &Unsealing, stop: &Receiver<()>) -> Ended {
    let means = unsealing.means.load_full();
    let ((jobs, to_do), (done, opened)) = (unbounded(), unbounded());
    std::thread::scope(|scope| {
        // They end when no more jobs can come: when the keeper is dropped.
        for _ in 0..means.openers {
            let (means, to_do, done) = (&means, to_do.clone(), done.clone());
            let thread = std::thread::Builder::new().name("xksd-open".into());
            let run = move || openers::run(unsealing, means, &to_do, &done);
            if let Err(error) = thread.spawn_scoped(scope, run) {
                let message = format!("a thread that opens key files cannot be started: {error}");
                state.log.event(Level::Error, message);
            }
        }
        Keeper::new(state, unsealing, &means, (jobs, opened)).run(stop)
    })
}

struct Keeper<'a> {
    state: &'a Arc<State>,
    unsealing: &'a Unsealing,
    means: &'a Arc<Means>,
    folder: Folder,
    hsms: Vec<Box<dyn Hsm>>,
    /// To and from those that open files.
    jobs: Sender<Job>,
    opened: Receiver<Done>,
    look_at_hsm: Instant,
    look_at_folder: Instant,
    /// As they were when they were read last.
    seen: BTreeMap<String, FileState>,
    /// Some were not there in the last look.
    some_are_gone: bool,
    /// Some could not be opened for a reason that may pass.
    incomplete: bool,
    /// What the log said last of the HSM, of the folder, and of the state directory.
    reported: Option<String>,
    reported_folder: Option<String>,
    reported_memory: Option<String>,
}

impl<'a> Keeper<'a> {
    fn new(
        state: &'a Arc<State>,
        unsealing: &'a Unsealing,
        means: &'a Arc<Means>,
        (jobs, opened): (Sender<Job>, Receiver<Done>),
    ) -> Keeper<'a> {
        let now = Instant::now();
        Keeper {
            state,
            unsealing,
            means,
            folder: Folder::new(&means.settings.folder),
            hsms: openers::hsms(means),
            jobs,
            opened,
            look_at_hsm: now,
            look_at_folder: now,
            seen: BTreeMap::new(),
            some_are_gone: false,
            incomplete: false,
            reported: None,
            reported_folder: None,
            reported_memory: None,
        }
    }

    fn run(&mut self, stop: &Receiver<()>) -> Ended {
        while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            if !Arc::ptr_eq(self.means, &self.unsealing.means.load()) {
                return Ended::OtherMeans;
            }
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
        Ended::Stopped
    }

    fn is_sealed(&self) -> bool {
        matches!(self.unsealing.lock().closed(), Some(Closed::Sealed(_)))
    }

    fn look_at_hsm_if_due(&mut self) {
        if Instant::now() < self.look_at_hsm {
            return;
        }
        let Look { mut finding, refused } =
            look(self.unsealing, self.means, &mut self.hsms, &self.folder);
        let mut lease = self.unsealing.lock();
        let was_closed = lease.closed();
        if let (Finding::No(why), Standing::NotOpened(_)) = (&finding, lease.standing())
            && self.means.hsms.iter().any(|hsm| hsm.refused_pin().is_some())
        {
            // Nothing was opened: that is the operator's, who puts the right PIN there.
            finding = Finding::Away(why.clone());
        }
        lease.found(finding.clone(), Instant::now());
        let closed = lease.closed();
        self.unsealing.close_if(&lease);
        let news = if closed.is_none() { self.refuse(&refused) } else { Vec::new() };
        drop(lease);
        if !news.is_empty() {
            // Their files may be opened again one day.
            self.incomplete = true;
            serving::renew_key_stores(self.state);
            self.tell_news(news);
        }
        let interval = match (&finding, &closed) {
            (Finding::Yes, None) => self.means.settings.recheck,
            _ => UNSEAL_RETRY_INTERVAL.min(self.means.settings.recheck),
        };
        self.look_at_hsm = Instant::now() + interval;
        if was_closed.is_some() && closed.is_none() {
            // Nothing is in memory.
            self.seen.clear();
            self.tell_needless_usage();
        }
        self.tell_finding(&finding);
    }

    /// A master that may do more than it must is a weakness of the HSM's configuration, which only
    /// its owner can end.
    fn tell_needless_usage(&mut self) {
        let (name, settings) = (&self.unsealing.name, &self.means.settings);
        for hsm in &mut self.hsms {
            if let Some(what) = needless_usage(&mut **hsm, &settings.master) {
                self.state.log.event(Level::Warn, format!("key manager {name:?}: {what}"));
            }
        }
    }

    /// Keys that no HSM opens any more, while it opens others, are no longer used.
    fn refuse(&self, refused: &[(Vec<String>, String)]) -> Vec<News> {
        let keys = &self.unsealing.keys;
        let news = refused.iter().flat_map(|(masters, why)| keys.refuse(masters, why));
        news.map(|(label, why)| (label, format!("refused: {why}"))).collect()
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
                let seconds = self.means.settings.hsm_absent_max.as_secs();
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
        let is_open = self.unsealing.keys.table().closed().is_none();
        if is_open && files == self.seen && !self.incomplete {
            return;
        }
        let is_gone = |label: &String| !files.contains_key(label);
        if self.seen.keys().any(is_gone) && !std::mem::replace(&mut self.some_are_gone, true) {
            // Perhaps the folder is being replaced: they count as gone in the next look.
            return;
        }
        self.some_are_gone = false;
        self.incomplete = false;
        let Some((refused, mut news)) = self.open(&files) else { return };
        if self.put_in_use(&files, refused, &mut news) {
            self.seen = files;
        }
        self.tell_news(news);
    }

    /// Has all be opened that is new; gives what is refused, and what is to be told. None if no key
    /// may be used any more.
    fn open(&mut self, files: &BTreeMap<String, FileState>) -> Option<(Reasons, Vec<News>)> {
        let (Unsealing { keys, opening, .. }, openers) = (self.unsealing, self.means.openers);
        let round = opening.clear();
        let table = keys.table();
        let is_new = |(label, file): &(&String, &FileState)| {
            let is_refused = table.refused().any(|(refused, _)| **refused == ***label);
            self.seen.get(*label) != Some(*file) || is_refused || table.key(label).is_none()
        };
        let mut new: Vec<Arc<str>> =
            files.iter().filter(is_new).map(|(label, _)| label.as_str().into()).rev().collect();
        // No hold on a key while the HSM is asked.
        drop(table);
        let (mut refused, mut news, mut waiting) = (Reasons::new(), Vec::new(), 0);
        loop {
            // The first one says of which set the folder is.
            let most = if opening.look(HashMap::is_empty) { 1 } else { openers };
            while waiting < most
                && let Some(label) = new.pop()
            {
                waiting += usize::from(self.jobs.send(Job { label, round }).is_ok());
            }
            if waiting == 0 {
                return Some((refused, news));
            }
            match self.opened.recv_timeout(TICK) {
                Ok(done) if done.round == round => {
                    waiting -= 1;
                    self.note(done, &mut refused, &mut news);
                }
                // Of a round that was given up.
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            self.look_at_hsm_if_due();
            if self.unsealing.lock().closed().is_some() {
                opening.clear();
                return None;
            }
        }
    }

    /// Of one file.
    fn note(
        &mut self,
        Done { label, result, .. }: Done,
        refused: &mut Reasons,
        news: &mut Vec<News>,
    ) {
        let table = self.unsealing.keys.table();
        match result {
            Ok(epoch) => {
                if table.key(&label).is_none_or(|key| key.epoch != epoch) {
                    news.push((label, format!("epoch {} is in use", epoch.number)));
                }
            }
            Err(NotOpened { why, may_pass, by_hsm, is_refused_by_hsm }) => {
                if by_hsm {
                    self.look_at_hsm = Instant::now();
                }
                self.incomplete |= may_pass;
                if !table.refused().any(|(known, before)| *known == label && before == why) {
                    news.push((label.clone(), format!("refused: {why}")));
                }
                refused.insert(label, Refusal { why, by_hsm: is_refused_by_hsm });
            }
        }
    }

    /// What was opened, and of what was in use before all that still has a file: a key whose new
    /// file is refused is not in doubt itself. False if keys may not be used any more.
    fn put_in_use(
        &mut self,
        files: &BTreeMap<String, FileState>,
        refused: Reasons,
        news: &mut Vec<News>,
    ) -> bool {
        let Unsealing { name, files: known, keys: wrapped, .. } = self.unsealing;
        let believed: Vec<_> = self.unsealing.opening.look(|opening| {
            opening.iter().map(|(label, key)| (label.clone(), key.epoch.clone())).collect()
        });
        let written = known.believe(name, believed.iter().map(|(label, e)| (&**label, e)));
        self.tell_memory(written.err());
        let lease = self.unsealing.lock();
        let mut keys = self.unsealing.opening.take();
        if lease.closed().is_some() {
            return false;
        }
        let before = wrapped.table();
        for (label, key) in before.keys() {
            if !files.contains_key(&**label) {
                let gone = "its file is gone: it is no longer used".to_owned();
                news.push((label.clone(), gone));
            } else if !keys.contains_key(label) {
                keys.insert(label.clone(), key.clone());
            }
        }
        let count = keys.len();
        if let (0, Some((_, Refusal { why, .. })), Some(_)) =
            (count, refused.iter().next(), before.closed())
        {
            // Not ready: it would have nothing to serve with.
            let why = why.clone();
            wrapped.refuse_all(refused, why);
            return false;
        }
        wrapped.open(keys, refused);
        drop(lease);
        if before.closed().is_some() {
            let (memory, are) =
                (wrapped.protection(), if count == 1 { "key is" } else { "keys are" });
            let message = format!("key manager {name:?}: {count} {are} open, in {memory}");
            self.state.log.event(Level::Info, message);
        }
        serving::renew_key_stores(self.state);
        true
    }

    fn tell_news(&self, news: Vec<News>) {
        for (label, what) in news {
            let name = &self.unsealing.name;
            let level = if what.starts_with("refused") { Level::Error } else { Level::Info };
            self.state.log.event(level, format!("key manager {name:?}, key {label:?}: {what}"));
            let record = Record::KeyFile { key_manager: name, label: &label, change: &what };
            self.state.audit.record(&record);
        }
    }

    /// The state directory did not take the newest epochs: tried again soon, and told once.
    fn tell_memory(&mut self, problem: Option<String>) {
        self.incomplete |= problem.is_some();
        if problem != self.reported_memory {
            if let Some(why) = &problem {
                let message = format!(
                    "which key files are the newest is not remembered over a restart, because {why}"
                );
                self.state.log.event(Level::Error, message);
            }
            self.reported_memory = problem;
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
