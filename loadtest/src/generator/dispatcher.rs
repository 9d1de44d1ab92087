//! What the connections of a worker share: requests that are due, connections that are free, and
//! what is counted.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::stats::{Second, Stats, record};
use crate::limits::BACKLOG_MAX;
use crate::workload::request::Call;
use crate::workload::schedule::Plan;
use crate::workload::{Outcome, Workload};

const UNSENT: &str = "unsent: no connection was free in time";

/// A request that is to be sent.
#[derive(Clone, Copy)]
pub(super) struct Due {
    /// When it was due: its latency counts from here, so that waiting for a free connection is part
    /// of it.
    pub(super) at: Instant,
    pub(super) phase: usize,
}

/// A connection as seen from the dispatcher.
#[derive(Default)]
pub(super) struct ConnectionState {
    waker: RefCell<Option<Waker>>,
    /// Stands in the queue of free connections.
    queued: Cell<bool>,
    /// Is free. A connection that has found work itself stays queued and is passed over.
    free: Cell<bool>,
    /// When the oldest unanswered request was sent.
    pub(super) oldest: Cell<Option<Instant>>,
    /// The oldest unanswered request has waited too long.
    pub(super) overdue: Cell<bool>,
    /// To be closed and opened again when it has no request in flight.
    pub(super) reconnect: Cell<bool>,
}

impl ConnectionState {
    /// The task that drives the connection.
    pub(super) fn set_waker(&self, waker: Waker) {
        *self.waker.borrow_mut() = Some(waker);
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// No longer free.
    pub(super) fn busy(&self) {
        self.free.set(false);
    }

    /// Whether it still waits for work, which is to say has not been woken for some.
    pub(super) fn is_free(&self) -> bool {
        self.free.get()
    }
}

pub(super) struct Dispatcher {
    plan: Arc<Plan>,
    timeout: Duration,
    started: Cell<Option<Instant>>,
    finished: Cell<bool>,
    failure: RefCell<Option<String>>,
    connected: Cell<usize>,
    backlog: RefCell<VecDeque<Due>>,
    free: RefCell<VecDeque<Rc<ConnectionState>>>,
    connections: RefCell<Vec<Rc<ConnectionState>>>,
    next_reconnected: Cell<usize>,
    pub(super) workload: RefCell<Workload>,
    pub(super) stats: RefCell<Stats>,
    second: RefCell<Second>,
    seconds: Sender<Second>,
}

impl Dispatcher {
    pub(super) fn new(
        plan: Arc<Plan>,
        workload: Workload,
        timeout: Duration,
        seconds: Sender<Second>,
    ) -> Dispatcher {
        Dispatcher {
            stats: RefCell::new(Stats::new(plan.phases.len())),
            plan,
            timeout,
            started: Cell::new(None),
            finished: Cell::new(false),
            failure: RefCell::new(None),
            connected: Cell::new(0),
            backlog: RefCell::default(),
            free: RefCell::default(),
            connections: RefCell::default(),
            next_reconnected: Cell::new(0),
            workload: RefCell::new(workload),
            second: RefCell::new(Second::new(0)),
            seconds,
        }
    }

    // ---- the life of a run ----------------------------------------------------------------------

    /// The run has begun, at `at`.
    pub(super) fn start(&self, at: Instant) {
        self.started.set(Some(at));
        if self.plan.closed {
            for connection in self.connections.borrow().iter() {
                connection.free.set(false);
                connection.wake();
            }
        }
    }

    /// Nothing more will be due.
    pub(super) fn finish(&self) {
        self.finished.set(true);
        self.connections.borrow().iter().for_each(|connection| connection.wake());
    }

    /// Nothing is left to be sent.
    pub(super) fn is_over(&self) -> bool {
        self.finished.get() && self.backlog.borrow().is_empty()
    }

    pub(super) fn fail(&self, why: String) {
        self.failure.borrow_mut().get_or_insert(why);
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    pub(super) fn register(&self) -> Rc<ConnectionState> {
        let connection = Rc::new(ConnectionState::default());
        self.connections.borrow_mut().push(connection.clone());
        connection
    }

    /// Connections that have been open once.
    pub(super) fn connected(&self) -> usize {
        self.connected.get()
    }

    pub(super) fn has_connected(&self) {
        self.connected.set(self.connected.get() + 1);
    }

    // ---- work -----------------------------------------------------------------------------------

    /// A request is due now.
    pub(super) fn due(&self, due: Due, now: Instant) {
        let mut stats = self.stats.borrow_mut();
        if let Some(phase) = stats.phases.get_mut(due.phase) {
            phase.offered += 1;
            record(&mut phase.lag, now.saturating_duration_since(due.at));
        }
        drop(stats);
        self.second.borrow_mut().offered += 1;
        if self.backlog.borrow().len() >= BACKLOG_MAX {
            return self.unsent(due, "unsent: too many requests waited for a connection");
        }
        self.backlog.borrow_mut().push_back(due);
        self.wake_one();
    }

    /// Wakes the connection that has been free for longest.
    pub(super) fn wake_one(&self) {
        let mut free = self.free.borrow_mut();
        while let Some(connection) = free.pop_front() {
            connection.queued.set(false);
            if connection.free.replace(false) {
                return connection.wake();
            }
        }
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.borrow().is_empty()
    }

    /// The next request to send.
    pub(super) fn take(&self) -> Option<Due> {
        let now = Instant::now();
        if self.plan.closed {
            let elapsed = now.checked_duration_since(self.started.get()?)?;
            if elapsed >= self.plan.length() {
                return None;
            }
            let phase = self.plan.phase_at(elapsed);
            if let Some(phase) = self.stats.borrow_mut().phases.get_mut(phase) {
                phase.offered += 1;
            }
            self.second.borrow_mut().offered += 1;
            return Some(Due { at: now, phase });
        }
        loop {
            let due = self.backlog.borrow_mut().pop_front()?;
            if now.saturating_duration_since(due.at) < self.timeout {
                return Some(due);
            }
            self.unsent(due, UNSENT);
        }
    }

    /// The connection has room for a request and found none.
    pub(super) fn wait(&self, connection: &Rc<ConnectionState>) {
        connection.free.set(true);
        if !connection.queued.replace(true) {
            self.free.borrow_mut().push_back(connection.clone());
        }
    }

    // ---- counting -------------------------------------------------------------------------------

    fn is_measured(&self, phase: usize) -> bool {
        self.plan.phases.get(phase).is_some_and(|p| p.measured)
    }

    fn is_measured_now(&self) -> bool {
        let elapsed = self.started.get().map(|start| start.elapsed());
        elapsed.is_some_and(|elapsed| {
            elapsed < self.plan.length() && self.is_measured(self.plan.phase_at(elapsed))
        })
    }

    pub(super) fn answered(&self, due: Due, call: Call, outcome: Outcome, now: Instant) {
        let latency = now.saturating_duration_since(due.at);
        if self.is_measured(due.phase) {
            let mut stats = self.stats.borrow_mut();
            stats.latest = stats.latest.max(latency);
        }
        match outcome {
            Outcome::Right => {
                let mut stats = self.stats.borrow_mut();
                if let Some(phase) = stats.phases.get_mut(due.phase) {
                    phase.right += 1;
                    record(&mut phase.latency, latency);
                }
                let elapsed = self
                    .started
                    .get()
                    .map_or(Duration::ZERO, |start| now.saturating_duration_since(start));
                let after_end = elapsed >= self.plan.length();
                if !after_end && let Some(phase) = stats.phases.get_mut(self.plan.phase_at(elapsed))
                {
                    phase.throughput += 1;
                }
                if self.is_measured(due.phase) {
                    stats.after_end += u64::from(after_end);
                    record(&mut stats.calls[call as usize], latency);
                }
                drop(stats);
                self.publish_seconds(now);
                let mut second = self.second.borrow_mut();
                second.right += 1;
                record(&mut second.latency, latency);
            }
            Outcome::Error(name) => self.error(due, &name),
            Outcome::Wrong(what) => {
                let mut stats = self.stats.borrow_mut();
                stats.wrong(what);
                drop(stats);
                self.error(due, "wrong answer");
            }
        }
    }

    /// A request sent at `sent` waits no longer.
    pub(super) fn completed(&self, due: Due, sent: Instant, now: Instant) {
        if let Some(phase) = self.stats.borrow_mut().phases.get_mut(due.phase) {
            phase.in_flight += now.saturating_duration_since(sent);
        }
    }

    /// Nothing came back that could be read as an answer.
    pub(super) fn unanswered(&self, due: Due, why: &str) {
        if self.is_measured(due.phase) {
            self.stats.borrow_mut().unanswered += 1;
        }
        self.error(due, why);
    }

    fn unsent(&self, due: Due, why: &str) {
        if self.is_measured(due.phase) {
            self.stats.borrow_mut().unsent += 1;
        }
        self.error(due, why);
    }

    fn error(&self, due: Due, name: &str) {
        let mut stats = self.stats.borrow_mut();
        if let Some(phase) = stats.phases.get_mut(due.phase) {
            phase.errors += 1;
        }
        if self.is_measured(due.phase) {
            stats.error(name);
        }
        self.second.borrow_mut().errors += 1;
    }

    /// An error that belongs to no request.
    pub(super) fn connection_error(&self, name: &str) {
        if self.is_measured_now() {
            self.stats.borrow_mut().error(name);
        }
    }

    /// A connection has been made, in `time`.
    pub(super) fn handshake(&self, time: Duration, resumed: bool) {
        let measured = self.is_measured_now();
        let mut stats = self.stats.borrow_mut();
        record(&mut stats.handshakes, time);
        stats.resumed += u64::from(resumed);
        stats.measured_handshakes += u64::from(measured);
    }

    /// Publishes the seconds that are over.
    pub(super) fn publish_seconds(&self, now: Instant) {
        let Some(start) = self.started.get() else { return };
        let second = now.saturating_duration_since(start).as_secs();
        while self.second.borrow().second < second {
            let next = Second::new(self.second.borrow().second + 1);
            let _ = self.seconds.send(self.second.replace(next));
        }
    }

    pub(super) fn take_stats(&self) -> Stats {
        self.stats.replace(Stats::new(0))
    }

    // ---- connections ----------------------------------------------------------------------------

    /// Gives up what has waited too long for a connection: there may be none left to take it. And
    /// tells the connections whose oldest request has no answer in time.
    pub(super) fn expire(&self, now: Instant) {
        let mut backlog = self.backlog.borrow_mut();
        while let Some(due) = backlog.front().copied()
            && now.saturating_duration_since(due.at) >= self.timeout
        {
            backlog.pop_front();
            self.unsent(due, UNSENT);
        }
        drop(backlog);
        for connection in self.connections.borrow().iter() {
            if connection
                .oldest
                .get()
                .is_some_and(|sent| now.saturating_duration_since(sent) >= self.timeout)
            {
                connection.overdue.set(true);
                connection.wake();
            }
        }
    }

    /// Has the next connection in turn opened again.
    pub(super) fn reconnect_one(&self) {
        let connections = self.connections.borrow();
        let at = self.next_reconnected.get();
        self.next_reconnected.set(at + 1);
        if let Some(connection) = connections.get(at % connections.len().max(1)) {
            connection.reconnect.set(true);
            connection.wake();
        }
    }
}
