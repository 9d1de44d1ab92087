//! Timeouts of connections: idle, handshake, head, body, write.
//!
//! A connection says until when it may stay as it is ([`ConnectionEntry::set_deadline`]), which
//! costs it a store. The shard's clock sweeps over the connections, a part at a time, each at least
//! every 100 ms, and wakes those whose deadline has passed. That is one timer a shard instead of
//! one a read.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use super::connection_table::{ConnectionEntry, ConnectionTable, Interrupt};
use crate::limits::{
    FIRST_REQUEST_TIME_MAX, HANDSHAKE_TIME_MAX, IDLE_TIME_MAX, UNAUTHENTICATED_IDLE_TIME_MAX,
};

/// Sweeps that make one round over all connections: with thousands of idle ones a whole round at
/// once would hold up a request.
const SWEEPS_A_ROUND: usize = 5;

impl ConnectionTable {
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
        if self.is_draining() && !self.state.bound_to_first_request() {
            self.state.interrupt.set(Some(Interrupt::Draining));
        }
    }

    /// It was accepted at `now`: its handshake's time begins, and the one that draining gives it
    /// for a first request.
    pub fn begin(&self, now: Instant) {
        self.state.first_request_until.set(Some(now + FIRST_REQUEST_TIME_MAX));
        // Idle, because no request is cut off when draining ends it.
        self.set_idle(now + HANDSHAKE_TIME_MAX);
    }

    /// Nothing of a request has been read: the idle timeout runs from `now` on.
    pub fn await_request(&self, now: Instant) {
        let idle_time_max =
            if self.is_authenticated() { IDLE_TIME_MAX } else { UNAUTHENTICATED_IDLE_TIME_MAX };
        self.set_idle(now + idle_time_max);
    }

    /// Takes the deadline off, for as long as a request is worked on: its budget is kept elsewhere.
    pub fn clear_deadline(&self) {
        self.state.first_request_until.set(None);
        self.state.idle.set(false);
        self.state.deadline.set(None);
        self.state.interrupt.set(None);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::pending;
    use std::rc::Rc;
    use std::task::{Context, Waker};
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
    fn draining_gives_a_new_connection_time_for_one_request() {
        let connections = Rc::new(ConnectionTable::default());
        let start = Instant::now();
        let (new, used) = (connections.add(), connections.add());
        [&new, &used].iter().for_each(|connection| connection.begin(start));
        used.clear_deadline();
        used.await_request(start);
        connections.drain();
        let wait = |it: &ConnectionEntry| poll_once(it.wait(pending::<()>()));
        assert_eq!(wait(&used), Poll::Ready(Err(Interrupt::Draining)));
        new.await_request(start);
        round(&connections, start + FIRST_REQUEST_TIME_MAX - Duration::from_millis(1));
        assert_eq!(wait(&new), Poll::Pending);
        round(&connections, start + FIRST_REQUEST_TIME_MAX);
        assert_eq!(wait(&new), Poll::Ready(Err(Interrupt::Deadline)));
        new.clear_deadline();
        new.await_request(start);
        assert_eq!(wait(&new), Poll::Ready(Err(Interrupt::Draining)), "it has had its request");
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
}
