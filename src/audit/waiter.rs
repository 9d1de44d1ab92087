//! The shard's side of `durability = "answer"`: an answer waits here until its record is on disk.
//! Single-threaded and independent of the executor.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::recording::Recording;
use super::trail::{Index, Trail};

/// What one shard waits for.
pub struct Waiter {
    recording: Arc<Recording>,
    shard: usize,
    waiting: RefCell<Vec<Waiting>>,
}

struct Waiting {
    index: Index,
    deadline: Instant,
    waker: Waker,
}

impl Waiter {
    /// For the shard with this index.
    pub fn new(recording: Arc<Recording>, shard: usize) -> Rc<Waiter> {
        Rc::new(Waiter { recording, shard, waiting: RefCell::default() })
    }

    /// The trail whose records are waited for, if there is one.
    pub fn trail(&self) -> Option<&Trail> {
        self.recording.trail()
    }

    /// Waits until this record is on disk. False when it is not by the deadline, or cannot be
    /// written.
    pub fn durable(&self, index: Index, deadline: Instant) -> Durable<'_> {
        Durable { waiter: self, index, deadline }
    }

    /// Records that are waited for.
    pub fn pending(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Wakes whom it may concern: whose record is on disk or cannot be written, and whose deadline
    /// is over. To be called every [`DEADLINE_TICK`](crate::limits::DEADLINE_TICK) while something
    /// is pending, and by a busy shard often.
    pub fn look(&self, now: Instant) {
        if self.waiting.borrow().is_empty() {
            return;
        }
        let Some(trail) = self.trail() else { return };
        let (size, writable) = (trail.size(), trail.is_writable());
        let due = |waiting: &mut Waiting| {
            !writable || waiting.deadline <= now || waiting.index.is_below(size)
        };
        // Wakers are other people's code: nothing is borrowed while they run.
        let woken: Vec<Waiting> = self.waiting.borrow_mut().extract_if(.., due).collect();
        woken.into_iter().for_each(|waiting| waiting.waker.wake());
    }

    /// A task for the shard to run for ever: hands on what the writer reports. One a shard.
    pub fn deliver(self: &Rc<Self>) -> Deliver {
        Deliver { waiter: self.clone() }
    }
}

/// Future of [`Waiter::durable`].
#[must_use = "an answer must wait for it"]
pub struct Durable<'a> {
    waiter: &'a Waiter,
    index: Index,
    deadline: Instant,
}

impl Future for Durable<'_> {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let Durable { waiter, index, deadline } = *self;
        let Some(trail) = waiter.trail() else { return Poll::Ready(false) };
        if trail.is_durable(index) {
            return Poll::Ready(true);
        }
        if !trail.is_writable() || Instant::now() >= deadline {
            return Poll::Ready(false);
        }
        let waker = cx.waker().clone();
        waiter.waiting.borrow_mut().push(Waiting { index, deadline, waker });
        Poll::Pending
    }
}

/// Future of [`Waiter::deliver`].
#[must_use = "answers leave only while it runs"]
pub struct Deliver {
    waiter: Rc<Waiter>,
}

impl Future for Deliver {
    type Output = Infallible;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Infallible> {
        // Before looking: what is written from here on wakes again.
        self.waiter.recording.wakers().register(self.waiter.shard, cx.waker());
        self.waiter.look(Instant::now());
        Poll::Pending
    }
}

impl Drop for Deliver {
    fn drop(&mut self) {
        self.waiter.recording.wakers().forget(self.waiter.shard);
    }
}
