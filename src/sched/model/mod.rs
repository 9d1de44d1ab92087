//! The scheduler's decisions for one key manager, pure: no thread, no lock, no clock. Callers pass
//! `now`; the payload is opaque.
//!
//! * **Queues**: one bounded FIFO a shard. A batch comes out of one queue, so that its outcomes are
//!   one wake of one shard.
//! * **Lanes**: each has a home shard. It serves its home queue first; every [`HOME_RUN_MAX`]
//!   takes, and whenever its home is empty, it serves the other queues in turn. In turn and not the
//!   longest first: the longest is the one that floods, and a shard without home lanes (more shards
//!   than lanes) would starve behind it.
//! * **Admission**: what cannot be done by its deadline is refused at once, judged by the wait
//!   behind what is queued and by what a job is likely to take at most: at the bound every second
//!   job would end just after its deadline, and the HSM's work on it be lost. For the same reason a
//!   job is not begun that would be done too late while another one waits. While a lane is idle or
//!   nothing was measured everything is admitted: an estimate that only refusals could confirm
//!   never recovers.
//! * **Outage**: a lost session is mostly back within milliseconds, so jobs wait while no lane
//!   serves for up to [`SHORT_OUTAGE`]; then they are refused at once with the last fault, and
//!   those in the queue end at their deadlines.
//!
//! `policy` says which lane to wake and which queue to serve, `watch` what happens to lanes that
//! lose their sessions or hang.

mod estimate;
mod policy;
mod watch;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use estimate::{BATCH_TIME, STALE_AFTER, ServiceTime};
pub use policy::{HOME_RUN_MAX, WAKE_WAIT};
pub use watch::{BACKOFF, STALL_AFTER_MIN, Tick};

/// Without a serving lane for longer than this, jobs are refused at once. Half of the usual budget:
/// one immediate attempt to reopen and one after the first backoff fit in, and a job let in at its
/// end still has time to be served.
pub const SHORT_OUTAGE: Duration = Duration::from_millis(100);
/// What a wait may be longer than by the estimate: it is judged by averages, and the slots of a
/// queue are not exactly even.
const WAIT_MARGIN: f64 = 1.125;
/// Jobs past their deadline or cancelled handed out at once, so that the lock is not held for a
/// whole queue of them.
pub const LATE_AT_ONCE_MAX: usize = 64;

/// One lane: a place for a session, and which occupant of that place. Calls of an earlier occupant
/// (an abandoned lane) have no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneId {
    pub(super) slot: u32,
    pub(super) epoch: u32,
}

impl LaneId {
    /// Index of the lane's place, below [`Settings::lanes`].
    pub fn slot(self) -> usize {
        self.slot as usize
    }
}

/// Why a job is not taken on. All of them at once, without waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The shard's queue is at its bound.
    QueueFull,
    /// With what is queued already it would not be done by its deadline.
    CannotMakeIt,
    /// No session has been able to serve for a while; what the last failure said, for the
    /// operator's log.
    NoLanes(Option<Arc<str>>),
    /// The same, and calls into the key manager do not return.
    NoAnswer,
}

/// A queued job.
#[derive(Debug)]
pub struct Entry<J> {
    /// What the submitter gave.
    pub job: J,
    /// Whose queue it was in.
    pub shard: usize,
    /// By when it must be done.
    pub deadline: Instant,
    /// When it came.
    pub submitted: Instant,
}

/// What a lane is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Serve the jobs handed out, answer the late ones, then ask again.
    Work,
    /// Open a session and tell how it went.
    Open,
    /// Sleep until woken, or for so long.
    Park(Option<Duration>),
    /// Drop the session and end.
    Exit,
}

/// What a lane is to do next, and whom to wake.
#[derive(Clone, Copy, Debug)]
pub struct Next {
    /// For the asking lane.
    pub step: Step,
    /// Another lane that is needed.
    pub wake: Option<LaneId>,
}

/// What a lane did with the jobs it was handed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Jobs that were HSM work done to its end. Failed ones do not count: a lane that fails fast
    /// must not make the key manager look fast.
    pub served: u32,
    /// Time of those together.
    pub served_time: Duration,
}

/// Sizes and times of one key manager.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Shards that submit, at least 1.
    pub shards: usize,
    /// Lanes, at least 1.
    pub lanes: usize,
    /// Bound of each shard's queue.
    pub queue_max: usize,
    /// Sessions being opened at once.
    pub openings_max: usize,
    /// A lane whose jobs take longer is abandoned.
    pub hang_after: Duration,
    /// A lane that opens its session for longer is abandoned.
    pub open_hang_after: Duration,
    /// Abandoned lanes whose call has not returned, at most: at this bound a lane that hangs keeps
    /// its place.
    pub abandoned_max: usize,
    /// Of the jitter.
    pub seed: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// No thread, or none that is waited for.
    Vacant,
    /// No session; to be opened from then on.
    Closed {
        retry_at: Instant,
    },
    /// Waits for its turn to open.
    Queued,
    Opening {
        since: Instant,
    },
    Idle,
    /// Has a session and is on its way to ask for work.
    Awake,
    Busy {
        since: Instant,
        jobs: u32,
        stalled: bool,
    },
}

#[derive(Debug)]
struct Lane {
    epoch: u32,
    home: usize,
    state: State,
    /// Failures to get or keep a session since the last job served.
    failures: u32,
    /// Takes from the home queue in a row while others waited.
    home_run: u32,
}

/// How many lanes are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// With a session, nothing to do.
    pub idle: usize,
    /// With a session, about to ask for work.
    pub awake: usize,
    /// At work, within what is to be expected.
    pub busy: usize,
    /// At work for suspiciously long; not counted as serving.
    pub stalled: usize,
    /// Opening a session.
    pub opening: usize,
    /// Given up with a call that has not returned.
    pub abandoned: usize,
}

impl Counts {
    /// Lanes that serve or could at once.
    pub fn serving(&self) -> usize {
        self.idle + self.awake + self.busy
    }
}

/// Counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Admitted.
    pub jobs: u64,
    /// Dropped without an HSM call at their deadline, or when they would not have made it.
    pub late: u64,
    /// Dropped without an HSM call because nobody waited any more.
    pub cancelled: u64,
    /// Refused: the shard's queue was full.
    pub queue_full: u64,
    /// Refused: could not have made it.
    pub cannot_make_it: u64,
    /// Refused: no lane serves.
    pub no_lanes: u64,
    /// Lanes abandoned.
    pub abandoned: u64,
    /// Sessions opened again after a loss.
    pub reopened: u64,
}

/// Tells that nobody waits for a job any more.
pub type IsCancelled<J> = Box<dyn Fn(&Entry<J>) -> bool + Send>;

/// Queues, lanes and estimates of one key manager.
pub struct Core<J> {
    settings: Settings,
    is_cancelled: IsCancelled<J>,
    queues: Vec<VecDeque<Entry<J>>>,
    queued: usize,
    /// Shard at which the next steal starts looking.
    steal_from: usize,
    lanes: Vec<Lane>,
    /// Idle lanes by home shard, the last to become idle on top: its caches are the warmest.
    idle: Vec<Vec<u32>>,
    /// Lanes waiting for their turn to open, in order.
    turns: VecDeque<LaneId>,
    counts: Counts,
    home_serving: Vec<usize>,
    /// Since when no lane serves.
    outage: Option<Instant>,
    service: ServiceTime,
    last_fault: Option<(Arc<str>, Instant)>,
    totals: Totals,
    stopping: bool,
    random: u64,
}

impl<J> Core<J> {
    /// All lanes closed and due to open; start a thread for each of [`Core::lanes`].
    pub fn new(settings: Settings, is_cancelled: IsCancelled<J>, now: Instant) -> Core<J> {
        let shards = settings.shards.max(1);
        let lane = |slot| Lane {
            epoch: 0,
            home: slot % shards,
            state: State::Closed { retry_at: now },
            failures: 0,
            home_run: 0,
        };
        Core {
            queues: (0..shards).map(|_| VecDeque::new()).collect(),
            queued: 0,
            steal_from: 0,
            lanes: (0..settings.lanes).map(lane).collect(),
            idle: vec![Vec::new(); shards],
            turns: VecDeque::new(),
            counts: Counts::default(),
            home_serving: vec![0; shards],
            outage: Some(now),
            service: ServiceTime::default(),
            last_fault: None,
            totals: Totals::default(),
            stopping: false,
            random: settings.seed | 1,
            settings,
            is_cancelled,
        }
    }

    /// One more queue, which is no lane's home: for a submitter of a few jobs. Its index.
    pub fn add_guest(&mut self) -> usize {
        self.queues.push(VecDeque::new());
        self.idle.push(Vec::new());
        self.home_serving.push(0);
        self.queues.len() - 1
    }

    /// The lanes as they are now.
    pub fn lanes(&self) -> impl Iterator<Item = LaneId> + '_ {
        (0..self.lanes.len()).map(|slot| self.id(slot))
    }

    /// How many lanes are in which state.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Counted since the start.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Jobs waiting, by shard.
    pub fn queued(&self) -> impl Iterator<Item = usize> + '_ {
        self.queues.iter().map(VecDeque::len)
    }

    /// Measured time of one job on one session.
    pub fn service_time(&self) -> Option<Duration> {
        self.service.mean()
    }

    /// What the last lost, hung or refused session said, and when.
    pub fn last_fault(&self) -> Option<&(Arc<str>, Instant)> {
        self.last_fault.as_ref()
    }

    /// Takes a job on, or gives it back at once. Tells the lane that must be woken for it. What
    /// made no sense to queue any longer and stood in its way goes to `late`.
    pub fn submit(
        &mut self,
        shard: usize,
        job: J,
        deadline: Instant,
        now: Instant,
        late: &mut Vec<Entry<J>>,
    ) -> Result<Option<LaneId>, (Refused, J)> {
        let mut refusal = self.refusal(shard, deadline, now);
        if matches!(refusal, Some(Refused::QueueFull | Refused::CannotMakeIt)) {
            // For the sake of jobs that nobody waits for, maybe: they stay until a lane or a tick
            // comes.
            self.reap(now, late);
            if !late.is_empty() {
                refusal = self.refusal(shard, deadline, now);
            }
        }
        if let Some(refused) = refusal {
            match refused {
                Refused::QueueFull => self.totals.queue_full += 1,
                Refused::CannotMakeIt => self.totals.cannot_make_it += 1,
                Refused::NoLanes(_) | Refused::NoAnswer => self.totals.no_lanes += 1,
            }
            return Err((refused, job));
        }
        self.totals.jobs += 1;
        self.queues[shard].push_back(Entry { job, shard, deadline, submitted: now });
        self.queued += 1;
        Ok(self.wake_if_needed(shard, now))
    }

    fn refusal(&self, shard: usize, deadline: Instant, now: Instant) -> Option<Refused> {
        let Some(queue) = self.queues.get(shard) else {
            return Some(Refused::NoLanes(Some(Arc::from("no such shard"))));
        };
        if self.stopping {
            return Some(Refused::NoLanes(Some(Arc::from("stopping"))));
        }
        if self.is_out(now) {
            let hangs = self.counts.stalled + self.counts.abandoned > 0;
            return Some(if hangs {
                Refused::NoAnswer
            } else {
                Refused::NoLanes(self.last_fault.as_ref().map(|(fault, _)| fault.clone()))
            });
        }
        if deadline <= now
            || now.checked_add(self.likely_time(shard)).is_none_or(|done| done > deadline)
        {
            return Some(Refused::CannotMakeIt);
        }
        (queue.len() >= self.settings.queue_max).then_some(Refused::QueueFull)
    }

    /// Whether no lane has served for so long that jobs are refused.
    pub fn is_out(&self, now: Instant) -> bool {
        self.outage.is_some_and(|since| now.saturating_duration_since(since) >= SHORT_OUTAGE)
    }

    /// The time by which a job submitted now would hardly not be done.
    fn likely_time(&self, shard: usize) -> Duration {
        let serving = self.counts.serving();
        let (Some(service), true) = (self.service.mean(), self.counts.idle == 0 && serving > 0)
        else {
            return Duration::ZERO;
        };
        let own = self.queues[shard].len();
        let waiting_shards = self.queues.iter().filter(|queue| !queue.is_empty()).count();
        // Behind everybody's jobs at the worst; but queues are served in turn, and home lanes serve
        // their own shard's first.
        let mut ahead = self.queued.min(own * waiting_shards) as f64 / serving as f64;
        if self.home_serving[shard] > 0 {
            ahead = ahead.min(own as f64 / self.home_serving[shard] as f64);
        }
        service.mul_f64(ahead * WAIT_MARGIN) + self.service.likely_most()
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
        let ahead =
            if self.counts.idle > 0 { 0.0 } else { (self.queued + 1) as f64 / serving as f64 };
        Some(service.mul_f64(ahead + 1.0))
    }

    /// Since when no lane serves.
    pub fn outage(&self) -> Option<Instant> {
        self.outage
    }

    /// Puts a job back that a lane was handed and has not begun, at the head of its queue. Gives it
    /// back when there is no room.
    pub fn requeue(&mut self, entry: Entry<J>) -> Result<(), Entry<J>> {
        match self.queues.get_mut(entry.shard) {
            Some(queue) if queue.len() < self.settings.queue_max => {
                queue.push_front(entry);
                self.queued += 1;
                Ok(())
            }
            _ => Err(entry),
        }
    }

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

    /// `lane` did what it was handed; to be followed by [`Core::step`] or [`Core::lost`]. Ignored
    /// from an abandoned lane.
    pub fn finished(&mut self, lane: LaneId, report: Report, now: Instant) {
        let Some(slot) = self.current(lane) else { return };
        self.service.record(report.served, report.served_time, now);
        if report.served > 0 {
            self.lanes[slot].failures = 0;
        }
        self.set(slot, State::Awake, now);
    }

    /// Moves jobs that are past their deadline or cancelled from the heads of the queues to `late`,
    /// some at once.
    pub fn reap(&mut self, now: Instant, late: &mut Vec<Entry<J>>) {
        for shard in 0..self.queues.len() {
            while late.len() < LATE_AT_ONCE_MAX
                && self.queues[shard]
                    .front()
                    .is_some_and(|entry| entry.deadline <= now || (self.is_cancelled)(entry))
                && let Some(entry) = self.queues[shard].pop_front()
            {
                self.queued -= 1;
                self.count_dropped(&entry, now);
                late.push(entry);
            }
        }
    }

    fn count_dropped(&mut self, entry: &Entry<J>, now: Instant) {
        let cancelled = entry.deadline > now && (self.is_cancelled)(entry);
        let total = if cancelled { &mut self.totals.cancelled } else { &mut self.totals.late };
        *total += 1;
    }

    /// From now on nothing is admitted, and lanes end when the queues are empty. All lanes must be
    /// woken.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    fn id(&self, slot: usize) -> LaneId {
        LaneId { slot: slot as u32, epoch: self.lanes[slot].epoch }
    }

    /// The place of `lane`; none when the lane was abandoned.
    fn current(&self, lane: LaneId) -> Option<usize> {
        self.lanes.get(lane.slot()).is_some_and(|l| l.epoch == lane.epoch).then(|| lane.slot())
    }

    /// The one place where a lane's state changes: counts, idle stacks and the outage follow it.
    fn set(&mut self, slot: usize, state: State, now: Instant) {
        let home = self.lanes[slot].home;
        let old = std::mem::replace(&mut self.lanes[slot].state, state);
        if matches!(old, State::Idle) {
            // Nearly always the top: lanes are woken from there.
            if let Some(at) = self.idle[home].iter().rposition(|&s| s as usize == slot) {
                self.idle[home].remove(at);
            }
        }
        if matches!(state, State::Idle) {
            self.idle[home].push(slot as u32);
        }
        if let Some(count) = self.count_of(old) {
            *count -= 1;
        }
        if let Some(count) = self.count_of(state) {
            *count += 1;
        }
        self.home_serving[home] += usize::from(state.serves());
        self.home_serving[home] -= usize::from(old.serves());
        self.outage = if self.counts.serving() > 0 { None } else { self.outage.or(Some(now)) };
    }

    fn count_of(&mut self, state: State) -> Option<&mut usize> {
        match state {
            State::Vacant | State::Closed { .. } | State::Queued => None,
            State::Opening { .. } => Some(&mut self.counts.opening),
            State::Idle => Some(&mut self.counts.idle),
            State::Awake => Some(&mut self.counts.awake),
            State::Busy { stalled: false, .. } => Some(&mut self.counts.busy),
            State::Busy { stalled: true, .. } => Some(&mut self.counts.stalled),
        }
    }
}

impl State {
    fn serves(self) -> bool {
        matches!(self, State::Idle | State::Awake | State::Busy { stalled: false, .. })
    }
}
