//! The way of a record to disk: any thread appends, one writer writes many at once.
//!
//! Nothing is dropped in silence: what finds no place is refused, or counted and recorded as soon
//! as there is place again.

#[cfg(test)]
mod tests;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::task::AtomicWaker;

use super::record::{Record, write_line};
use super::store::Store;
use crate::limits::{AUDIT_BUFFER_BYTES_MAX, AUDIT_RECORD_BYTES_MAX};
use writer::Writer;

/// When an answer may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Once its record is on disk.
    Answer,
    /// At once; records are written this often.
    Interval(Duration),
}

/// What happens while records cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnwritable {
    /// Requests that use a key are refused.
    Refuse,
    /// They are answered; records wait for as long as there is place, and are counted then.
    Continue,
}

/// How a trail is written. May change while it is.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// When an answer may leave.
    pub durability: Durability,
    /// What happens while records cannot be written.
    pub when_unwritable: WhenUnwritable,
    /// Files of records older than this are deleted; never if it is left out.
    pub retention: Option<Duration>,
}

/// Of the task of each shard that hands out news of what is on disk.
pub struct Wakers(Vec<AtomicWaker>);

impl Wakers {
    /// For so many shards.
    pub fn new(shards: usize) -> Wakers {
        Wakers((0..shards).map(|_| AtomicWaker::new()).collect())
    }

    /// From now on the writer wakes this shard's task when more is on disk.
    pub fn register(&self, shard: usize, waker: &std::task::Waker) {
        if let Some(place) = self.0.get(shard) {
            place.register(waker);
        }
    }

    /// The writer wakes this shard's task no more.
    pub fn forget(&self, shard: usize) {
        drop(self.0.get(shard).and_then(AtomicWaker::take));
    }

    fn wake(&self) {
        self.0.iter().for_each(AtomicWaker::wake);
    }
}

/// What the writer has to say to the operator.
#[derive(Debug)]
pub enum News {
    /// Records cannot be written any more.
    Unwritable {
        /// What the file system says.
        why: String,
        /// Whether requests are refused for it.
        refused: bool,
    },
    /// They can again; how many are missing from the trail.
    Writable {
        /// Records that found no place meanwhile.
        missed: u64,
    },
    /// Records can be written, and checkpoints cannot any more; and why.
    Unsigned(String),
    /// Checkpoints can again.
    Signed,
    /// A new checkpoint: to be kept outside this machine.
    Checkpoint {
        /// The signed note.
        note: String,
        /// The writer ends with it.
        last: bool,
    },
    /// Old files of records were deleted.
    Deleted(usize),
}

/// Where a record is in the trail, once it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Index(u64);

impl Index {
    /// Whether it is among the first `size` records.
    pub fn is_below(self, size: u64) -> bool {
        self.0 < size
    }
}

/// A record found no place and is not in the trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPlace;

/// Handle of the trail; cheap to clone.
#[derive(Clone)]
pub struct Trail {
    shared: Arc<Shared>,
}

struct Shared {
    settings: ArcSwap<Settings>,
    waiting: Mutex<Waiting>,
    /// There is something for the writer.
    arrived: Condvar,
    /// Records on disk.
    durable: AtomicU64,
    writable: AtomicBool,
    /// Why records, and why checkpoints cannot be written.
    unwritable: ArcSwapOption<String>,
    unsigned: ArcSwapOption<String>,
    missed_total: AtomicU64,
    wakers: Arc<Wakers>,
}

#[derive(Default)]
struct Waiting {
    /// Whole lines.
    lines: Vec<u8>,
    /// Index after the last record that was appended.
    end: u64,
    /// Records that found no place since the last one that did.
    missed: u64,
    /// A checkpoint with the lines of witnesses, and its size.
    cosigned: Option<(u64, String)>,
    /// The lines are to be written whatever the interval says.
    at_once: bool,
    stopping: bool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> Settings {
        **self.settings.load()
    }
}

impl Trail {
    /// Starts the writer. `tell` is called on its thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        store: Store,
        settings: Settings,
        wakers: Arc<Wakers>,
        tell: impl FnMut(News) + Send + 'static,
    ) -> std::io::Result<(Trail, JoinHandle<()>)> {
        let size = store.size();
        let shared = Arc::new(Shared {
            settings: ArcSwap::from_pointee(settings),
            waiting: Mutex::new(Waiting { end: size, ..Waiting::default() }),
            arrived: Condvar::new(),
            durable: AtomicU64::new(size),
            writable: AtomicBool::new(true),
            unwritable: ArcSwapOption::empty(),
            unsigned: ArcSwapOption::empty(),
            missed_total: AtomicU64::new(0),
            wakers,
        });
        let writer = Writer::new(shared.clone(), store, tell);
        let thread =
            std::thread::Builder::new().name("xksd-audit".into()).spawn(move || writer.run())?;
        Ok((Trail { shared }, thread))
    }

    /// From now on it is written so. What was appended before is written at once: somebody may wait
    /// for it who would not be thought of after the next long interval.
    pub fn set(&self, settings: Settings) {
        let mut waiting = self.shared.waiting();
        // Under the lock: whoever appends from here on goes by it.
        self.shared.settings.store(Arc::new(settings));
        waiting.at_once = true;
        drop(waiting);
        self.shared.arrived.notify_one();
    }

    /// Whether answers wait for their records.
    pub fn answers_wait(&self) -> bool {
        self.shared.settings().durability == Durability::Answer
    }

    /// Whether a request may use a key just now. False where records cannot be written, and the
    /// configuration says that then nothing is answered.
    pub fn may_serve(&self) -> bool {
        self.is_writable() || self.may_go_unrecorded()
    }

    /// Whether an answer may leave although its record could not be written.
    pub fn may_go_unrecorded(&self) -> bool {
        self.shared.settings().when_unwritable == WhenUnwritable::Continue
    }

    /// Whether the last write of records succeeded.
    pub fn is_writable(&self) -> bool {
        self.shared.writable.load(Ordering::Acquire)
    }

    /// Why records or checkpoints cannot be written; `None` where they can.
    pub fn why_unwritable(&self) -> Option<String> {
        let why = |why: &ArcSwapOption<String>| why.load().as_deref().cloned();
        match why(&self.shared.unwritable) {
            None if !self.is_writable() => Some("its writer has ended".to_owned()),
            None => why(&self.shared.unsigned),
            why => why,
        }
    }

    /// Records on disk.
    pub fn size(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// Records that found no place since the start.
    pub fn missed(&self) -> u64 {
        self.shared.missed_total.load(Ordering::Relaxed)
    }

    /// Appends a record. `scratch` is overwritten: a buffer of the caller's to be used again.
    ///
    /// # Errors
    /// When there is no place: it is counted, and a record will say so.
    pub fn append(&self, record: &Record<'_>, scratch: &mut Vec<u8>) -> Result<Index, NoPlace> {
        scratch.clear();
        let now = SystemTime::now();
        write_line(record, now, scratch);
        let mut waiting = self.shared.waiting();
        if waiting.missed > 0 {
            self.tell_missed(&mut waiting, now);
        }
        let fits = waiting.lines.len() + scratch.len() <= AUDIT_BUFFER_BYTES_MAX;
        if waiting.missed > 0 || !fits || scratch.len() > AUDIT_RECORD_BYTES_MAX {
            waiting.missed += 1;
            self.shared.missed_total.fetch_add(1, Ordering::Relaxed);
            return Err(NoPlace);
        }
        let was_empty = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(scratch);
        let index = Index(waiting.end);
        waiting.end += 1;
        drop(waiting);
        if was_empty && self.answers_wait() {
            self.shared.arrived.notify_one();
        }
        Ok(index)
    }

    /// A record of those that found no place, if there is place by now.
    fn tell_missed(&self, waiting: &mut Waiting, now: SystemTime) {
        // Half of the buffer: not one record in, one out.
        if waiting.lines.len() <= AUDIT_BUFFER_BYTES_MAX / 2 {
            write_line(&Record::Missed { count: waiting.missed }, now, &mut waiting.lines);
            waiting.end += 1;
            waiting.missed = 0;
        }
    }

    /// Whether this record is on disk.
    pub fn is_durable(&self, index: Index) -> bool {
        index.is_below(self.size())
    }

    /// Has the writer keep what witnesses have added to the checkpoint of this size.
    pub fn keep_cosigned(&self, size: u64, note: String) {
        self.shared.waiting().cosigned = Some((size, note));
        self.shared.arrived.notify_one();
    }

    /// Has the writer write what there is, sign, and end.
    pub fn stop(&self) {
        self.shared.waiting().stopping = true;
        self.shared.arrived.notify_one();
    }
}
