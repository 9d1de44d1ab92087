//! Reopening of sessions: lanes that get a session, lose it, or hang in a call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::queues::Entry;
use super::state::{LaneId, Scheduler, State, Step};

/// Wait before a session is opened again: the first, doubled with each failure up to the second, of
/// which a random part of up to half is taken off so that lanes do not come back in step. The first
/// is about as long as opening a session takes: where sessions are lost now and then, some are lost
/// again before they have served, and a lane that waits serves nobody. An HSM that is down is tried
/// some twelve times by each lane in the first five seconds; logins and C_Initialize have their
/// own intervals.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(2), Duration::from_secs(5));
/// A lane at work for longer than this, and eight times what its jobs should take, is held for
/// stalled: it no longer counts as serving and the jobs it has not begun go back to the queue. Well
/// below the budget of a request, well above an HSM's usual tail.
pub const STALL_AFTER_MIN: Duration = Duration::from_millis(20);
const STALL_TIMES: u32 = 8;

/// What a look at the clock found; the vectors are the caller's to reuse.
#[derive(Debug)]
pub struct Tick<J> {
    /// Lanes to wake.
    pub wake: Vec<LaneId>,
    /// Lanes that need a thread: [`Scheduler::exited`] if none can be had.
    pub start: Vec<LaneId>,
    /// Lanes found stalled or abandoned now: what they hold and have not begun is to be requeued.
    pub stalled: Vec<LaneId>,
    /// Jobs past their deadline or cancelled.
    pub late: Vec<Entry<J>>,
}

impl<J> Default for Tick<J> {
    fn default() -> Self {
        Tick { wake: Vec::new(), start: Vec::new(), stalled: Vec::new(), late: Vec::new() }
    }
}

impl<J> Scheduler<J> {
    /// A lane without session may open one when few do so already: hundreds of logins at once are
    /// what a restarted HSM falls over from.
    pub(super) fn ask_to_open(&mut self, slot: usize, now: Instant) -> Step {
        if self.counts.opening < self.settings.openings_max {
            self.set(slot, State::Opening { since: now }, now);
            return Step::Open;
        }
        self.set(slot, State::Queued, now);
        self.turns.push_back(self.id(slot));
        Step::Park(None)
    }

    /// Gives the turn to open to the next that waits for it.
    fn next_turn(&mut self, now: Instant) -> Option<LaneId> {
        while self.counts.opening < self.settings.openings_max {
            let lane = self.turns.pop_front()?;
            if let Some(slot) = self.current(lane)
                && matches!(self.lanes[slot].state, State::Queued)
            {
                self.set(slot, State::Opening { since: now }, now);
                return Some(lane);
            }
        }
        None
    }

    /// `lane` has its session. Tells whom to wake.
    pub fn opened(&mut self, lane: LaneId, now: Instant) -> Option<LaneId> {
        let slot = self.current(lane)?;
        self.totals.reopened +=
            u64::from(self.lanes[slot].failures > 0 || self.lanes[slot].epoch > 0);
        self.set(slot, State::Awake, now);
        self.next_turn(now)
    }

    /// `lane` got no session. Tells whom to wake.
    pub fn open_failed(&mut self, lane: LaneId, fault: Arc<str>, now: Instant) -> Option<LaneId> {
        self.last_fault = Some((fault, now));
        let slot = self.current(lane)?;
        let wait = self.backoff(self.lanes[slot].failures);
        self.close(slot, now + wait, now);
        self.next_turn(now)
    }

    /// `lane` lost its session: opened again at once if it had served, else after a while. To be
    /// followed by [`Scheduler::wake_all_needed`], when what the lane held is requeued: others may
    /// have been left asleep because this lane was expected back.
    pub fn lost(&mut self, lane: LaneId, fault: Arc<str>, now: Instant) {
        self.last_fault = Some((fault, now));
        let Some(slot) = self.current(lane) else { return };
        let wait = match self.lanes[slot].failures {
            0 => Duration::ZERO,
            n => self.backoff(n - 1),
        };
        self.close(slot, now + wait, now);
    }

    fn close(&mut self, slot: usize, retry_at: Instant, now: Instant) {
        self.lanes[slot].failures = self.lanes[slot].failures.saturating_add(1);
        self.set(slot, State::Closed { retry_at }, now);
    }

    fn backoff(&mut self, failures: u32) -> Duration {
        let full = (BACKOFF.0 * (1 << failures.min(16))).min(BACKOFF.1);
        // xorshift64: jitter needs no better.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        full - full.mul_f64((self.random >> 11) as f64 / (1u64 << 53) as f64 / 2.0)
    }

    /// To be called every 50 ms or so: finds stalled lanes, gives up hung ones and replaces them,
    /// drops late jobs, and makes sure that nothing waits for a lane that does not come.
    pub fn tick(&mut self, now: Instant, tick: &mut Tick<J>) {
        for slot in 0..self.lanes.len() {
            // At the bound a lane keeps its place, and serves again if its call returns.
            let may_abandon = self.counts.abandoned < self.settings.abandoned_max;
            match self.lanes[slot].state {
                State::Busy { since, .. }
                    if may_abandon
                        && now.saturating_duration_since(since) > self.settings.hang_after =>
                {
                    tick.stalled.push(self.id(slot));
                    self.abandon(slot, now, tick);
                }
                State::Busy { since, jobs, stalled: false }
                    if now.saturating_duration_since(since) > self.stall_after(jobs) =>
                {
                    tick.stalled.push(self.id(slot));
                    self.set(slot, State::Busy { since, jobs, stalled: true }, now);
                }
                State::Opening { since }
                    if may_abandon
                        && now.saturating_duration_since(since) > self.settings.open_hang_after =>
                {
                    self.last_fault = Some((Arc::from("opening a session hangs"), now));
                    self.abandon(slot, now, tick);
                }
                // Long due to ask for its session: it is still in the call that closes the old one.
                State::Closed { retry_at }
                    if may_abandon
                        && now.saturating_duration_since(retry_at) > self.settings.hang_after =>
                {
                    self.last_fault = Some((Arc::from("closing a session hangs"), now));
                    self.abandon(slot, now, tick);
                }
                State::Vacant => self.refill(slot, now, tick),
                _ => {}
            }
        }
        while let Some(lane) = self.next_turn(now) {
            tick.wake.push(lane);
        }
        self.reap(now, &mut tick.late);
        self.wake_all_needed(now, &mut tick.wake);
    }

    /// Wakes as many lanes as the queues need; after [`Scheduler::requeue`].
    pub fn wake_all_needed(&mut self, now: Instant, wake: &mut Vec<LaneId>) {
        while let Some(shard) = self.queues.any_shard()
            && let Some(lane) = self.wake_if_needed(shard, now)
        {
            wake.push(lane);
        }
    }

    fn stall_after(&self, jobs: u32) -> Duration {
        match self.service.mean() {
            Some(service) => (service * jobs.max(1) * STALL_TIMES).max(STALL_AFTER_MIN),
            None => self.settings.hang_after,
        }
    }

    fn abandon(&mut self, slot: usize, now: Instant, tick: &mut Tick<J>) {
        if matches!(self.lanes[slot].state, State::Busy { .. }) {
            self.last_fault = Some((Arc::from("a call to the key manager hangs"), now));
        }
        self.totals.abandoned += 1;
        self.counts.abandoned += 1;
        self.lanes[slot].epoch = self.lanes[slot].epoch.wrapping_add(1);
        self.set(slot, State::Vacant, now);
        self.refill(slot, now, tick);
    }

    fn refill(&mut self, slot: usize, now: Instant, tick: &mut Tick<J>) {
        if !self.stopping {
            self.set(slot, State::Closed { retry_at: now }, now);
            tick.start.push(self.id(slot));
        }
    }

    /// The thread of `lane` has ended, or could not be started. An abandoned one's place among the
    /// abandoned is free again. Tells whom to wake.
    pub fn exited(&mut self, lane: LaneId, now: Instant) -> Option<LaneId> {
        match self.current(lane) {
            Some(slot) => {
                self.set(slot, State::Vacant, now);
                self.next_turn(now)
            }
            None => {
                self.counts.abandoned = self.counts.abandoned.saturating_sub(1);
                None
            }
        }
    }
}
