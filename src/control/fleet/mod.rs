//! The fleet as this instance takes part in it. What is shared stands in etcd, sealed; etcd is
//! asked by one thread (`control::sharing`) and by commands, and never on a request's way.
//!
//! Below the prefix: `documents/…` (block list and files), `instances/NAME` (what each says of
//! itself, under a lease) and `members/NAME` (who belongs to the fleet, until it leaves by itself).

pub mod documents;
pub mod etcd;
mod members;
pub mod peers;
mod reach;
pub mod view;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

pub use members::{Connection, Members};
pub use reach::Reach;

use self::documents::{Documents, nonce};
use self::etcd::{Entry, Etcd};
use self::peers::Peers;
use super::blocks::Blocks;
use super::http_client::Bounds;
use super::state_dir::StateDir;
use crate::config::{self, Shared};
use crate::fleet::document::{is_document, is_name, next_sequence};
use crate::fleet::{Content, Document, FleetKey, Summary, Verdict};
use crate::limits::{
    FLEET_ANSWER_BYTES_MAX, FLEET_CALL_TIME_MAX, FLEET_CHANGE_TRIES, FLEET_CONNECT_TIME_MAX,
    FLEET_DOCUMENTS_A_PAGE, FLEET_DOCUMENTS_MAX, FLEET_INSTANCES_A_PAGE, FLEET_INSTANCES_MAX,
    FLEET_SUMMARY_BYTES_MAX,
};
use crate::telemetry::{Level, Log, host};

/// What a call to etcd or a peer may take.
const BOUNDS: Bounds = Bounds {
    connect: FLEET_CONNECT_TIME_MAX,
    call: FLEET_CALL_TIME_MAX,
    answer_bytes: FLEET_ANSWER_BYTES_MAX,
};

/// Whether it has left is looked at this often.
const LEAVE_TICK: Duration = Duration::from_millis(10);
const DOCUMENTS: &str = "documents/";
const INSTANCES: &str = "instances/";
const MEMBERS: &str = "members/";
const NOT_OF_FLEET: &str = "it was not sealed by an instance of this fleet: has it another \
                            fleet.secret than this one?";

/// A fleet, seen from one instance.
pub struct Fleet {
    /// Of this instance.
    pub name: String,
    /// Of this process.
    pub run: String,
    /// How it knows of the others.
    pub way: Way,
    reach: Arc<ArcSwap<Reach>>,
    /// What takes part in it, once that has started.
    pub thread: OnceLock<JoinHandle<()>>,
}

/// How an instance knows of the others.
pub enum Way {
    /// It asks them.
    Peers(Peers),
    /// All use the same etcd.
    Etcd(Box<Joined>),
}

/// A fleet that shares an etcd.
pub struct Joined {
    /// Asked by the thread.
    pub etcd: Etcd,
    /// Asked by commands: they must not wait for the thread's tries.
    commands: Etcd,
    prefix: String,
    /// What all instances have in force.
    pub documents: Documents,
    /// Who they are.
    pub members: Members,
    /// Held by who takes over files that have changed.
    pub taking_over: Mutex<()>,
    /// Documents that etcd has lost, or has in an older form.
    to_restore: Mutex<BTreeSet<String>>,
    log: Log,
}

impl Fleet {
    /// As configured, with what was kept in force; nobody is asked yet.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open(
        configured: &config::Fleet,
        dir: &StateDir,
        blocks: &Arc<Blocks>,
        log: &Log,
    ) -> Result<Fleet, String> {
        let name = match &configured.name {
            Some(name) => name.clone(),
            None => name_of_host()?,
        };
        let run = crate::hex::hex(&nonce()?);
        let reach = Arc::new(ArcSwap::from_pointee(Reach::of(configured)?));
        let way = match &configured.shared {
            Shared::Peers(_) => Way::Peers(Peers::new(reach.clone())),
            Shared::Etcd(etcd) => {
                let secret = etcd.secret.base64();
                let key = secret.and_then(|secret| FleetKey::new(&secret, &etcd.prefix));
                let key = key.ok_or("fleet.secret is not the base64 of 32 bytes")?;
                Way::Etcd(Box::new(Joined {
                    etcd: Etcd::new(reach.clone()),
                    commands: Etcd::new(reach.clone()),
                    prefix: format!("{}/", etcd.prefix),
                    documents: Documents::load(key, dir, blocks.clone())?,
                    members: Members::default(),
                    taking_over: Mutex::default(),
                    to_restore: Mutex::default(),
                    log: log.clone(),
                }))
            }
        };
        Ok(Fleet { name, run, way, reach, thread: OnceLock::new() })
    }

    /// From now on the others are reached so.
    pub fn set_reach(&self, reach: Reach) {
        self.reach.store(Arc::new(reach));
    }

    /// Waits until this instance has left, when it stops; no longer than `patience`.
    pub fn wait_until_left(&self, patience: Duration) {
        let end = Instant::now() + patience;
        while self.thread.get().is_some_and(|thread| !thread.is_finished()) && Instant::now() < end
        {
            std::thread::sleep(LEAVE_TICK);
        }
    }

    /// The fleet that shares an etcd.
    pub fn joined(&self) -> Option<&Joined> {
        match &self.way {
            Way::Etcd(joined) => Some(joined),
            Way::Peers(_) => None,
        }
    }
}

fn name_of_host() -> Result<String, String> {
    let name = host::name();
    if is_name(&name) {
        return Ok(name);
    }
    Err(format!("fleet.name is missing, and the host's name {name:?} cannot take its place"))
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Joined {
    /// Reads all that etcd has. Gives the revision from which changes must be watched.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn sync(&self) -> Result<u64, String> {
        let (mut names, mut keys) = (BTreeSet::new(), BTreeSet::new());
        let documents = FLEET_DOCUMENTS_MAX / FLEET_DOCUMENTS_A_PAGE;
        let revision = self.pages(DOCUMENTS, FLEET_DOCUMENTS_A_PAGE, documents, |entry| {
            names.extend(self.name_in(&entry.key, DOCUMENTS).map(ToOwned::to_owned));
            self.changed(&entry, false);
            keys.insert(entry.key);
        })?;
        for lost in self.documents.names().into_iter().filter(|name| !names.contains(name)) {
            self.restore_later(&lost);
        }
        let (mut registered, mut members) = (Vec::new(), Vec::new());
        let most = FLEET_INSTANCES_MAX / FLEET_INSTANCES_A_PAGE + 1;
        for (kind, found) in [(INSTANCES, &mut registered), (MEMBERS, &mut members)] {
            self.pages(kind, FLEET_INSTANCES_A_PAGE, most, |entry| {
                found.extend(self.name_in(&entry.key, kind).map(ToOwned::to_owned));
                self.changed(&entry, false);
                keys.insert(entry.key);
            })?;
        }
        self.members.keep(&registered, &members, &keys);
        Ok(revision)
    }

    /// All entries of a kind, by pages. Gives the revision of the first.
    fn pages(
        &self,
        kind: &str,
        limit: usize,
        pages_max: usize,
        mut each: impl FnMut(Entry),
    ) -> Result<u64, String> {
        let prefix = self.key(kind);
        let (mut first, mut revision) = (prefix.clone(), None);
        for _ in 0..=pages_max {
            let page = self.etcd.range(&prefix, &first, limit)?;
            revision.get_or_insert(page.revision);
            if let Some(last) = page.entries.last() {
                first = format!("{}\0", last.key);
            }
            page.entries.into_iter().for_each(&mut each);
            if !page.more {
                break;
            }
        }
        Ok(revision.unwrap_or(0))
    }

    /// What stands below the prefix has changed, or was read.
    pub fn changed(&self, entry: &Entry, just_now: bool) {
        let result = if let Some(name) = self.name_in(&entry.key, DOCUMENTS) {
            self.document(name, entry.value.as_deref())
        } else if let Some(name) = self.name_in(&entry.key, INSTANCES) {
            self.instance(name, entry.value.as_deref(), just_now)
        } else if let Some(name) = self.name_in(&entry.key, MEMBERS) {
            self.member(name, entry.value.as_deref())
        } else {
            Ok(())
        };
        match result {
            Ok(()) => self.members.accepted(&entry.key),
            Err(why) => {
                if self.members.refused(&entry.key, &why) {
                    let message = format!("fleet: {} in etcd is refused: {why}", entry.key);
                    self.log.event(Level::Error, message);
                }
            }
        }
    }

    fn document(&self, name: &str, sealed: Option<&[u8]>) -> Result<(), String> {
        let held = self.documents.get(name).is_some();
        let Some(sealed) = sealed else {
            if held {
                self.restore_later(name);
            }
            return Ok(());
        };
        match self.documents.take(name, sealed) {
            Ok(Verdict::Newer) => {
                self.log.event(Level::Warn, format!("fleet: {name:?} is taken over from etcd"));
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(why) => {
                if held {
                    self.restore_later(name);
                }
                Err(why)
            }
        }
    }

    fn instance(&self, name: &str, sealed: Option<&[u8]>, just_now: bool) -> Result<(), String> {
        let Some(sealed) = sealed else {
            self.members.gone(name);
            return Ok(());
        };
        let summary = Some(sealed).filter(|sealed| sealed.len() <= FLEET_SUMMARY_BYTES_MAX);
        let summary = summary.and_then(|sealed| Summary::open(self.documents.key(), name, sealed));
        let summary = summary.ok_or(NOT_OF_FLEET)?;
        self.members.heard(summary, just_now.then(unix_ms));
        Ok(())
    }

    fn member(&self, name: &str, sealed: Option<&[u8]>) -> Result<(), String> {
        let place = format!("{MEMBERS}{name}");
        let is_right = |sealed: &[u8]| self.documents.key().open(&place, sealed).is_some();
        if sealed.is_some_and(|sealed| !is_right(sealed)) {
            return Err(NOT_OF_FLEET.to_owned());
        }
        self.members.set_member(name, sealed.is_some());
        Ok(())
    }

    /// Puts back what etcd has lost, or has in an older form: it went back, or somebody had it go.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn restore(&self) -> Result<(), String> {
        let names = std::mem::take(&mut *self.restores());
        for name in names {
            let key = self.key(&format!("{DOCUMENTS}{name}"));
            let found = self.etcd.get(&key)?;
            let Some(held) = self.documents.get(&name) else { continue };
            let is_newer = |sealed: &Vec<u8>| self.documents.take(&name, sealed).is_ok();
            if found.value.as_ref().is_some_and(is_newer) {
                continue;
            }
            if self.etcd.swap(&key, found.revision, &held.sealed)? {
                let message = format!("fleet: etcd had lost {name:?} or an older one: put back");
                self.log.event(Level::Error, message);
                self.members.accepted(&key);
            }
        }
        Ok(())
    }

    fn restore_later(&self, name: &str) {
        self.restores().insert(name.to_owned());
    }

    fn restores(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.to_restore.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers this instance, for as long as the lease holds.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn register(&self, summary: &Summary, lease: u64) -> Result<(), String> {
        let sealed = summary.seal(self.documents.key(), nonce()?);
        self.etcd.put(&self.key(&format!("{INSTANCES}{}", summary.name)), &sealed, lease)
    }

    /// From now on the instance of this name belongs to the fleet.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn join(&self, name: &str) -> Result<(), String> {
        let place = format!("{MEMBERS}{name}");
        let sealed = self.documents.key().seal(&place, unix_ms(), nonce()?, b"");
        self.etcd.put(&self.key(&place), &sealed, 0)
    }

    /// The instance of this name has left, or will not come back.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn leave(&self, name: &str) -> Result<(), String> {
        self.commands.delete(&self.key(&format!("{MEMBERS}{name}")))?;
        self.members.set_member(name, false);
        Ok(())
    }

    /// Changes a document for all: `change` is given what it says now, and gives what it is to say.
    /// In force here when this returns.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn change(
        &self,
        name: &str,
        change: impl Fn(&Content) -> Result<Content, String>,
    ) -> Result<Document, String> {
        if !is_document(name) {
            return Err(format!("{name:?} cannot be the name of a document"));
        }
        let key = self.key(&format!("{DOCUMENTS}{name}"));
        for _ in 0..FLEET_CHANGE_TRIES {
            let found = self.commands.get(&key)?;
            if let Some(sealed) = &found.value {
                // What is refused is overwritten.
                let _ = self.documents.take(name, sealed);
            }
            let held = self.documents.get(name);
            let before = held.as_ref().map_or(0, |held| held.sequence);
            let content = change(held.as_ref().map_or(&Content::Removed, |held| &held.content))?;
            let sequence = next_sequence(before, unix_ms());
            let document = self.documents.seal(name, sequence, content)?;
            if self.commands.swap(&key, found.revision, &document.sealed)? {
                self.documents.take(name, &document.sealed)?;
                return Ok(document);
            }
        }
        Err("others change it at the same time: try again".to_owned())
    }

    /// The prefix that is watched.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn key(&self, place: &str) -> String {
        format!("{}{place}", self.prefix)
    }

    fn name_in<'k>(&self, key: &'k str, kind: &str) -> Option<&'k str> {
        let name = key.strip_prefix(&self.prefix)?.strip_prefix(kind)?;
        let is_right = if kind == DOCUMENTS { is_document(name) } else { is_name(name) };
        is_right.then_some(name)
    }
}
