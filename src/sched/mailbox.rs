//! Where lanes leave outcomes for one shard: both ends of the hand-over back. A lane posts and
//! wakes once a batch; the shard's inbox takes.

use std::sync::{Arc, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::sync::{AtomicBool, AtomicU32, AtomicU64, AtomicWaker, Mutex, Ordering};
use crate::key_manager::{Fault, Outcome};
use crate::limits::PENDING_JOBS_A_SHARD_MAX;

/// Whose outcome it is: a slot of the shard's inbox at one time of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// How a job ended and where its time went.
#[derive(Debug)]
pub struct Delivered {
    /// What the key manager answered, or [`Fault::Timeout`] when it did not by the deadline.
    pub outcome: Outcome,
    /// From submission until a lane began with it (or until it was given up).
    pub queue_wait: Duration,
    /// In the session; of one that was given up there, until then.
    pub hsm_time: Duration,
}

impl Delivered {
    pub(super) fn timeout(submitted: Instant, now: Instant) -> Delivered {
        let queue_wait = now.saturating_duration_since(submitted);
        Delivered { outcome: Err(Fault::Timeout), queue_wait, hsm_time: Duration::ZERO }
    }

    /// Of a job that a lane began with after `queue_wait` and has not come back from.
    pub(super) fn given_up(submitted: Instant, queue_wait: Duration, now: Instant) -> Delivered {
        let hsm_time = now.saturating_duration_since(submitted).saturating_sub(queue_wait);
        Delivered { outcome: Err(Fault::Timeout), queue_wait, hsm_time }
    }

    /// Of a job that was not begun: before its deadline because others left no time for it.
    pub(super) fn not_begun(submitted: Instant, deadline: Instant, now: Instant) -> Delivered {
        let timeout = Delivered::timeout(submitted, now);
        if now < deadline { Delivered { outcome: Err(Fault::Busy), ..timeout } } else { timeout }
    }
}

/// What lanes see of a slot.
struct Mark {
    generation: AtomicU32,
    /// The job that was begun last: its wait in the queue in µs (upper half) and its generation.
    begun: AtomicU64,
}

/// Slots whose marks are allocated together; they never move, so that lanes read them without a
/// lock.
const CHUNKS: usize = 64;
const CHUNK: usize = PENDING_JOBS_A_SHARD_MAX / CHUNKS;
const _: () = assert!(CHUNKS * CHUNK == PENDING_JOBS_A_SHARD_MAX);

/// Where lanes leave outcomes for one shard, on cache lines without another shard's.
#[repr(align(128))]
pub struct Mailbox {
    posted: Mutex<Vec<(JobId, Delivered)>>,
    /// A wake is under way that will see what has been posted.
    notified: AtomicBool,
    waker: AtomicWaker,
    marks: [OnceLock<Box<[Mark]>>; CHUNKS],
}

impl Default for Mailbox {
    fn default() -> Self {
        let posted = Mutex::new(Vec::new());
        Mailbox {
            posted,
            notified: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            marks: [const { OnceLock::new() }; CHUNKS],
        }
    }
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mailbox")
    }
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> Arc<Mailbox> {
        Arc::default()
    }
}

/// The lanes' end.
impl Mailbox {
    /// Leaves an outcome without waking the shard: a batch is posted one by one, so that none is
    /// held back by the next one's call, and woken for once. Until then the shard finds it at its
    /// next `Inbox::expire`.
    pub(super) fn post(&self, id: JobId, delivered: Delivered) {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner).push((id, delivered));
    }

    /// Wakes the shard for what has been posted.
    pub(super) fn wake(&self) {
        // A wake from a foreign thread costs the executor an eventfd write: only the first until
        // the shard has looked.
        if !self.notified.swap(true, Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// Nobody waits for this job any more. Only a hint: the inbox itself drops what comes too late.
    pub(super) fn is_cancelled(&self, id: JobId) -> bool {
        self.mark(id.index)
            .is_none_or(|mark| mark.generation.load(Ordering::Relaxed) != id.generation)
    }

    /// A lane begins with this job, after this time in the queue. Only for the record of one that
    /// never ends.
    pub(super) fn begin(&self, id: JobId, queue_wait: Duration) {
        if let Some(mark) = self.mark(id.index) {
            let wait_us = queue_wait.as_micros().min(u32::MAX.into()) as u64;
            mark.begun.store(wait_us << 32 | u64::from(id.generation), Ordering::Relaxed);
        }
    }
}

/// The shard's end.
impl Mailbox {
    /// What has been posted, swapped with `spare`, so that neither side allocates in the steady
    /// state.
    pub(super) fn take(&self, spare: &mut Vec<(JobId, Delivered)>) {
        let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(spare, &mut *posted);
    }

    /// Whether a lane says that it has posted. A hint, without a lock.
    pub(super) fn is_notified(&self) -> bool {
        self.notified.load(Ordering::Relaxed)
    }

    /// From now on a lane that posts wakes `waker`; to be followed by [`Mailbox::take`], which sees
    /// what was posted before.
    pub(super) fn listen(&self, waker: &Waker) {
        self.waker.register(waker);
        // Swapped like on the lanes' side, so that the swaps are in one order; a store costs the
        // same instruction.
        self.notified.swap(false, Ordering::SeqCst);
    }

    /// Lanes wake nobody any more: they outlive shards, and must not wake a task of an executor
    /// that is gone.
    pub(super) fn stop_listening(&self) {
        drop(self.waker.take());
    }

    /// Makes room for the mark of a new slot, in generation 0 unless an inbox before had it. False
    /// at the bound.
    pub(super) fn add_mark(&self, index: usize) -> bool {
        let Some(chunk) = self.marks.get(index / CHUNK) else { return false };
        // `u64::MAX`: no job has begun, since a slot's first job has generation 0.
        let mark = |_| Mark { generation: AtomicU32::new(0), begun: AtomicU64::new(u64::MAX) };
        chunk.get_or_init(|| (0..CHUNK).map(mark).collect());
        true
    }

    /// What the slot's next job has, by the marks that an inbox before this one left.
    pub(super) fn generation(&self, index: usize) -> u32 {
        self.mark(index as u32).map_or(0, |mark| mark.generation.load(Ordering::Relaxed))
    }

    /// The slot's next job has this generation: the one before counts as cancelled.
    pub(super) fn set_generation(&self, index: u32, generation: u32) {
        if let Some(mark) = self.mark(index) {
            mark.generation.store(generation, Ordering::Relaxed);
        }
    }

    /// How long this job was in the queue, if a lane has begun with it.
    pub(super) fn begun(&self, index: u32, generation: u32) -> Option<Duration> {
        let begun = self.mark(index)?.begun.load(Ordering::Relaxed);
        (begun as u32 == generation).then(|| Duration::from_micros(begun >> 32))
    }

    fn mark(&self, index: u32) -> Option<&Mark> {
        self.marks.get(index as usize / CHUNK)?.get()?.get(index as usize % CHUNK)
    }
}
