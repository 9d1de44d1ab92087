//! The connections of a shard: their places, who gives way where it is full, and how draining
//! reaches those that are idle. How long each may stay as it is: `timeouts`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use slab::Slab;

use crate::limits::EVICTION_PROBES_MAX;

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

/// What is known of one connection.
#[derive(Default)]
pub(super) struct State {
    /// A signed request or a client certificate has shown whose it is.
    authenticated: Cell<bool>,
    pub(super) deadline: Cell<Option<Instant>>,
    /// Nothing of a request has been read: may be closed when the shard drains.
    pub(super) idle: Cell<bool>,
    /// No request has come yet, and draining waits for one until then.
    pub(super) first_request_until: Cell<Option<Instant>>,
    pub(super) interrupt: Cell<Option<Interrupt>>,
    pub(super) waker: RefCell<Option<Waker>>,
}

/// All connections of a shard.
#[derive(Default)]
pub struct ConnectionTable {
    pub(super) states: RefCell<Slab<Rc<State>>>,
    /// Where [`ConnectionTable::evict`] looks next.
    hand: Cell<usize>,
    /// Where [`ConnectionTable::sweep`] goes on.
    pub(super) swept: Cell<usize>,
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

    /// From now on idle connections end, and none becomes idle again. One that has just been
    /// accepted has some time for a request.
    pub fn drain(&self) {
        self.draining.set(true);
        for (_, state) in self.states.borrow().iter() {
            if state.idle.get() && !state.bound_to_first_request() {
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
    /// Gives it no longer than its first request may take; false where that has come.
    pub(super) fn bound_to_first_request(&self) -> bool {
        let Some(until) = self.first_request_until.get() else { return false };
        let deadline = self.deadline.get().map_or(until, |deadline| deadline.min(until));
        self.deadline.set(Some(deadline));
        true
    }

    pub(super) fn end(&self, why: Interrupt) {
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
    pub(super) state: Rc<State>,
    slot: usize,
}

impl ConnectionEntry {
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
    use std::pin::pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
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
