//! The threads that look after key managers, and the key managers that they look after: those that
//! serve, those that a reload opens, and those that it closes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use super::challenges::Challenges;
use super::unsealing::Unsealing;
use crate::keystore::KeyManager;
use crate::limits::HUNG_OPEN_TIME;

/// All of them.
#[derive(Default)]
pub struct Attendants {
    all: Mutex<Vec<Attendant>>,
    /// What they compare.
    pub challenges: Arc<Challenges>,
}

/// Encryptions that no request asked for: the key manager, and how many there were by label.
type Unrequested = (Arc<str>, HashMap<Arc<str>, u64>);

struct Attendant {
    manager: Arc<KeyManager>,
    unsealing: Option<Arc<Unsealing>>,
    /// Dropped: the threads end.
    stop: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    /// From when on its sessions may close, where it is no longer used.
    leaves_at: Option<Instant>,
}

/// What became of a key manager that is no longer used.
#[derive(Debug, PartialEq, Eq)]
pub enum Gone {
    /// Its sessions are closed, its threads have ended.
    Closed(Arc<str>),
    /// A call still hangs in its module.
    Hangs(Arc<str>),
}

impl Attendants {
    fn all(&self) -> MutexGuard<'_, Vec<Attendant>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks after a key manager from now on, by these threads; they end when `stop` is dropped.
    pub fn add(
        &self,
        manager: &Arc<KeyManager>,
        unsealing: Option<&Arc<Unsealing>>,
        stop: Sender<()>,
        threads: Vec<JoinHandle<()>>,
    ) {
        let (manager, unsealing) = (manager.clone(), unsealing.cloned());
        let (stop, leaves_at) = (Some(stop), None);
        self.all().push(Attendant { manager, unsealing, stop, threads, leaves_at });
    }

    /// A key manager is no longer used: its threads end now, its sessions after `delay`, when the
    /// last request has left it.
    pub fn dismiss(&self, manager: &Arc<KeyManager>, delay: Duration) {
        let mut all = self.all();
        for one in all.iter_mut().filter(|one| Arc::ptr_eq(&one.manager, manager)) {
            one.stop = None;
            one.leaves_at = Some(Instant::now() + delay);
        }
    }

    /// All wrapped key managers of a name: a reload may have opened another one, and not closed the
    /// one before.
    pub fn unsealing(&self, name: &str) -> Vec<Arc<Unsealing>> {
        let all = self.all();
        let wrapped = all.iter().filter_map(|one| one.unsealing.clone());
        wrapped.filter(|unsealing| unsealing.name == name).collect()
    }

    /// Has all key managers look for lanes that hang, late jobs and leases that have ended, and
    /// closes those that are no longer used. To be called often.
    pub fn tick(&self, now: Instant) -> Vec<Gone> {
        let mut gone = Vec::new();
        self.all().retain_mut(|one| {
            one.manager.tick(now);
            if let Some(unsealing) = &one.unsealing {
                unsealing.tick(now);
            }
            let Some(leaves_at) = one.leaves_at.filter(|at| *at <= now) else { return true };
            let name = || one.manager.name.clone();
            if one.manager.stop(now) && one.threads.iter().all(JoinHandle::is_finished) {
                gone.push(Gone::Closed(name()));
            } else if now.saturating_duration_since(leaves_at) > HUNG_OPEN_TIME {
                // It may come back, and nobody waits for it.
                gone.push(Gone::Hangs(name()));
            } else {
                return true;
            }
            false
        });
        gone
    }

    /// Encryptions under keys of customers that no request asked for, by key manager and label, of
    /// those key managers that are counted.
    pub fn take_unrequested(&self, is_counted: impl Fn(&str) -> bool) -> Vec<Unrequested> {
        let all = self.all();
        let counted = all.iter().filter(|one| is_counted(&one.manager.name));
        counted.map(|one| (one.manager.name.clone(), one.manager.take_unrequested())).collect()
    }

    /// Ends all their threads: nobody looks after any of them from now on.
    pub fn stop(&self) {
        self.all().iter_mut().for_each(|one| one.stop = None);
    }

    /// Closes the sessions of all key managers, together by `deadline`. Gives those where a thread
    /// is still inside the module: to be called again.
    pub fn close_all(&self, deadline: Instant) -> Vec<Arc<str>> {
        let all = self.all();
        let is_inside = |one: &&Attendant| {
            let has_closed = one.manager.stop(deadline);
            !has_closed || one.threads.iter().any(|thread| !thread.is_finished())
        };
        all.iter().filter(is_inside).map(|one| one.manager.name.clone()).collect()
    }

    /// Sessions of each key manager that has some, open and hung: what changes as they close.
    pub fn sessions(&self) -> Vec<(usize, usize)> {
        let all = self.all();
        let stats = all.iter().filter_map(|one| one.manager.sessions());
        stats.map(|stats| (stats.lanes_open, stats.lanes_hung)).collect()
    }
}
