//! The shard's side: submit a job, await its outcome. Single-threaded and independent of the
//! executor.
//!
//! Lanes post outcomes to the shard's [`Mailbox`] and wake it once a batch. [`Deliver`], a task of
//! the shard, hands them to the jobs that wait. Each pending job owns a slot; the slot's generation
//! goes with the job and changes when the slot is answered or its pending job dropped, so that a
//! late outcome finds nobody, and a lane can see that nobody waits any more.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::mailbox::{Delivered, JobId, Mailbox};
use super::model::{Refused, Share};
use super::pool::Pool;
use super::sync;
use crate::key_manager::Job;

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
        mailbox.set_generation(index, slot.generation);
    }
}

/// What one shard waits for, over all key managers. Not `Send`: it lives and dies on its shard.
pub struct Inbox {
    shard: usize,
    mailbox: Arc<Mailbox>,
    slots: RefCell<Slots>,
    /// Swapped with the mailbox's, so that neither side allocates in the steady state.
    spare: RefCell<Vec<(JobId, Delivered)>>,
    /// No pending job's deadline is earlier; may be earlier than all of them.
    earliest: Cell<Option<Instant>>,
}

impl Inbox {
    /// For the shard of this index, with the mailbox that the pools were given for it. One inbox at
    /// a time.
    pub fn new(shard: usize, mailbox: Arc<Mailbox>) -> Rc<Inbox> {
        Rc::new(Inbox {
            shard,
            mailbox,
            slots: RefCell::default(),
            spare: RefCell::default(),
            earliest: Cell::new(None),
        })
    }

    /// Hands a job to a key manager, or refuses at once and gives the job
    /// back for another one.
    pub fn submit(
        self: &Rc<Self>,
        pool: &Pool,
        share: Share,
        job: Job,
    ) -> Result<PendingJob, Box<(Refused, Job)>> {
        let (now, deadline) = (sync::now(), job.deadline);
        let Some(id) = self.reserve(now, deadline) else {
            return Err(Box::new((Refused::QueueFull, job)));
        };
        // Dropped on refusal, which frees the slot.
        let pending = PendingJob { inbox: self.clone(), index: id.index, taken: false };
        pool.submit(self.shard, id, share, job, now)?;
        if self.earliest.get().is_none_or(|earliest| deadline < earliest) {
            self.earliest.set(Some(deadline));
        }
        Ok(pending)
    }

    fn reserve(&self, submitted: Instant, deadline: Instant) -> Option<JobId> {
        let mut slots = self.slots.borrow_mut();
        let index = match slots.free.pop() {
            Some(index) => index,
            None => {
                let index = slots.slots.len();
                if !self.mailbox.add_mark(index) {
                    return None;
                }
                slots.slots.push(Slot {
                    // Not those of an inbox before it, whose jobs may still come back.
                    generation: self.mailbox.generation(index),
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
        Some(JobId { index, generation: slot.generation })
    }

    /// A task for the shard to run for ever: hands outcomes to the jobs that wait. One an inbox.
    pub fn deliver(self: &Rc<Self>) -> Deliver {
        Deliver { inbox: self.clone() }
    }

    /// Answers every pending job whose deadline has passed with `Fault::Timeout`, also while its
    /// HSM call hangs. To be called every [`DEADLINE_TICK`](crate::limits::DEADLINE_TICK) while
    /// something is pending. What has been posted goes out first: an outcome that is there is not
    /// reported as a timeout.
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
        if self.mailbox.is_notified() {
            self.collect();
        }
    }

    /// Tickets that wait for their outcome.
    pub fn pending(&self) -> usize {
        self.slots.borrow().waiting
    }

    /// Moves posted outcomes to the jobs that wait.
    fn collect(&self) {
        let mut batch = self.spare.take();
        self.mailbox.take(&mut batch);
        for (id, delivered) in batch.drain(..) {
            // Wakers and late outcomes are other people's code: nothing is borrowed while they run
            // or drop.
            let mut slots = self.slots.borrow_mut();
            let current = slots
                .slots
                .get(id.index as usize)
                .is_some_and(|slot| slot.generation == id.generation);
            if !current {
                continue;
            }
            let waker = slots.answer(&self.mailbox, id.index, delivered);
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
        // Before looking: what is posted from here on wakes again, what was posted before is seen.
        self.inbox.mailbox.listen(cx.waker());
        self.inbox.collect();
        Poll::Pending
    }
}

impl Drop for Deliver {
    fn drop(&mut self) {
        self.inbox.mailbox.stop_listening();
    }
}

/// Awaits one outcome. Dropped: nobody waits any more, the job is not begun if it has not been, and
/// its outcome goes nowhere.
#[must_use = "dropping a pending job cancels its job"]
pub struct PendingJob {
    inbox: Rc<Inbox>,
    index: u32,
    taken: bool,
}

impl Future for PendingJob {
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

impl Drop for PendingJob {
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
