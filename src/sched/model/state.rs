//! What the scheduler of one key manager keeps: its queues, lanes and counts, and the words in
//! which callers speak with it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::estimate::ServiceTime;
use super::queues::{Entry, Queues};

/// Without a serving lane for longer than this, jobs are refused at once. Half of the usual budget:
/// one immediate attempt to reopen and one after the first backoff fit in, and a job let in at its
/// end still has time to be served.
pub const SHORT_OUTAGE: Duration = Duration::from_millis(100);

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
    DeadlineUnreachable,
    /// No session has been able to serve for a while; what the last failure said, for the
    /// operator's log.
    NoSession(Option<Arc<str>>),
    /// The same, and calls into the key manager do not return.
    Hung,
}

/// What a lane is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Serve the jobs handed out, answer the late ones, then ask again.
    Work,
    /// Open a session and report how it went.
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
pub(super) enum State {
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

#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) epoch: u32,
    pub(super) home: usize,
    pub(super) state: State,
    /// Failures to get or keep a session since the last job served.
    pub(super) failures: u32,
    /// Takes from the home queue in a row while others waited.
    pub(super) home_run: u32,
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
    pub deadline_unreachable: u64,
    /// Refused: no lane serves.
    pub no_session: u64,
    /// Lanes abandoned.
    pub abandoned: u64,
    /// Sessions opened again after a loss.
    pub reopened: u64,
}

/// Tells that nobody waits for a job any more.
pub type IsCancelled<J> = Box<dyn Fn(&Entry<J>) -> bool + Send>;

/// Queues, lanes and estimates of one key manager.
pub struct Scheduler<J> {
    pub(super) settings: Settings,
    pub(super) is_cancelled: IsCancelled<J>,
    pub(super) queues: Queues<J>,
    /// Shard at which the next steal starts looking.
    pub(super) steal_from: usize,
    pub(super) lanes: Vec<Lane>,
    /// Idle lanes by home shard, the last to become idle on top: its caches are the warmest.
    pub(super) idle: Vec<Vec<u32>>,
    /// Lanes waiting for their turn to open, in order.
    pub(super) turns: VecDeque<LaneId>,
    pub(super) counts: Counts,
    pub(super) home_serving: Vec<usize>,
    /// Since when no lane serves.
    pub(super) outage: Option<Instant>,
    pub(super) service: ServiceTime,
    pub(super) last_fault: Option<(Arc<str>, Instant)>,
    pub(super) totals: Totals,
    pub(super) stopping: bool,
    pub(super) random: u64,
}

impl<J> Scheduler<J> {
    /// All lanes closed and due to open; start a thread for each of [`Scheduler::lanes`].
    pub fn new(settings: Settings, is_cancelled: IsCancelled<J>, now: Instant) -> Scheduler<J> {
        let shards = settings.shards.max(1);
        let lane = |slot| Lane {
            epoch: 0,
            home: slot % shards,
            state: State::Closed { retry_at: now },
            failures: 0,
            home_run: 0,
        };
        Scheduler {
            queues: Queues::new(shards),
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

    /// The same once more, for who tries out all that can follow. Nothing in it is cancelled.
    #[cfg(test)]
    pub(crate) fn twin(&self) -> Scheduler<J>
    where
        J: Clone,
    {
        Scheduler {
            settings: self.settings.clone(),
            is_cancelled: Box::new(|_| false),
            queues: self.queues.clone(),
            lanes: self.lanes.clone(),
            idle: self.idle.clone(),
            turns: self.turns.clone(),
            home_serving: self.home_serving.clone(),
            service: self.service.clone(),
            last_fault: self.last_fault.clone(),
            ..*self
        }
    }

    /// One more queue, which is no lane's home: for a submitter of a few jobs. Its index.
    pub fn add_guest(&mut self) -> usize {
        self.queues.add_shard();
        self.idle.push(Vec::new());
        self.home_serving.push(0);
        self.idle.len() - 1
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
        self.queues.lens()
    }

    /// Measured time of one job on one session.
    pub fn service_time(&self) -> Option<Duration> {
        self.service.mean()
    }

    /// What the last lost, hung or refused session said, and when.
    pub fn last_fault(&self) -> Option<&(Arc<str>, Instant)> {
        self.last_fault.as_ref()
    }

    /// From now on nothing is admitted, and lanes end when the queues are empty. All lanes must be
    /// woken.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    pub(super) fn id(&self, slot: usize) -> LaneId {
        LaneId { slot: slot as u32, epoch: self.lanes[slot].epoch }
    }

    /// The place of `lane`; none when the lane was abandoned.
    pub(super) fn current(&self, lane: LaneId) -> Option<usize> {
        self.lanes.get(lane.slot()).is_some_and(|l| l.epoch == lane.epoch).then(|| lane.slot())
    }

    /// The one place where a lane's state changes: counts, idle stacks and the outage follow it.
    pub(super) fn set(&mut self, slot: usize, state: State, now: Instant) {
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
    pub(super) fn serves(self) -> bool {
        matches!(self, State::Idle | State::Awake | State::Busy { stalled: false, .. })
    }
}
