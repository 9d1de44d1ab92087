//! Time limits and draining of connections.
//!
//! A connection says until when it may stay as it is ([`ConnectionEntry::set_deadline`]), which
//! costs it a store. The shard's clock sweeps over the connections, a part at a time, each at least
//! every 100 ms, and wakes those whose deadline has passed. That is one timer a shard instead of
//! one a read, and it is how draining reaches idle connections.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use slab::Slab;

use crate::limits::EVICTION_PROBES_MAX;

/// Sweeps that make one round over all connections: with thousands of idle ones a whole round at
/// once would hold up a request.
const SWEEPS_A_ROUND: usize = 5;

/// Why a wait was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// The deadline passed.
    Deadline,
    /// The shard drains and the connection was idle.
    Draining,
    /// The shard was full, and a newer connection got the place of this one, which had not
    /// authenticated.
    Evicted,
}

#[derive(Default)]
struct State {
    /// A signed request or a client certificate has shown whose it is.
    authenticated: Cell<bool>,
    deadline: Cell<Option<Instant>>,
    /// Nothing of a request has been read: may be closed when the shard drains.
    idle: Cell<bool>,
    interrupt: Cell<Option<Interrupt>>,
    waker: RefCell<Option<Waker>>,
}

/// All connections of a shard.
#[derive(Default)]
pub struct ConnectionTable {
    states: RefCell<Slab<Rc<State>>>,
    /// Where [`ConnectionTable::evict`] looks next.
    hand: Cell<usize>,
    /// Where [`ConnectionTable::sweep`] goes on.
    swept: Cell<usize>,
    draining: Cell<bool>,
}

impl ConnectionTable {
    /// Connections in it.
    pub fn len(&self) -> usize {
        self.states.borrow().len()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.states.borrow().is_empty()
    }

    /// One more connection.
    pub fn add(self: &Rc<Self>) -> ConnectionEntry {
        let state = Rc::new(State::default());
        let slot = self.states.borrow_mut().insert(state.clone());
        ConnectionEntry { connections: self.clone(), state, slot }
    }

    /// Goes on with the round over all connections, and wakes those whose limit has passed.
    pub fn sweep(&self, now: Instant) {
        let states = self.states.borrow();
        let slots = states.capacity();
        let begin = if self.swept.get() < slots { self.swept.get() } else { 0 };
        let end = slots.min(begin + slots.div_ceil(SWEEPS_A_ROUND));
        self.swept.set(end);
        for state in (begin..end).filter_map(|slot| states.get(slot)) {
            if state.deadline.get().is_some_and(|deadline| deadline <= now) {
                state.end(Interrupt::Deadline);
            }
        }
    }

    /// Ends a connection that has not authenticated and is being waited for, so that another may
    /// have its place; false where none is found. Going round, it finds those first that have been
    /// there for longer. As with a deadline, one that has just been heard of stays.
    pub fn evict(&self) -> bool {
        let states = self.states.borrow();
        for _ in 0..EVICTION_PROBES_MAX.min(states.capacity()) {
            let at = self.hand.get();
            self.hand.set((at + 1) % states.capacity());
            if let Some(state) = states.get(at)
                && !state.authenticated.get()
                && state.deadline.get().is_some()
                && state.interrupt.get().is_none()
            {
                state.end(Interrupt::Evicted);
                return true;
            }
        }
        false
    }

    /// From now on idle connections end, and none becomes idle again.
    pub fn drain(&self) {
        self.draining.set(true);
        for (_, state) in self.states.borrow().iter() {
            if state.idle.get() {
                state.end(Interrupt::Draining);
            }
        }
    }

    /// Whether [`ConnectionTable::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }
}

impl State {
    fn end(&self, why: Interrupt) {
        if self.interrupt.get().is_none() {
            self.interrupt.set(Some(why));
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

/// One connection's place in the table; ends with it.
pub struct ConnectionEntry {
    connections: Rc<ConnectionTable>,
    state: Rc<State>,
    slot: usize,
}

impl ConnectionEntry {
    /// What is waited for through [`ConnectionEntry::wait`] from now on must be done by
    /// `deadline`.
    pub fn set_deadline(&self, deadline: Instant) {
        self.state.idle.set(false);
        self.state.deadline.set(Some(deadline));
        self.state.interrupt.set(None);
    }

    /// As [`ConnectionEntry::set_deadline`], and draining ends it at once.
    pub fn set_idle(&self, deadline: Instant) {
        self.set_deadline(deadline);
        self.state.idle.set(true);
        if self.connections.is_draining() {
            self.state.interrupt.set(Some(Interrupt::Draining));
        }
    }

    /// Takes the deadline off, for as long as a request is worked on: its budget is kept elsewhere.
    pub fn clear_deadline(&self) {
        self.state.idle.set(false);
        self.state.deadline.set(None);
        self.state.interrupt.set(None);
    }

    /// To be called once it has been shown whose connection this is.
    pub fn set_authenticated(&self) {
        self.state.authenticated.set(true);
    }

    /// Whether [`ConnectionEntry::set_authenticated`] was called.
    pub fn is_authenticated(&self) -> bool {
        self.state.authenticated.get()
    }

    /// Whether the shard drains.
    pub fn is_draining(&self) -> bool {
        self.connections.is_draining()
    }

    /// Waits for `future`, but not beyond the deadline.
    ///
    /// # Errors
    /// Why the wait ended first. The future is dropped: glommio's sockets are readiness-based, so a
    /// dropped read loses nothing.
    pub async fn wait<F: Future>(&self, future: F) -> Result<F::Output, Interrupt> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if let Some(interrupt) = self.state.interrupt.get() {
                return Poll::Ready(Err(interrupt));
            }
            let mut waker = self.state.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// As [`ConnectionEntry::wait`], for work that costs much: none of it is done beyond the
    /// deadline, though it could be.
    ///
    /// # Errors
    /// As [`ConnectionEntry::wait`].
    pub async fn wait_in_time<F: Future>(&self, future: F) -> Result<F::Output, Interrupt> {
        let mut future = pin!(future);
        let in_time = poll_fn(|cx| {
            let is_over = || self.state.deadline.get().is_some_and(|at| at <= Instant::now());
            match self.state.interrupt.get() {
                Some(interrupt) => Poll::Ready(Err(interrupt)),
                None if is_over() => Poll::Ready(Err(Interrupt::Deadline)),
                None => future.as_mut().poll(cx).map(Ok),
            }
        });
        self.wait(in_time).await?
    }
}

impl Drop for ConnectionEntry {
    fn drop(&mut self) {
        self.connections.states.borrow_mut().remove(self.slot);
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

    fn round(connections: &ConnectionTable, now: Instant) {
        (0..SWEEPS_A_ROUND).for_each(|_| connections.sweep(now));
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_not_before() {
        let connections = Rc::new(ConnectionTable::default());
        let connection = connections.add();
        let start = Instant::now();
        connection.set_deadline(start + Duration::from_secs(5));
        round(&connections, start + Duration::from_millis(4999));
        assert_eq!(poll_once(connection.wait(pending::<()>())), Poll::Pending);
        round(&connections, start + Duration::from_secs(5));
        assert_eq!(
            poll_once(connection.wait(pending::<()>())),
            Poll::Ready(Err(Interrupt::Deadline))
        );
    }

    #[test]
    fn work_that_costs_much_is_not_done_beyond_the_deadline() {
        let connections = Rc::new(ConnectionTable::default());
        let connection = connections.add();
        let done = Cell::new(0);
        let work = || connection.wait_in_time(async { done.set(done.get() + 1) });
        connection.set_deadline(Instant::now() + Duration::from_secs(1000));
        assert_eq!(poll_once(work()), Poll::Ready(Ok(())));
        connection.set_deadline(Instant::now());
        assert_eq!(poll_once(work()), Poll::Ready(Err(Interrupt::Deadline)));
        connection.set_idle(Instant::now() + Duration::from_secs(1000));
        assert!(connections.evict());
        assert_eq!(poll_once(work()), Poll::Ready(Err(Interrupt::Evicted)));
        assert_eq!(done.get(), 1);
    }

    #[test]
    fn a_round_reaches_each_and_no_sweep_all() {
        let connections = Rc::new(ConnectionTable::default());
        let now = Instant::now();
        let all: Vec<ConnectionEntry> = (0..1000).map(|_| connections.add()).collect();
        all.iter().for_each(|connection| connection.set_deadline(now));
        let interrupted =
            || all.iter().filter(|connection| connection.state.interrupt.get().is_some()).count();
        connections.sweep(now);
        assert!((1..=1000 / 4).contains(&interrupted()), "{}", interrupted());
        round(&connections, now);
        assert_eq!(interrupted(), 1000);
    }

    #[test]
    fn what_is_ready_wins_over_a_deadline_that_passed() {
        let connections = Rc::new(ConnectionTable::default());
        let connection = connections.add();
        let now = Instant::now();
        connection.set_deadline(now);
        round(&connections, now);
        assert_eq!(poll_once(connection.wait(std::future::ready(7))), Poll::Ready(Ok(7)));
    }

    #[test]
    fn a_newcomer_evicts_who_has_not_authenticated_and_nobody_else() {
        let connections = Rc::new(ConnectionTable::default());
        assert!(!connections.evict(), "nobody is there");
        let (authenticated, busy, first, second) =
            (connections.add(), connections.add(), connections.add(), connections.add());
        let limit = Instant::now() + Duration::from_secs(100);
        [&authenticated, &first, &second].iter().for_each(|connection| connection.set_idle(limit));
        authenticated.set_authenticated();
        // A request of it is being worked on: it is about to authenticate.
        busy.clear_deadline();
        for unauthenticated in [&first, &second] {
            assert!(connections.evict());
            assert_eq!(
                poll_once(unauthenticated.wait(pending::<()>())),
                Poll::Ready(Err(Interrupt::Evicted))
            );
        }
        assert!(!connections.evict(), "each only once");
        assert_eq!(
            (poll_once(authenticated.wait(pending::<()>())), poll_once(busy.wait(pending::<()>()))),
            (Poll::Pending, Poll::Pending)
        );
        // What comes in the same moment wins.
        busy.set_idle(limit);
        assert!(connections.evict());
        assert_eq!(poll_once(busy.wait(std::future::ready(7))), Poll::Ready(Ok(7)));
        busy.set_idle(limit);
        assert_eq!(poll_once(busy.wait(pending::<()>())), Poll::Pending);
    }

    #[test]
    fn looking_for_one_to_evict_is_bounded() {
        let connections = Rc::new(ConnectionTable::default());
        let limit = Instant::now() + Duration::from_secs(100);
        let all: Vec<ConnectionEntry> =
            (0..=EVICTION_PROBES_MAX).map(|_| connections.add()).collect();
        all.iter().for_each(|connection| connection.set_idle(limit));
        let (last, others) = all.split_last().unwrap();
        others.iter().for_each(ConnectionEntry::set_authenticated);
        assert!(!connections.evict());
        // It goes on where it was.
        assert!(connections.evict());
        assert_eq!(poll_once(last.wait(pending::<()>())), Poll::Ready(Err(Interrupt::Evicted)));
    }

    #[test]
    fn draining_ends_the_idle_and_spares_the_busy() {
        let connections = Rc::new(ConnectionTable::default());
        let (idle, busy) = (connections.add(), connections.add());
        let limit = Instant::now() + Duration::from_secs(100);
        idle.set_idle(limit);
        busy.set_deadline(limit);
        connections.drain();
        assert_eq!(poll_once(idle.wait(pending::<()>())), Poll::Ready(Err(Interrupt::Draining)));
        assert_eq!(poll_once(busy.wait(pending::<()>())), Poll::Pending);
        busy.set_idle(limit);
        assert_eq!(poll_once(busy.wait(pending::<()>())), Poll::Ready(Err(Interrupt::Draining)));
        drop((idle, busy));
        assert!(connections.is_empty());
    }
}
