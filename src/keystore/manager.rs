//! A running key manager of any kind: how jobs reach it, what is known of its health, how it ends.
//!
//! There are two ways to reach one: [`InProcess`], computed at once on the calling thread, and
//! [`Engine`], through lanes with a session each. Only this file knows which one it is.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};

use super::client::{BlockingClient, FreeGuests, Guest};
use crate::key_manager::unrequested::Unrequested;
use crate::key_manager::{
    Engine, Fault, InProcess, Job, KeyRef, LibraryState, ManagedVersion, ManagerInfo, Outcome,
    ProbeKey, RefusedKey, replica_check,
};
use crate::limits::{FIRST_LISTING_WAIT_MAX, HUNG_CALL_TIME, HUNG_OPEN_TIME};
use crate::sched::{
    Delivered, Inbox, Mailbox, Pool, PoolSettings, PoolStats, Refused, Share, Snapshot,
};
use crate::secret::SecretString;

/// A key manager and what is known of its health.
pub struct KeyManager {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// The last finished probe.
    pub probe: ArcSwapOption<Probe>,
    /// What the last look at its keys found.
    pub keys: KeyFailures,
    /// Its first look at them.
    pub first_listing: FirstListing,
    access: Access,
    /// Encryptions that are no request's: by [`KeyManager::client`], [`KeyManager::differences`].
    unrequested: Arc<Unrequested>,
}

/// How jobs reach a key manager.
enum Access {
    /// On the calling thread.
    InProcess(Arc<dyn InProcess>),
    /// Through lanes with a session each.
    Sessions(Sessions),
}

struct Sessions {
    pool: Arc<Pool>,
    engine: Arc<dyn Engine>,
    guests: FreeGuests,
    /// How many there are, taken or not.
    guests_max: usize,
    /// Tells that the engine, which was asked to, has closed.
    closed: Mutex<Option<Receiver<()>>>,
}

/// What a deep probe found.
pub struct Probe {
    /// When it ended.
    pub at: Instant,
    /// How long encrypt and decrypt took together, and under which key; or why they failed.
    pub result: Result<(Duration, ProbeKey), String>,
    /// What the module says of itself.
    pub info: ManagerInfo,
}

/// How many of the keys that are expected of a key manager do not serve as they should.
#[derive(Debug, Default)]
pub struct KeyFailures {
    /// Not there, not AES-256, not allowed, or twice.
    pub cannot_serve: AtomicUsize,
    /// Other keys than a replica has under the same label; counted at that of the two that found
    /// it.
    pub different: AtomicUsize,
    /// Each was looked at once.
    pub are_looked_at: AtomicBool,
}

/// The first look at all keys that are expected of a key manager. Until it is over, the first
/// request of each key searches for it, which may take longer than a request has time.
#[derive(Debug, Default)]
pub struct FirstListing {
    begun: OnceLock<Instant>,
    over: AtomicBool,
}

impl FirstListing {
    /// To be called when the key manager serves, again and again.
    pub fn begin(&self, now: Instant) {
        self.begun.get_or_init(|| now);
    }

    /// All that can be known of the keys is known.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Whether it is over, or has taken so long that nobody is to wait for it.
    pub fn is_over(&self, now: Instant) -> bool {
        let waited = |begun: &Instant| now.saturating_duration_since(*begun);
        self.over.load(Ordering::Acquire)
            || self.begun.get().is_some_and(|begun| waited(begun) >= FIRST_LISTING_WAIT_MAX)
    }
}

impl KeyManager {
    /// One that computes on the thread that asks.
    pub fn in_process(name: &str, keys: Arc<dyn InProcess>) -> KeyManager {
        KeyManager::new(name, Access::InProcess(keys))
    }

    /// One with `sessions` sessions at most, which open in the background. `shards`: the mailbox of
    /// each, in order. `clients`: how many [`KeyManager::client`] gives at a time.
    pub fn with_sessions(
        name: &str,
        engine: Arc<dyn Engine>,
        sessions: usize,
        shards: &[Arc<Mailbox>],
        clients: usize,
    ) -> KeyManager {
        let settings = PoolSettings {
            name: name.to_owned(),
            lanes: sessions,
            shards: shards.len(),
            hang_after: HUNG_CALL_TIME,
            open_hang_after: HUNG_OPEN_TIME,
        };
        let guest = |at| Guest { index: shards.len() + at, mailbox: Mailbox::new() };
        let guests: Vec<Guest> = (0..clients).map(guest).collect();
        let mailboxes = guests.iter().map(|guest| &guest.mailbox);
        let mailboxes = shards.iter().chain(mailboxes).cloned().collect();
        let pool = Pool::start(settings, engine.clone(), mailboxes);
        let (guests, closed) = (Arc::new(Mutex::new(guests)), Mutex::new(None));
        let guests_max = clients;
        KeyManager::new(
            name,
            Access::Sessions(Sessions { pool, engine, guests, guests_max, closed }),
        )
    }

    fn new(name: &str, access: Access) -> KeyManager {
        let (probe, keys) = (ArcSwapOption::empty(), KeyFailures::default());
        let (first_listing, unrequested) = (FirstListing::default(), Arc::default());
        KeyManager { name: name.into(), probe, keys, first_listing, access, unrequested }
    }

    /// Does a shard's job, on the shard itself or through a lane.
    ///
    /// # Errors
    /// Why the job is not taken on, and the job: at once, to be given to another one.
    pub async fn execute(
        &self,
        inbox: &Rc<Inbox>,
        share: Share,
        job: Job,
    ) -> Result<Delivered, Box<(Refused, Job)>> {
        match &self.access {
            Access::InProcess(keys) => Ok(at_once(&**keys, job)),
            Access::Sessions(sessions) => Ok(inbox.submit(&sessions.pool, share, job)?.await),
        }
    }

    /// For jobs from a thread that may block. Of a key manager with sessions there are as many at a
    /// time as it was made with: `None` while all are taken.
    pub fn client(&self) -> Option<BlockingClient> {
        let unrequested = self.unrequested.clone();
        match &self.access {
            Access::InProcess(keys) => Some(BlockingClient::in_process(keys.clone(), unrequested)),
            Access::Sessions(Sessions { pool, guests, .. }) => {
                BlockingClient::of_pool(pool.clone(), guests, unrequested)
            }
        }
    }

    /// How many [`KeyManager::client`] gives at a time.
    pub fn clients_max(&self) -> usize {
        match &self.access {
            Access::InProcess(_) => usize::MAX,
            Access::Sessions(sessions) => sessions.guests_max,
        }
    }

    /// Has a new session do the job, which is closed again then. Blocks, and may hang as a module
    /// hangs.
    ///
    /// # Errors
    /// As the module says.
    pub fn execute_in_new_session(&self, job: Job) -> Outcome {
        match &self.access {
            Access::InProcess(keys) => keys.execute(job),
            Access::Sessions(sessions) => sessions.engine.open()?.execute(job),
        }
    }

    /// As [`Engine::set_pin`].
    pub fn set_pin(&self, pin: SecretString) {
        if let Access::Sessions(sessions) = &self.access {
            sessions.engine.set_pin(pin);
        }
    }

    /// Why its PIN is not tried any more. Does not block.
    pub fn refused_pin(&self) -> Option<String> {
        match &self.access {
            Access::InProcess(_) => None,
            Access::Sessions(sessions) => sessions.engine.refused_pin(),
        }
    }

    /// What the module says of itself. Blocks, and may hang as a module hangs.
    ///
    /// # Errors
    /// As the module says.
    pub fn info(&self) -> Result<ManagerInfo, Fault> {
        match &self.access {
            Access::InProcess(keys) => Ok(keys.info()),
            Access::Sessions(sessions) => sessions.engine.info(),
        }
    }

    /// Keys that fail where others work. Does not block.
    pub fn refused_keys(&self) -> Vec<RefusedKey> {
        match &self.access {
            Access::InProcess(_) => Vec::new(),
            Access::Sessions(sessions) => sessions.engine.refused_keys(),
        }
    }

    /// As [`InProcess::keeps_versions`].
    pub fn keeps_versions(&self) -> bool {
        matches!(&self.access, Access::InProcess(keys) if keys.keeps_versions())
    }

    /// As [`InProcess::versions`].
    pub fn versions(&self, label: &str) -> Option<Vec<ManagedVersion>> {
        match &self.access {
            Access::InProcess(keys) => keys.versions(label),
            Access::Sessions(_) => None,
        }
    }

    /// Whether it says of itself that no key may be used.
    pub fn is_closed(&self) -> bool {
        matches!(&self.access, Access::InProcess(keys) if !keys.serves())
    }

    /// Why no key may be used.
    pub(super) fn why_closed(&self) -> Option<String> {
        match &self.access {
            Access::InProcess(keys) => keys.why_closed(),
            Access::Sessions(_) => None,
        }
    }

    /// As [`Engine::describe_keys`]; `None` also where jobs are done at once.
    ///
    /// # Errors
    /// As the module says.
    pub fn describe_keys(&self, keys: &[KeyRef]) -> Result<Option<Vec<Outcome>>, Fault> {
        match &self.access {
            Access::InProcess(_) => Ok(None),
            Access::Sessions(sessions) => sessions.engine.describe_keys(keys),
        }
    }

    /// How its library fares. Does not block.
    pub fn library(&self) -> LibraryState {
        match &self.access {
            Access::InProcess(_) => LibraryState::default(),
            Access::Sessions(sessions) => sessions.engine.library(),
        }
    }

    /// Its sessions and queues at this moment; `None` if it has none.
    pub fn sessions(&self) -> Option<PoolStats> {
        match &self.access {
            Access::InProcess(_) => None,
            Access::Sessions(sessions) => Some(sessions.pool.stats()),
        }
    }

    /// How its sessions stand, without a lock, and how many it keeps; `None` if it has none.
    pub(super) fn snapshot(&self, now: Instant) -> Option<(Snapshot, usize)> {
        match &self.access {
            Access::InProcess(_) => None,
            Access::Sessions(Sessions { pool, .. }) => Some((pool.snapshot(now), pool.lanes())),
        }
    }

    /// Labels under which `other` has another key, or only one of the two has one. Of a key manager
    /// with sessions nothing is known here.
    pub fn differences(&self, other: &dyn InProcess) -> Vec<String> {
        match &self.access {
            Access::InProcess(keys) => {
                for label in keys.labels() {
                    self.unrequested.count(&label.into());
                }
                replica_check::differences(&**keys, other)
            }
            Access::Sessions(_) => Vec::new(),
        }
    }

    /// Encryptions under its keys that no request asked for, by label, since the last call.
    pub fn take_unrequested(&self) -> HashMap<Arc<str>, u64> {
        let mut counts = self.unrequested.take();
        if let Access::Sessions(sessions) = &self.access {
            for (label, count) in sessions.engine.unrequested_encryptions() {
                *counts.entry(label).or_default() += count;
            }
        }
        counts
    }

    /// Replaces sessions that hang. To be called every 50 ms or so.
    pub fn tick(&self, now: Instant) {
        if let Access::Sessions(sessions) = &self.access {
            sessions.pool.tick(now);
        }
    }

    /// Takes on nothing more and closes its sessions by `deadline`. False while a thread is still
    /// inside the module: to be called again.
    pub fn stop(&self, deadline: Instant) -> bool {
        match &self.access {
            Access::InProcess(_) => true,
            Access::Sessions(sessions) => {
                sessions.pool.stop(deadline) && sessions.close_engine(deadline)
            }
        }
    }
}

impl Sessions {
    /// Closes the engine unless that was done; false when it hangs.
    fn close_engine(&self, deadline: Instant) -> bool {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = closed.get_or_insert_with(|| {
            let (done, closed) = bounded(1);
            let engine = self.engine.clone();
            let close = move || {
                engine.close();
                let _ = done.send(());
            };
            // Without a thread the session goes with the process.
            let _ = std::thread::Builder::new().name("xksd-close".into()).spawn(close);
            closed
        });
        closed.recv_deadline(deadline) != Err(RecvTimeoutError::Timeout)
    }
}

fn at_once(keys: &dyn InProcess, job: Job) -> Delivered {
    let start = Instant::now();
    let outcome = keys.execute(job);
    Delivered { outcome, queue_wait: Duration::ZERO, hsm_time: start.elapsed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_listing_is_waited_for_but_not_for_ever() {
        let (listing, start) = (FirstListing::default(), Instant::now());
        assert!(!listing.is_over(start + 2 * FIRST_LISTING_WAIT_MAX), "it does not serve yet");
        listing.begin(start);
        listing.begin(start + Duration::from_secs(1));
        let end = start + FIRST_LISTING_WAIT_MAX;
        assert!(!listing.is_over(end - Duration::from_millis(1)) && listing.is_over(end));
        assert!(!listing.is_over(start));
        listing.end();
        assert!(listing.is_over(start));
    }
}
