//! What is let in, what is refused, and what is dropped because it came too late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::queues::Entry;
use super::queues::Share;
use super::state::{LaneId, Refused, SHORT_OUTAGE, Scheduler};

/// What a wait may be longer than by the estimate: it is judged by averages, and the slots of a
/// queue are not exactly even.
const WAIT_MARGIN: f64 = 1.125;
/// Jobs past their deadline or cancelled handed out at once, so that the lock is not held for a
/// whole queue of them.
pub const LATE_AT_ONCE_MAX: usize = 64;

impl<J> Scheduler<J> {
    /// Takes a job on, or gives it back at once. Tells the lane that must be woken for it. What
    /// made no sense to queue any longer and stood in its way goes to `late`.
    pub fn submit(
        &mut self,
        shard: usize,
        share: Share,
        job: J,
        deadline: Instant,
        now: Instant,
        late: &mut Vec<Entry<J>>,
    ) -> Result<Option<LaneId>, (Refused, J)> {
        let mut refusal = self.refusal(shard, share, deadline, now);
        if matches!(refusal, Some(Refused::QueueFull | Refused::DeadlineUnreachable)) {
            // For the sake of jobs that nobody waits for, maybe: they stay until a lane or a tick
            // comes.
            self.reap(now, late);
            if !late.is_empty() {
                refusal = self.refusal(shard, share, deadline, now);
            }
        }
        if let Some(refused) = refusal {
            match refused {
                Refused::QueueFull => self.totals.queue_full += 1,
                Refused::DeadlineUnreachable => self.totals.deadline_unreachable += 1,
                Refused::NoSession(_) | Refused::Hung => self.totals.no_session += 1,
            }
            return Err((refused, job));
        }
        self.totals.jobs += 1;
        self.queues.push_back(Entry { job, shard, share, deadline, submitted: now });
        Ok(self.wake_if_needed(shard, now))
    }

    fn refusal(
        &self,
        shard: usize,
        share: Share,
        deadline: Instant,
        now: Instant,
    ) -> Option<Refused> {
        if shard >= self.queues.shards() {
            return Some(Refused::NoSession(Some(Arc::from("no such shard"))));
        }
        if self.stopping {
            return Some(Refused::NoSession(Some(Arc::from("stopping"))));
        }
        if self.is_unavailable(now) {
            let hangs = self.counts.stalled + self.counts.abandoned > 0;
            return Some(if hangs {
                Refused::Hung
            } else {
                Refused::NoSession(self.last_fault.as_ref().map(|(fault, _)| fault.clone()))
            });
        }
        if deadline <= now
            || now.checked_add(self.likely_time(shard, share)).is_none_or(|done| done > deadline)
        {
            return Some(Refused::DeadlineUnreachable);
        }
        (!self.has_room(shard, share)).then_some(Refused::QueueFull)
    }

    fn has_room(&self, shard: usize, share: Share) -> bool {
        self.queues.len_of(shard, share) < self.queues.room(share, self.settings.queue_max)
    }

    /// Whether no lane has served for so long that jobs are refused.
    pub fn is_unavailable(&self, now: Instant) -> bool {
        self.outage.is_some_and(|since| now.saturating_duration_since(since) >= SHORT_OUTAGE)
    }

    /// The time by which a job submitted now would hardly not be done.
    fn likely_time(&self, shard: usize, share: Share) -> Duration {
        let serving = self.counts.serving();
        let (Some(service), true) = (self.service.mean(), self.counts.idle == 0 && serving > 0)
        else {
            return Duration::ZERO;
        };
        let (by_all, at_home) = self.queues.ahead(shard, share);
        let mut wait = by_all / serving as f64;
        if self.home_serving[shard] > 0 {
            // Home lanes serve their own shard's first.
            wait = wait.min(at_home / self.home_serving[shard] as f64);
        }
        service.mul_f64(wait * WAIT_MARGIN) + self.service.likely_most()
    }

    /// When a job submitted now may be expected to be done, for choosing between key managers; none
    /// while no lane serves. Unlike the bound that admission goes by, this counts a job for the
    /// lanes at work.
    pub fn expected_time(&self) -> Option<Duration> {
        let serving = self.counts.serving();
        if serving == 0 {
            return None;
        }
        let service = self.service.mean().unwrap_or_default();
        let ahead = if self.counts.idle > 0 {
            0.0
        } else {
            (self.queues.len() + 1) as f64 / serving as f64
        };
        Some(service.mul_f64(ahead + 1.0))
    }

    /// Since when no lane serves.
    pub fn outage(&self) -> Option<Instant> {
        self.outage
    }

    /// Puts a job back that a lane was handed and has not begun, at the head of its queue. Gives it
    /// back when there is no room.
    pub fn requeue(&mut self, entry: Entry<J>) -> Result<(), Entry<J>> {
        if entry.shard >= self.queues.shards() || !self.has_room(entry.shard, entry.share) {
            return Err(entry);
        }
        self.queues.push_front(entry);
        Ok(())
    }

    /// Moves jobs that are past their deadline or cancelled from the heads of the queues to `late`,
    /// some at once.
    pub fn reap(&mut self, now: Instant, late: &mut Vec<Entry<J>>) {
        for shard in 0..self.queues.shards() {
            // From the back: what takes the place of an emptied one has been looked at.
            for place in (0..self.queues.flows_in(shard).len()).rev() {
                let flow = self.queues.flows_in(shard)[place];
                while late.len() < LATE_AT_ONCE_MAX
                    && self
                        .queues
                        .head(shard, flow)
                        .is_some_and(|entry| entry.deadline <= now || (self.is_cancelled)(entry))
                    && let Some(entry) = self.queues.pop(shard, flow)
                {
                    self.count_dropped(&entry, now);
                    late.push(entry);
                }
            }
        }
    }

    pub(super) fn count_dropped(&mut self, entry: &Entry<J>, now: Instant) {
        let cancelled = entry.deadline > now && (self.is_cancelled)(entry);
        let total = if cancelled { &mut self.totals.cancelled } else { &mut self.totals.late };
        *total += 1;
    }
}
