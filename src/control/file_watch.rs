//! Files that the configuration names come into force by themselves, once they are whole and valid:
//! certificates, secrets, PINs, policies, key files.
//!
//! The kernel tells of a change in the *folder* of each file: Kubernetes exchanges the folder
//! behind a symbolic link, after which nothing ever happens to the file that was watched. What
//! counts is the content, compared with what the configuration in force was read from.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use super::changed_files::{self, are_as};
use super::reload;
use super::state::State;
use crate::config::Config;
use crate::config::files::Files;
use crate::limits::{FILES_POLL_INTERVAL, FILES_SETTLE_TIME};
use crate::telemetry::Level;

/// Between two looks at what the kernel tells.
const TICK: Duration = Duration::from_millis(100);

/// Starts the thread, which ends with the process.
///
/// # Errors
/// When it cannot be started.
pub(super) fn start(state: &Arc<State>) -> std::io::Result<()> {
    let state = state.clone();
    let run = move || {
        let mut watcher = Watcher::new(&state);
        loop {
            std::thread::sleep(TICK);
            watcher.look(&state, Instant::now());
        }
    };
    std::thread::Builder::new().name("xksd-files".into()).spawn(run).map(drop)
}

struct Watcher {
    /// None where the kernel gives none: then the files are looked at now and then.
    inotify: Option<OwnedFd>,
    /// For which the folders are.
    config: Option<Arc<Config>>,
    /// When to look at the files.
    look_at: Instant,
    /// As they were at the last look, where they differ from what is in force.
    changed: Option<Files>,
}

impl Watcher {
    fn new(state: &State) -> Watcher {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        if let Err(error) = &inotify {
            let seconds = FILES_POLL_INTERVAL.as_secs();
            let message =
                format!("files are looked at every {seconds} s and not at once: inotify: {error}");
            state.log.event(Level::Warn, message);
        }
        Watcher { inotify: inotify.ok(), config: None, look_at: Instant::now(), changed: None }
    }

    fn look(&mut self, state: &Arc<State>, now: Instant) {
        let config = state.config.load_full();
        if self.has_event() {
            self.look_at = now + FILES_SETTLE_TIME;
        }
        if !self.config.as_ref().is_some_and(|known| Arc::ptr_eq(known, &config)) {
            self.watch_folders(&config);
            self.config = Some(config.clone());
        }
        if now < self.look_at || !config.server.watch_files {
            return;
        }
        let found = changed_files::found(&config);
        self.look_at = now + FILES_POLL_INTERVAL;
        // The configuration is not taken over by its change: but an edit that was undone is no
        // reason to refuse others any more.
        if are_as(config.files.iter(), &found) {
            self.changed = None;
            changed_files::put_back(state, &found);
            return;
        }
        if changed_files::why_refused(state, &found).is_some() {
            self.changed = None;
            return;
        }
        if self.changed.as_ref() != Some(&found) {
            // Perhaps they are still being written.
            self.changed = Some(found);
            self.look_at = now + FILES_SETTLE_TIME;
            return;
        }
        match reload::reload_watched(state) {
            // Another reload is at it.
            None => self.look_at = Instant::now() + FILES_SETTLE_TIME,
            Some(reloaded) => {
                self.changed = None;
                changed_files::tried(state, found, &reloaded);
            }
        }
        // Links may lead elsewhere now.
        self.config = None;
    }

    /// Whether something has happened in a folder since the last call.
    fn has_event(&self) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(inotify, &mut buffer);
        let mut some = false;
        while events.next().is_ok() {
            some = true;
        }
        some
    }

    /// The folder of each file and, where it is a link, that of the file behind it. One that is
    /// gone is watched again when it is back, or else the files are looked at now and then.
    fn watch_folders(&self, config: &Config) {
        let Some(inotify) = &self.inotify else { return };
        let mut folders = BTreeSet::new();
        for path in config.files.keys().chain(config.texts.keys()) {
            let behind = path.canonicalize().ok();
            let both = [Some(path), behind.as_ref()];
            let of_both = both.into_iter().flatten().filter_map(|path| path.parent());
            folders.extend(of_both.map(|folder| folder.to_path_buf()));
        }
        let flags = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        for folder in folders {
            // Also one that is watched: behind the same name there may be another folder.
            let _ = inotify::add_watch(inotify, folder, flags);
        }
    }
}
