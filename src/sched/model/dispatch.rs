//! What a lane does next: which queue it serves, how much it takes at once, and when another lane
//! is worth waking.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::admission::LATE_AT_ONCE_MAX;
use super::queues::Entry;
use super::state::{LaneId, Next, Report, Scheduler, State, Step};

/// Another lane is woken when the jobs in the queue would wait longer than this for the lanes
/// already awake. Waking a thread costs some 5 µs of CPU and 50 µs until it runs, and two sessions
/// of an in-process module contend for its lock (SoftHSM: 57,000 jobs/s with one session, 41,000
/// with two): below it a second lane costs more than it brings. A network HSM's single call is
/// always above it.
pub const WAKE_WAIT: Duration = Duration::from_micros(100);
/// So often in a row a lane serves its home queue while others wait; the next take is theirs. A
/// flooded shard keeps three quarters of its home lanes, and a shard without own lanes is
/// never starved.
pub const HOME_RUN_MAX: u32 = 3;

impl<J> Scheduler<J> {
    /// What `lane` is to do now. Jobs to serve go to `out`, those past their deadline or cancelled
    /// to `late`.
    pub fn step(
        &mut self,
        lane: LaneId,
        now: Instant,
        out: &mut VecDeque<Entry<J>>,
        late: &mut Vec<Entry<J>>,
    ) -> Next {
        let next = |step| Next { step, wake: None };
        let Some(slot) = self.current(lane) else { return next(Step::Exit) };
        match self.lanes[slot].state {
            State::Vacant => next(Step::Exit),
            State::Closed { .. } | State::Queued | State::Opening { .. } if self.stopping => {
                next(Step::Exit)
            }
            State::Closed { retry_at } if retry_at > now => next(Step::Park(Some(retry_at - now))),
            State::Closed { .. } => next(self.ask_to_open(slot, now)),
            State::Queued => next(Step::Park(None)),
            // Its turn was given to it while it slept.
            State::Opening { .. } => next(Step::Open),
            State::Idle | State::Awake | State::Busy { .. } => {
                self.set(slot, State::Awake, now);
                self.take(slot, now, out, late);
                if out.is_empty() && late.is_empty() {
                    if self.stopping {
                        return next(Step::Exit);
                    }
                    self.set(slot, State::Idle, now);
                    return next(Step::Park(None));
                }
                self.set(
                    slot,
                    State::Busy { since: now, jobs: out.len() as u32, stalled: false },
                    now,
                );
                Next { step: Step::Work, wake: self.wake_if_needed(self.lanes[slot].home, now) }
            }
        }
    }

    /// `lane` did what it was handed; to be followed by [`Scheduler::step`] or [`Scheduler::lost`].
    /// Ignored from an abandoned lane.
    pub fn finished(&mut self, lane: LaneId, report: Report, now: Instant) {
        let Some(slot) = self.current(lane) else { return };
        self.service.record(report.served, report.served_time, now);
        if report.served > 0 {
            self.lanes[slot].failures = 0;
        }
        self.set(slot, State::Awake, now);
    }

    /// Hands `slot` its next batch.
    pub(super) fn take(
        &mut self,
        slot: usize,
        now: Instant,
        out: &mut VecDeque<Entry<J>>,
        late: &mut Vec<Entry<J>>,
    ) {
        let mut capacity = self.batch();
        while capacity > 0
            && out.is_empty()
            && late.len() < LATE_AT_ONCE_MAX
            && let Some((shard, flow)) = self.queue_for(slot)
        {
            self.queues.begin(flow);
            // What is left of the batch is filled from the same queue: its outcomes are one wake.
            let mut next = Some(flow);
            while capacity > 0
                && late.len() < LATE_AT_ONCE_MAX
                && let Some(flow) = next
            {
                let Some(entry) = self.queues.pop(shard, flow) else {
                    next = self.queues.flows_in(shard).last().copied();
                    continue;
                };
                if self.is_pointless(&entry, now) {
                    self.count_dropped(&entry, now);
                    late.push(entry);
                } else {
                    capacity -= 1;
                    self.queues.charge(entry.share);
                    out.push_back(entry);
                }
            }
        }
    }

    /// Whether to leave a job undone: nobody waits for it, it is late, or it would be when done
    /// while another job could be done instead. The last one in the queue is always tried, so that
    /// an estimate that is too high meets the truth.
    pub(super) fn is_pointless(&self, entry: &Entry<J>, now: Instant) -> bool {
        let done = if self.queues.len() > 0 {
            now.checked_add(self.service.likely_most())
        } else {
            Some(now)
        };
        done.is_none_or(|done| entry.deadline <= done) || (self.is_cancelled)(entry)
    }

    /// How much one lane takes now: what fits the batch time, but not what the other lanes that are
    /// or should be awake could do meanwhile.
    fn batch(&self) -> usize {
        let batch = self.service.batch();
        match self.service.mean() {
            Some(service) if batch > 1 => {
                let wanted = (service
                    .mul_f64(self.queues.len() as f64)
                    .as_nanos()
                    .div_ceil(WAKE_WAIT.as_nanos())) as usize;
                // The asking lane is among the awake ones.
                let sharing = wanted.min(self.counts.idle + self.counts.awake).max(1);
                batch.min(self.queues.len().div_ceil(sharing))
            }
            _ => batch,
        }
    }

    /// Which shard's queue `slot` serves, and whose jobs first.
    fn queue_for(&mut self, slot: usize) -> Option<(usize, u32)> {
        let flow = self.queues.next_flow()?;
        let lane = &mut self.lanes[slot];
        let others_wait = !self.queues.holds_all(lane.home, flow);
        if self.queues.holds(lane.home, flow) && (!others_wait || lane.home_run < HOME_RUN_MAX) {
            lane.home_run = if others_wait { lane.home_run + 1 } else { 0 };
            return Some((lane.home, flow));
        }
        lane.home_run = 0;
        let (home, shards) = (lane.home, self.queues.shards());
        let found = (0..shards)
            .map(|i| (self.steal_from + i) % shards)
            .find(|&s| s != home && self.queues.holds(s, flow))?;
        self.steal_from = (found + 1) % shards;
        Some((found, flow))
    }

    /// Wakes one more lane if what is queued needs it: a home lane of `shard` first, else one of
    /// the shard with most idle lanes.
    pub(super) fn wake_if_needed(&mut self, shard: usize, now: Instant) -> Option<LaneId> {
        if self.queues.len() == 0 || self.counts.idle == 0 || !self.another_is_worth_it(now) {
            return None;
        }
        let fullest = |idle: &[Vec<u32>]| (0..idle.len()).max_by_key(|&s| idle[s].len());
        let from = if self.idle[shard].is_empty() { fullest(&self.idle)? } else { shard };
        let slot = *self.idle[from].last()? as usize;
        self.set(slot, State::Awake, now);
        Some(self.id(slot))
    }

    fn another_is_worth_it(&self, now: Instant) -> bool {
        let service = match self.service.mean() {
            Some(service) if service < WAKE_WAIT => service,
            // Slow or unknown: a lane for every job that none is coming for.
            _ => return self.queues.len() > self.counts.awake,
        };
        // Fast: few lanes are awake, so looking at each is cheap.
        let mut awake = self.counts.awake as u32;
        let mut work = service.mul_f64(self.queues.len() as f64);
        if self.counts.busy > 0 {
            for lane in &self.lanes {
                let State::Busy { since, jobs, stalled: false } = lane.state else { continue };
                let (expected, elapsed) = (service * jobs, now.saturating_duration_since(since));
                // A lane far behind its time may be hanging: nobody must wait for it.
                if elapsed <= expected + WAKE_WAIT {
                    awake += 1;
                    work += expected.saturating_sub(elapsed);
                }
            }
        }
        awake == 0 || work > WAKE_WAIT * awake
    }
}
