//! The shard's side: submit a job, await its ticket. Single-threaded and independent of the
//! executor.
//!
//! Lanes post outcomes to the shard's [`Mailbox`] and wake it once a batch. [`Deliver`], a task of
//! the shard, hands them to the tickets. Each ticket owns a slot; the slot's generation goes with
//! the job and changes when the slot is answered or its ticket dropped, so that a late outcome
//! finds nobody, and a lane can see that nobody waits any more.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::model::Refused;
use super::pool::Pool;
use super::sync::{self, AtomicBool, AtomicU32, AtomicU64, AtomicWaker, Mutex, Ordering};
use crate::key_manager::{Fault, Job, Outcome};
use crate::limits::TICKETS_A_SHARD_MAX;

/// Whose outcome it is: a slot of the shard's inbox at one time of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    index: u32,
    generation: u32,
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
    fn given_up(submitted: Instant, queue_wait: Duration, now: Instant) -> Delivered {
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
const CHUNK: usize = TICKETS_A_SHARD_MAX / CHUNKS;
const _: () = assert!(CHUNKS * CHUNK == TICKETS_A_SHARD_MAX);

/// Where lanes leave outcomes for one shard.
pub struct Mailbox {
    posted: Mutex<Vec<(Token, Delivered)>>,
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

    /// Leaves an outcome without waking the shard: a batch is posted one by one, so that none is
    /// held back by the next one's call, and woken for once. Until then the shard finds it at its
    /// next [`Inbox::expire`].
    pub(super) fn post(&self, token: Token, delivered: Delivered) {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner).push((token, delivered));
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
    pub(super) fn is_cancelled(&self, token: Token) -> bool {
        self.mark(token.index)
            .is_none_or(|mark| mark.generation.load(Ordering::Relaxed) != token.generation)
    }

    /// A lane begins with this job, after this time in the queue. Only for the record of one that
    /// never ends.
    pub(super) fn begin(&self, token: Token, queue_wait: Duration) {
        if let Some(mark) = self.mark(token.index) {
            let wait_us = queue_wait.as_micros().min(u32::MAX.into()) as u64;
            mark.begun.store(wait_us << 32 | u64::from(token.generation), Ordering::Relaxed);
        }
    }

    /// How long this job was in the queue, if a lane has begun with it.
    fn begun(&self, index: u32, generation: u32) -> Option<Duration> {
        let begun = self.mark(index)?.begun.load(Ordering::Relaxed);
        (begun as u32 == generation).then(|| Duration::from_micros(begun >> 32))
    }

    fn mark(&self, index: u32) -> Option<&Mark> {
        self.marks.get(index as usize / CHUNK)?.get()?.get(index as usize % CHUNK)
    }
}

enum SlotState {
    Free,
    Waiting(Option<Waker>),
    Ready(Delivered),
}

struct Slot {
    generation: u32,
    state: SlotState,
    submitted: Instant,
    deadline: Instant,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// In state `Waiting`.
    waiting: usize,
}

impl Slots {
    /// Puts an answer into a waiting slot, after which outcomes for it find nobody. The caller
    /// wakes.
    fn answer(&mut self, mailbox: &Mailbox, index: u32, delivered: Delivered) -> Option<Waker> {
        let slot = &mut self.slots[index as usize];
        let SlotState::Waiting(waker) = &mut slot.state else { return None };
        let waker = waker.take();
        slot.state = SlotState::Ready(delivered);
        self.end_generation(mailbox, index);
        waker
    }

    fn end_generation(&mut self, mailbox: &Mailbox, index: u32) {
        self.waiting -= 1;
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        if let Some(mark) = mailbox.mark(index) {
            mark.generation.store(slot.generation, Ordering::Relaxed);
        }
    }
}

/// What one shard waits for, over all key managers. Not `Send`: it lives and dies on its shard.
pub struct Inbox {
    shard: usize,
    mailbox: Arc<Mailbox>,
    slots: RefCell<Slots>,
    /// Swapped with the mailbox's, so that neither side allocates in the steady state.
    spare: RefCell<Vec<(Token, Delivered)>>,
    /// No waiting ticket's deadline is earlier; may be earlier than all of them.
    earliest: Cell<Option<Instant>>,
}

impl Inbox {
    /// For the shard of this index, with the mailbox that the pools were given for it.
    pub fn new(shard: usize, mailbox: Arc<Mailbox>) -> Rc<Inbox> {
        Rc::new(Inbox {
            shard,
            mailbox,
            slots: RefCell::default(),
            spare: RefCell::default(),
            earliest: Cell::new(None),
        })
    }

    /// Hands a job to a key manager, or is told at once that it will not be done, and gets the job
    /// back for another one.
    pub fn submit(self: &Rc<Self>, pool: &Pool, job: Job) -> Result<Ticket, Box<(Refused, Job)>> {
        let (now, deadline) = (sync::now(), job.deadline);
        let Some(token) = self.reserve(now, deadline) else {
            return Err(Box::new((Refused::QueueFull, job)));
        };
        // Dropped on refusal, which frees the slot.
        let ticket = Ticket { inbox: self.clone(), index: token.index, taken: false };
        pool.submit(self.shard, token, job, now)?;
        if self.earliest.get().is_none_or(|earliest| deadline < earliest) {
            self.earliest.set(Some(deadline));
        }
        Ok(ticket)
    }

    fn reserve(&self, submitted: Instant, deadline: Instant) -> Option<Token> {
        let mut slots = self.slots.borrow_mut();
        let index = match slots.free.pop() {
            Some(index) => index,
            None => {
                let index = slots.slots.len();
                let chunk = self.mailbox.marks.get(index / CHUNK)?;
                // Begun is none of them: a slot's first job has generation 0.
                let mark =
                    |_| Mark { generation: AtomicU32::new(0), begun: AtomicU64::new(u64::MAX) };
                chunk.get_or_init(|| (0..CHUNK).map(mark).collect());
                slots.slots.push(Slot {
                    generation: 0,
                    state: SlotState::Free,
                    submitted,
                    deadline,
                });
                index as u32
            }
        };
        slots.waiting += 1;
        let slot = &mut slots.slots[index as usize];
        (slot.state, slot.submitted, slot.deadline) =
            (SlotState::Waiting(None), submitted, deadline);
        Some(Token { index, generation: slot.generation })
    }

    /// A task for the shard to run for ever: hands outcomes to their tickets. One an inbox.
    pub fn deliver(self: &Rc<Self>) -> Deliver {
        Deliver { inbox: self.clone() }
    }

    /// Answers every ticket whose deadline has passed with [`Fault::Timeout`], also while its HSM
    /// call hangs. To be called every [`DEADLINE_TICK`](crate::limits::DEADLINE_TICK) while
    /// something is pending. What has been posted goes out first: an outcome that is there is not
    /// told as a timeout.
    pub fn expire(&self, now: Instant) {
        self.collect();
        if self.earliest.get().is_none_or(|earliest| earliest > now) {
            return;
        }
        let mut earliest: Option<Instant> = None;
        let count = self.slots.borrow().slots.len();
        for index in 0..count {
            let mut slots = self.slots.borrow_mut();
            let slot = &slots.slots[index];
            if !matches!(slot.state, SlotState::Waiting(_)) {
                continue;
            }
            if slot.deadline > now {
                earliest = Some(earliest.map_or(slot.deadline, |e| e.min(slot.deadline)));
                continue;
            }
            let delivered = match self.mailbox.begun(index as u32, slot.generation) {
                Some(queue_wait) => Delivered::given_up(slot.submitted, queue_wait, now),
                None => Delivered::timeout(slot.submitted, now),
            };
            let waker = slots.answer(&self.mailbox, index as u32, delivered);
            drop(slots);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        self.earliest.set(earliest);
    }

    /// Hands out what has been posted, if a lane says so. To be called often by a busy shard:
    /// [`Inbox::deliver`] runs when the executor next looks at other threads' wake-ups, and that is
    /// late while there are tasks to run.
    pub fn look(&self) {
        if self.mailbox.notified.load(Ordering::Relaxed) {
            self.collect();
        }
    }

    /// Tickets that wait for their outcome.
    pub fn pending(&self) -> usize {
        self.slots.borrow().waiting
    }

    /// Moves posted outcomes to their tickets.
    fn collect(&self) {
        let mut batch = self.spare.take();
        std::mem::swap(
            &mut batch,
            &mut *self.mailbox.posted.lock().unwrap_or_else(PoisonError::into_inner),
        );
        for (token, delivered) in batch.drain(..) {
            // Wakers and late outcomes are other people's code: nothing is borrowed while they run
            // or drop.
            let mut slots = self.slots.borrow_mut();
            let current = slots
                .slots
                .get(token.index as usize)
                .is_some_and(|slot| slot.generation == token.generation);
            if !current {
                continue;
            }
            let waker = slots.answer(&self.mailbox, token.index, delivered);
            drop(slots);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        self.spare.replace(batch);
    }
}

/// Future of [`Inbox::deliver`].
#[must_use = "outcomes are delivered only while it runs"]
pub struct Deliver {
    inbox: Rc<Inbox>,
}

impl Future for Deliver {
    type Output = Infallible;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Infallible> {
        let mailbox = &self.inbox.mailbox;
        mailbox.waker.register(cx.waker());
        // Before looking: what is posted from here on wakes again. What was posted before is seen
        // below. Swapped like on the lanes' side, so that the swaps alone are in an order; a store
        // costs the same instruction.
        mailbox.notified.swap(false, Ordering::SeqCst);
        self.inbox.collect();
        Poll::Pending
    }
}

impl Drop for Deliver {
    fn drop(&mut self) {
        // Lanes outlive shards: none may wake a task of an executor that is gone.
        drop(self.inbox.mailbox.waker.take());
    }
}

/// Awaits one outcome. Dropped: nobody waits any more, the job is not begun if it has not been, and
/// its outcome goes nowhere.
#[must_use = "dropping a ticket cancels its job"]
pub struct Ticket {
    inbox: Rc<Inbox>,
    index: u32,
    taken: bool,
}

impl Future for Ticket {
    type Output = Delivered;

    /// Pending for ever once the outcome has been taken.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Delivered> {
        if self.taken {
            return Poll::Pending;
        }
        let delivered = {
            let mut slots = self.inbox.slots.borrow_mut();
            let slot = &mut slots.slots[self.index as usize];
            match &mut slot.state {
                SlotState::Waiting(Some(waker)) => {
                    waker.clone_from(cx.waker());
                    return Poll::Pending;
                }
                SlotState::Waiting(waker) => {
                    *waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                SlotState::Free => return Poll::Pending,
                SlotState::Ready(_) => {
                    let SlotState::Ready(delivered) =
                        std::mem::replace(&mut slot.state, SlotState::Free)
                    else {
                        return Poll::Pending;
                    };
                    slots.free.push(self.index);
                    delivered
                }
            }
        };
        self.taken = true;
        Poll::Ready(delivered)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut slots = self.inbox.slots.borrow_mut();
        let old = std::mem::replace(&mut slots.slots[self.index as usize].state, SlotState::Free);
        if matches!(old, SlotState::Waiting(_)) {
            slots.end_generation(&self.inbox.mailbox, self.index);
        }
        slots.free.push(self.index);
        drop(slots);
        drop(old);
    }
}
