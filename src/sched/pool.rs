//! The lanes of one key manager, and the lock around its core.
//!
//! One mutex a key manager, held for about 100 ns a submission and as much a batch: at the 10⁴
//! jobs/s an HSM tops out at it is held for some tenths of a percent of the time, so a shard
//! practically never waits for it. No session is called, no job dropped and no thread woken under
//! it.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::gauge::{Condition, Gauge};
use super::inbox::{Delivered, Mailbox, Token};
use super::lane::{self, Desk, Work};
use super::model::{Core, Counts, Entry, LaneId, Refused, Report, Settings, Tick, Totals};
use super::sync::{self, Builder, Condvar, JoinHandle, Mutex, MutexGuard};
use crate::key_manager::{Engine, Job, Runs};
use crate::limits::{
    ABANDONED_LANES_PER_SESSION_MAX, QUEUE_JOBS_A_SHARD_MAX, SESSION_OPENINGS_MAX,
};

/// Stack of a lane's thread, bytes. Vendors' modules put buffers on it; pages that are not touched
/// cost address space only.
const LANE_STACK_BYTES: usize = 512 * 1024;

/// Of one key manager's pool.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// The key manager's name; threads are called `xksd-<name>-<lane>`.
    pub name: String,
    /// Sessions wanted. With an in-process engine no more than the cores this process may use are
    /// opened: see [`Pool::lanes`].
    pub lanes: usize,
    /// Shards that submit, each with a mailbox. The mailboxes beyond are those of guests, who
    /// submit a few jobs and are no lane's home.
    pub shards: usize,
    /// A lane whose call takes longer is abandoned and replaced.
    pub hang_after: Duration,
    /// As `hang_after`, of opening a session with its login.
    pub open_hang_after: Duration,
}

/// What the lanes share.
pub(super) struct Shared {
    core: Mutex<Core<Work>>,
    gauge: Gauge,
    desks: Vec<Desk>,
    pub(super) mailboxes: Vec<Arc<Mailbox>>,
    pub(super) engine: Arc<dyn Engine>,
    threads: Mutex<Threads>,
    thread_ended: Condvar,
}

#[derive(Default)]
struct Threads {
    /// Those that have not told their end.
    running: usize,
    handles: Vec<JoinHandle<()>>,
}

/// One key manager's queues and lanes. Dropped without [`Pool::stop`], its lanes end by themselves
/// when the queues are empty.
pub struct Pool {
    shared: Arc<Shared>,
    settings: PoolSettings,
    /// Reused by [`Pool::tick`].
    tick: Mutex<Tick<Work>>,
}

/// A pool at one moment, for metrics and status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Lanes this pool keeps.
    pub lanes_configured: usize,
    /// With a session, whether idle or at work.
    pub lanes_open: usize,
    /// At work.
    pub lanes_busy: usize,
    /// In a call for suspiciously long, or abandoned with a call that has not returned.
    pub lanes_hung: usize,
    /// No lane serves, and has not for so long that jobs are refused.
    pub is_out: bool,
    /// Since the start.
    pub abandoned_total: u64,
    /// Since the start.
    pub sessions_reopened_total: u64,
    /// Jobs waiting, by shard.
    pub queued: Vec<usize>,
    /// Refused because the shard's queue was full.
    pub refused_queue_full_total: u64,
    /// Refused because they could not have made their deadline.
    pub refused_cannot_make_it_total: u64,
    /// Refused because no session could serve.
    pub refused_no_lanes_total: u64,
    /// Dropped at their deadline without an HSM call.
    pub late_total: u64,
    /// Dropped without an HSM call before its deadline because nobody waited any more.
    pub cancelled_total: u64,
    /// Admitted.
    pub jobs_total: u64,
    /// What the last lost, hung or refused session said.
    pub last_fault: Option<String>,
    /// When it said so.
    pub last_fault_at: Option<Instant>,
    /// Measured time of one job on one session.
    pub service_time_ewma: Option<Duration>,
}

/// How many of the sessions that are wanted are opened: of those that compute in this process, not
/// more than do any good.
pub fn sessions_opened(wanted: usize, runs: Runs) -> usize {
    let useful = match runs {
        Runs::Elsewhere => wanted,
        Runs::InProcess => std::thread::available_parallelism().map_or(1, usize::from),
        Runs::InProcessAlone => 1,
    };
    wanted.min(useful).max(1)
}

impl Pool {
    /// Starts the lanes; their sessions open in the background, a few at once, and serve from the
    /// first on. One mailbox a shard, in order.
    pub fn start(
        settings: PoolSettings,
        engine: Arc<dyn Engine>,
        mailboxes: Vec<Arc<Mailbox>>,
    ) -> Arc<Pool> {
        let lanes = sessions_opened(settings.lanes, engine.runs());
        let boxes = mailboxes.clone();
        let now = sync::now();
        let mut core = Core::new(
            Settings {
                shards: mailboxes.len().min(settings.shards),
                lanes,
                queue_max: QUEUE_JOBS_A_SHARD_MAX,
                openings_max: SESSION_OPENINGS_MAX,
                hang_after: settings.hang_after,
                open_hang_after: settings.open_hang_after,
                abandoned_max: lanes * ABANDONED_LANES_PER_SESSION_MAX,
                seed: seed(),
            },
            Box::new(move |entry: &Entry<Work>| boxes[entry.shard].is_cancelled(entry.job.token)),
            now,
        );
        for _ in settings.shards..mailboxes.len() {
            core.add_guest();
        }
        let start: Vec<LaneId> = core.lanes().collect();
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            gauge: Gauge::new(now),
            desks: (0..lanes).map(|_| Desk::default()).collect(),
            mailboxes,
            engine,
            threads: Mutex::default(),
            thread_ended: Condvar::new(),
        });
        let pool = Arc::new(Pool { shared, settings, tick: Mutex::default() });
        for lane in start {
            pool.start_lane(lane);
        }
        pool
    }

    /// The key manager's name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Lanes this pool keeps: what was configured, or fewer with an in-process engine.
    pub fn lanes(&self) -> usize {
        self.shared.desks.len()
    }

    pub(super) fn submit(
        &self,
        shard: usize,
        token: Token,
        job: Job,
        now: Instant,
    ) -> Result<(), Box<(Refused, Job)>> {
        let deadline = job.deadline;
        let mut core = self.shared.core();
        let mut late = Vec::new();
        let submitted = core.submit(shard, Work { job, token }, deadline, now, &mut late);
        drop(core);
        self.shared.answer_late(&mut late);
        let wake = submitted.map_err(|(refused, work)| Box::new((refused, work.job)))?;
        if let Some(lane) = wake {
            self.shared.wake(lane);
        }
        Ok(())
    }

    /// To be called by the control thread every 50 ms or so. Lanes that hang in a call are
    /// abandoned and replaced up to a bound; the jobs they have not begun go to others. The job
    /// that hangs is answered by its shard's [`Inbox::expire`](super::Inbox::expire).
    pub fn tick(&self, now: Instant) {
        let mut tick = self.tick.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.core().tick(now, &mut tick);
        for lane in tick.stalled.drain(..) {
            self.shared.give_back(lane, now, &mut VecDeque::new());
        }
        for lane in tick.wake.drain(..) {
            self.shared.wake(lane);
        }
        for lane in tick.start.drain(..) {
            self.start_lane(lane);
        }
        self.shared.answer_late(&mut tick.late);
    }

    /// How it stands just now, without the lock.
    pub fn condition(&self, now: Instant) -> Condition {
        self.shared.gauge.get(now)
    }

    /// This moment's figures.
    pub fn stats(&self) -> PoolStats {
        let core = self.shared.core();
        let (Counts { idle, awake, busy, stalled, abandoned, .. }, totals) =
            (core.counts(), core.totals());
        let Totals {
            jobs,
            late,
            cancelled,
            queue_full,
            cannot_make_it,
            no_lanes,
            abandoned: abandoned_total,
            reopened,
        } = totals;
        PoolStats {
            lanes_configured: self.lanes(),
            lanes_open: idle + awake + busy + stalled,
            lanes_busy: busy + stalled,
            lanes_hung: stalled + abandoned,
            is_out: core.is_out(sync::now()),
            abandoned_total,
            sessions_reopened_total: reopened,
            queued: core.queued().take(self.settings.shards).collect(),
            refused_queue_full_total: queue_full,
            refused_cannot_make_it_total: cannot_make_it,
            refused_no_lanes_total: no_lanes,
            late_total: late,
            cancelled_total: cancelled,
            jobs_total: jobs,
            last_fault: core.last_fault().map(|(fault, _)| fault.as_ref().to_owned()),
            last_fault_at: core.last_fault().map(|(_, at)| *at),
            service_time_ewma: core.service_time(),
        }
    }

    /// Admits nothing more, lets the lanes serve what is queued, close their sessions and end. True
    /// when all have by the deadline; false when a thread is still inside the key manager's
    /// library, which then must be neither finalized nor unloaded.
    pub fn stop(&self, deadline: Instant) -> bool {
        self.shared.stop();
        let mut threads = self.shared.threads();
        while threads.running > 0 {
            let left = deadline.saturating_duration_since(sync::now());
            if left.is_zero() {
                break;
            }
            (threads, _) = self
                .shared
                .thread_ended
                .wait_timeout(threads, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let all = threads.running == 0;
        let handles = if all { std::mem::take(&mut threads.handles) } else { Vec::new() };
        drop(threads);
        for handle in handles {
            // They have told their end; what remains is the thread's own exit. A panic was told by
            // the hook.
            let _ = handle.join();
        }
        all
    }

    fn start_lane(&self, lane: LaneId) {
        let shared = self.shared.clone();
        let builder = Builder::new().name(format!("xksd-{}-{}", self.settings.name, lane.slot()));
        let mut threads = self.shared.threads();
        threads.handles.retain(|handle| !handle.is_finished());
        match builder.stack_size(LANE_STACK_BYTES).spawn(move || lane_thread(&shared, lane)) {
            Ok(handle) => {
                threads.handles.push(handle);
                threads.running += 1;
            }
            Err(error) => {
                drop(threads);
                self.shared.no_thread(lane, &error);
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

fn lane_thread(shared: &Shared, lane: LaneId) {
    /// Runs also when the lane unwinds, so that its place is filled again and [`Pool::stop`] does
    /// not wait for it.
    struct End<'a>(&'a Shared, LaneId);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.give_back(self.1, sync::now(), &mut VecDeque::new());
            let wake = self.0.core().exited(self.1, sync::now());
            if let Some(other) = wake {
                self.0.wake(other);
            }
            self.0.threads().running -= 1;
            self.0.thread_ended.notify_all();
        }
    }
    let _end = End(shared, lane);
    lane::run(shared, lane);
}

/// The core under its lock; the gauge follows when it is let go.
pub(super) struct Locked<'a> {
    core: MutexGuard<'a, Core<Work>>,
    gauge: &'a Gauge,
}

impl Deref for Locked<'_> {
    type Target = Core<Work>;

    fn deref(&self) -> &Core<Work> {
        &self.core
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Core<Work> {
        &mut self.core
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.gauge.set(&self.core);
    }
}

impl Shared {
    pub(super) fn core(&self) -> Locked<'_> {
        Locked {
            core: self.core.lock().unwrap_or_else(PoisonError::into_inner),
            gauge: &self.gauge,
        }
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn desk(&self, lane: LaneId) -> &Desk {
        &self.desks[lane.slot()]
    }

    pub(super) fn wake(&self, lane: LaneId) {
        self.desk(lane).wake();
    }

    /// Jobs that nobody can do in time any more: their shards have answered them, or do now.
    pub(super) fn answer_late(&self, late: &mut Vec<Entry<Work>>) {
        if late.is_empty() {
            return;
        }
        let now = sync::now();
        for Entry { job: Work { job, token }, shard, submitted, deadline } in late.drain(..) {
            drop(job);
            self.mailboxes[shard].post(token, Delivered::not_begun(submitted, deadline, now));
            self.mailboxes[shard].wake();
        }
    }

    /// `lane` lost its session after it did what `report` says; it has not begun with `rest`.
    pub(super) fn lost(
        &self,
        lane: LaneId,
        report: Report,
        fault: Arc<str>,
        rest: &mut VecDeque<Entry<Work>>,
    ) {
        let now = sync::now();
        {
            let mut core = self.core();
            core.finished(lane, report, now);
            core.lost(lane, fault, now);
        }
        self.give_back(lane, now, rest);
    }

    /// Puts `rest` and what `lane` holds and has not begun back to the heads of the queues, and
    /// wakes whom they need.
    fn give_back(&self, lane: LaneId, now: Instant, rest: &mut VecDeque<Entry<Work>>) {
        rest.append(&mut self.desk(lane).take_held(lane));
        let (mut wake, mut no_room) = (Vec::new(), Vec::new());
        {
            let mut core = self.core();
            // From the back, so that the oldest is at the head again.
            while let Some(entry) = rest.pop_back() {
                no_room.extend(core.requeue(entry).err());
            }
            core.wake_all_needed(now, &mut wake);
        }
        for other in wake {
            self.wake(other);
        }
        self.answer_late(&mut no_room);
    }

    fn no_thread(&self, lane: LaneId, error: &std::io::Error) {
        let now = sync::now();
        let wake = {
            let mut core = self.core();
            let wake =
                core.open_failed(lane, Arc::from(format!("no thread for a session: {error}")), now);
            core.exited(lane, now);
            wake
        };
        if let Some(other) = wake {
            self.wake(other);
        }
    }

    fn stop(&self) {
        self.core().stop();
        self.desks.iter().for_each(Desk::wake);
    }
}

fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
