//! Time limits and draining of connections.
//!
//! A connection says until when it may stay as it is ([`Watch::limit`]), which costs it a store;
//! the shard's clock sweeps over the connections, a part at a time, each at least every 100 ms, and
//! wakes those that are over. That is one timer a shard instead of one a read, and it is how
//! draining reaches idle connections.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use slab::Slab;

use crate::limits::DISPLACE_LOOKS_MAX;

/// Sweeps that make one round over all connections: with thousands of idle ones a whole round at
/// once would hold up a request.
const SWEEPS_A_ROUND: usize = 5;

/// Why a wait was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The limit passed.
    Time,
    /// The shard drains and the connection was idle.
    Drain,
    /// The shard was full, and a newer connection got the place of this one, which is a stranger's.
    Displaced,
}

#[derive(Default)]
struct Entry {
    /// A signed request or a client certificate has shown that this is no stranger's.
    known: Cell<bool>,
    limit: Cell<Option<Instant>>,
    /// Nothing of a request has been read: may be closed when the shard drains.
    idle: Cell<bool>,
    over: Cell<Option<Over>>,
    waker: RefCell<Option<Waker>>,
}

/// All connections of a shard.
#[derive(Default)]
pub struct Watches {
    entries: RefCell<Slab<Rc<Entry>>>,
    /// Where [`Watches::displace`] looks next.
    hand: Cell<usize>,
    /// Where [`Watches::sweep`] goes on.
    swept: Cell<usize>,
    draining: Cell<bool>,
}

impl Watches {
    /// Connections watched.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }

    /// Watches one more connection.
    pub fn add(self: &Rc<Self>) -> Watch {
        let entry = Rc::new(Entry::default());
        let slot = self.entries.borrow_mut().insert(entry.clone());
        Watch { watches: self.clone(), entry, slot }
    }

    /// Goes on with the round over all connections, and wakes those whose limit has passed.
    pub fn sweep(&self, now: Instant) {
        let entries = self.entries.borrow();
        let slots = entries.capacity();
        let begin = if self.swept.get() < slots { self.swept.get() } else { 0 };
        let end = slots.min(begin + slots.div_ceil(SWEEPS_A_ROUND));
        self.swept.set(end);
        for entry in (begin..end).filter_map(|slot| entries.get(slot)) {
            if entry.limit.get().is_some_and(|limit| limit <= now) {
                entry.end(Over::Time);
            }
        }
    }

    /// Ends the connection of a stranger that is being waited for, so that another may have its
    /// place; false where none is found. Going round, it finds those first that have been there for
    /// longer. As with a limit, one that has just been heard of stays.
    pub fn displace(&self) -> bool {
        let entries = self.entries.borrow();
        for _ in 0..DISPLACE_LOOKS_MAX.min(entries.capacity()) {
            let at = self.hand.get();
            self.hand.set((at + 1) % entries.capacity());
            if let Some(entry) = entries.get(at)
                && !entry.known.get()
                && entry.limit.get().is_some()
                && entry.over.get().is_none()
            {
                entry.end(Over::Displaced);
                return true;
            }
        }
        false
    }

    /// From now on idle connections end, and none becomes idle again.
    pub fn drain(&self) {
        self.draining.set(true);
        for (_, entry) in self.entries.borrow().iter() {
            if entry.idle.get() {
                entry.end(Over::Drain);
            }
        }
    }

    /// Whether [`Watches::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }
}

impl Entry {
    fn end(&self, why: Over) {
        if self.over.get().is_none() {
            self.over.set(Some(why));
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

/// One connection's watch; ends with it.
pub struct Watch {
    watches: Rc<Watches>,
    entry: Rc<Entry>,
    slot: usize,
}

impl Watch {
    /// What is waited for through [`Watch::wait`] from now on must be done by `limit`.
    pub fn limit(&self, limit: Instant) {
        self.entry.idle.set(false);
        self.entry.limit.set(Some(limit));
        self.entry.over.set(None);
    }

    /// As [`Watch::limit`], and draining ends it at once.
    pub fn idle(&self, limit: Instant) {
        self.limit(limit);
        self.entry.idle.set(true);
        if self.watches.is_draining() {
            self.entry.over.set(Some(Over::Drain));
        }
    }

    /// Takes the limit off, for as long as a request is worked on: its budget is kept elsewhere.
    pub fn busy(&self) {
        self.entry.idle.set(false);
        self.entry.limit.set(None);
        self.entry.over.set(None);
    }

    /// To be called once it has been shown whose connection this is.
    pub fn known(&self) {
        self.entry.known.set(true);
    }

    /// Whether [`Watch::known`] was called.
    pub fn is_known(&self) -> bool {
        self.entry.known.get()
    }

    /// Whether the shard drains.
    pub fn is_draining(&self) -> bool {
        self.watches.is_draining()
    }

    /// Waits for `future`, but not beyond the limit.
    ///
    /// # Errors
    /// Why the wait ended first. The future is dropped: glommio's sockets are readiness-based, so a
    /// dropped read loses nothing.
    pub async fn wait<F: Future>(&self, future: F) -> Result<F::Output, Over> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if let Some(over) = self.entry.over.get() {
                return Poll::Ready(Err(over));
            }
            let mut waker = self.entry.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watches.entries.borrow_mut().remove(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::task::Context;
    use std::time::Duration;

    fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn round(watches: &Watches, now: Instant) {
        (0..SWEEPS_A_ROUND).for_each(|_| watches.sweep(now));
    }

    #[test]
    fn a_wait_ends_at_its_limit_and_not_before() {
        let watches = Rc::new(Watches::default());
        let watch = watches.add();
        let start = Instant::now();
        watch.limit(start + Duration::from_secs(5));
        round(&watches, start + Duration::from_millis(4999));
        assert_eq!(poll_once(watch.wait(pending::<()>())), Poll::Pending);
        round(&watches, start + Duration::from_secs(5));
        assert_eq!(poll_once(watch.wait(pending::<()>())), Poll::Ready(Err(Over::Time)));
    }

    #[test]
    fn a_round_reaches_each_and_no_sweep_all() {
        let watches = Rc::new(Watches::default());
        let now = Instant::now();
        let all: Vec<Watch> = (0..1000).map(|_| watches.add()).collect();
        all.iter().for_each(|watch| watch.limit(now));
        let over = || all.iter().filter(|watch| watch.entry.over.get().is_some()).count();
        watches.sweep(now);
        assert!((1..=1000 / 4).contains(&over()), "{}", over());
        round(&watches, now);
        assert_eq!(over(), 1000);
    }

    #[test]
    fn what_is_ready_wins_over_a_limit_that_passed() {
        let watches = Rc::new(Watches::default());
        let watch = watches.add();
        let now = Instant::now();
        watch.limit(now);
        round(&watches, now);
        assert_eq!(poll_once(watch.wait(std::future::ready(7))), Poll::Ready(Ok(7)));
    }

    #[test]
    fn a_newcomer_has_the_place_of_a_stranger_and_of_nobody_else() {
        let watches = Rc::new(Watches::default());
        assert!(!watches.displace(), "nobody is there");
        let (known, busy, first, second) =
            (watches.add(), watches.add(), watches.add(), watches.add());
        let limit = Instant::now() + Duration::from_secs(100);
        [&known, &first, &second].iter().for_each(|watch| watch.idle(limit));
        known.known();
        // A request of it is being worked on: it is about to be known.
        busy.busy();
        for stranger in [&first, &second] {
            assert!(watches.displace());
            assert_eq!(
                poll_once(stranger.wait(pending::<()>())),
                Poll::Ready(Err(Over::Displaced))
            );
        }
        assert!(!watches.displace(), "each only once");
        assert_eq!(
            (poll_once(known.wait(pending::<()>())), poll_once(busy.wait(pending::<()>()))),
            (Poll::Pending, Poll::Pending)
        );
        // What comes in the same moment wins.
        busy.idle(limit);
        assert!(watches.displace());
        assert_eq!(poll_once(busy.wait(std::future::ready(7))), Poll::Ready(Ok(7)));
        busy.idle(limit);
        assert_eq!(poll_once(busy.wait(pending::<()>())), Poll::Pending);
    }

    #[test]
    fn looking_for_a_stranger_is_bounded() {
        let watches = Rc::new(Watches::default());
        let limit = Instant::now() + Duration::from_secs(100);
        let all: Vec<Watch> = (0..=DISPLACE_LOOKS_MAX).map(|_| watches.add()).collect();
        all.iter().for_each(|watch| watch.idle(limit));
        let (last, others) = all.split_last().unwrap();
        others.iter().for_each(Watch::known);
        assert!(!watches.displace());
        // It goes on where it was.
        assert!(watches.displace());
        assert_eq!(poll_once(last.wait(pending::<()>())), Poll::Ready(Err(Over::Displaced)));
    }

    #[test]
    fn draining_ends_the_idle_and_spares_the_busy() {
        let watches = Rc::new(Watches::default());
        let (idle, busy) = (watches.add(), watches.add());
        let limit = Instant::now() + Duration::from_secs(100);
        idle.idle(limit);
        busy.limit(limit);
        watches.drain();
        assert_eq!(poll_once(idle.wait(pending::<()>())), Poll::Ready(Err(Over::Drain)));
        assert_eq!(poll_once(busy.wait(pending::<()>())), Poll::Pending);
        busy.idle(limit);
        assert_eq!(poll_once(busy.wait(pending::<()>())), Poll::Ready(Err(Over::Drain)));
        drop((idle, busy));
        assert!(watches.is_empty());
    }
}
