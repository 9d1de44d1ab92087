//! The way of a record to disk: any thread appends, one writer writes many at once.
//!
//! Nothing is dropped in silence: what finds no place is refused, or counted and recorded as soon
//! as there is place again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use futures_util::task::AtomicWaker;

use super::record::{Record, write_line};
use super::store::Store;
use crate::limits::{
    AUDIT_BUFFER_BYTES_MAX, AUDIT_CHECKPOINT_INTERVAL, AUDIT_RECORD_BYTES_MAX, AUDIT_RETRY_INTERVAL,
};

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
    /// Records cannot be written any more, and why.
    Unwritable(String),
    /// They can again; how many are missing from the trail.
    Writable {
        /// Records that found no place meanwhile.
        missed: u64,
    },
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
            missed_total: AtomicU64::new(0),
            wakers,
        });
        let checkpoint_at = Instant::now();
        let writer = Writer { shared: shared.clone(), store, tell, checkpoint_at, retiring: None };
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

    /// Whether the last write succeeded.
    pub fn is_writable(&self) -> bool {
        self.shared.writable.load(Ordering::Acquire)
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

struct Writer<F> {
    shared: Arc<Shared>,
    store: Store,
    tell: F,
    /// Not before then.
    checkpoint_at: Instant,
    retiring: Option<Retiring>,
}

/// Old records that are about to be deleted.
struct Retiring {
    /// The first one that is to stay.
    before: u64,
    /// Where the record stands that says so.
    told: Index,
    /// How old they are at least.
    age: Duration,
}

impl<F: FnMut(News)> Writer<F> {
    fn run(mut self) {
        let mut lines = Vec::new();
        loop {
            let stopping = self.wait(&mut lines);
            if !self.write(&lines, stopping) {
                return;
            }
            lines.clear();
            if stopping {
                let closed = self.store.close();
                return self.checkpointed(closed, true);
            }
            self.sign();
            self.keep_cosigned();
        }
    }

    /// Until there is something to write or to sign; true when it is the last.
    fn wait(&self, lines: &mut Vec<u8>) -> bool {
        let mut waiting = self.shared.waiting();
        let begun = Instant::now();
        loop {
            // Looked at again after each wait: it may have changed.
            let interval = match self.shared.settings().durability {
                Durability::Answer => None,
                Durability::Interval(interval) => Some(interval),
            };
            let due = std::mem::take(&mut waiting.at_once)
                || interval.is_none_or(|interval| begun.elapsed() >= interval);
            if waiting.stopping || due && !waiting.lines.is_empty() {
                std::mem::swap(lines, &mut waiting.lines);
                return waiting.stopping;
            }
            let owed = self.store.size() > self.store.signed();
            if owed && Instant::now() >= self.checkpoint_at || waiting.cosigned.is_some() {
                return false;
            }
            let patience = interval.unwrap_or(AUDIT_CHECKPOINT_INTERVAL);
            (waiting, _) = self
                .shared
                .arrived
                .wait_timeout(waiting, patience)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes until it succeeds. False when it does not and the process is to end.
    fn write(&mut self, lines: &[u8], stopping: bool) -> bool {
        if lines.is_empty() {
            return true;
        }
        while let Err(error) = self.store.append(lines) {
            if self.shared.writable.swap(false, Ordering::AcqRel) {
                (self.tell)(News::Unwritable(error.to_string()));
                // Those that wait are refused, or go.
                self.shared.wakers.wake();
            }
            if stopping || self.shared.waiting().stopping {
                return false;
            }
            std::thread::sleep(AUDIT_RETRY_INTERVAL);
        }
        self.shared.durable.store(self.store.size(), Ordering::Release);
        self.shared.wakers.wake();
        if !self.shared.writable.swap(true, Ordering::AcqRel) {
            let missed = self.shared.missed_total.load(Ordering::Relaxed);
            (self.tell)(News::Writable { missed });
        }
        true
    }

    fn sign(&mut self) {
        if Instant::now() < self.checkpoint_at {
            return;
        }
        self.checkpoint_at = Instant::now() + AUDIT_CHECKPOINT_INTERVAL;
        let signed = self.store.checkpoint();
        self.checkpointed(signed, false);
        match self.shared.settings().retention {
            Some(age) => self.retire(age),
            None => self.retiring = None,
        }
    }

    fn keep_cosigned(&mut self) {
        let cosigned = self.shared.waiting().cosigned.take();
        if let Some((size, note)) = cosigned
            && let Err(error) = self.store.keep_cosigned(size, &note)
        {
            (self.tell)(News::Unwritable(format!("no cosigned checkpoint: {error}")));
        }
    }

    /// Deletes old records once a signed record says so: without one, whoever reads the trail
    /// cannot know that they were not taken away. Where `age` has changed since, they stay: what is
    /// deleted cannot be brought back.
    fn retire(&mut self, age: Duration) {
        self.retiring.take_if(|retiring| retiring.age != age);
        if let Some(retiring) = &self.retiring {
            if retiring.told.is_below(self.store.signed())
                && let Ok(deleted) = self.store.delete_before(retiring.before)
            {
                self.retiring = None;
                (self.tell)(News::Deleted(deleted));
            }
            return;
        }
        let now = SystemTime::now();
        let Ok(Some(before)) = self.store.retired(age, now) else { return };
        let record = Record::Retired { before, older_than_seconds: age.as_secs() };
        let mut waiting = self.shared.waiting();
        write_line(&record, now, &mut waiting.lines);
        self.retiring = Some(Retiring { before, told: Index(waiting.end), age });
        waiting.end += 1;
    }

    fn checkpointed(&mut self, signed: std::io::Result<Option<String>>, last: bool) {
        match signed {
            Ok(Some(note)) => (self.tell)(News::Checkpoint { note, last }),
            Ok(None) => {}
            // The records are on disk; the next one signs them as well.
            Err(error) => (self.tell)(News::Unwritable(format!("no checkpoint: {error}"))),
        }
    }
}

impl<F> Drop for Writer<F> {
    /// However it ended: nobody waits for a writer that is gone.
    fn drop(&mut self) {
        self.shared.writable.store(false, Ordering::Release);
        self.shared.wakers.wake();
    }
}
