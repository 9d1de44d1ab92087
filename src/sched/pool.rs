//! The lanes of one key manager, and the lock around its scheduler.
//!
//! One mutex a key manager, held for about 100 ns a submission and as much a batch: at the 10⁴
//! jobs/s an HSM tops out at it is held for some tenths of a percent of the time, so a shard
//! practically never waits for it. No session is called, no job dropped and no thread woken under
//! it.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::lane;
use super::lane_slot::{LaneSlot, Work};
use super::mailbox::{JobId, Mailbox};
use super::model::{Counts, Entry, LaneId, Refused, Scheduler, Settings, Share, Tick, Totals};
use super::shared::Shared;
use super::snapshot::{Snapshot, SnapshotCell};
use super::sync::{self, Builder, Condvar, Mutex};
use crate::key_manager::{Concurrency, Engine, Job};
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
    pub is_unavailable: bool,
    /// Since the start.
    pub abandoned_total: u64,
    /// Since the start.
    pub sessions_reopened_total: u64,
    /// Jobs waiting, by shard.
    pub queued: Vec<usize>,
    /// Refused because the shard's queue was full.
    pub refused_queue_full_total: u64,
    /// Refused because they could not have made their deadline.
    pub refused_deadline_unreachable_total: u64,
    /// Refused because no session could serve.
    pub refused_no_session_total: u64,
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
pub fn sessions_opened(wanted: usize, concurrency: Concurrency) -> usize {
    let useful = match concurrency {
        Concurrency::PerSession => wanted,
        Concurrency::PerCore => std::thread::available_parallelism().map_or(1, usize::from),
        Concurrency::Single => 1,
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
        let lanes = sessions_opened(settings.lanes, engine.concurrency());
        let boxes = mailboxes.clone();
        let now = sync::now();
        let mut scheduler = Scheduler::new(
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
            Box::new(move |entry: &Entry<Work>| boxes[entry.shard].is_cancelled(entry.job.id)),
            now,
        );
        for _ in settings.shards..mailboxes.len() {
            scheduler.add_guest();
        }
        let start: Vec<LaneId> = scheduler.lanes().collect();
        let shared = Arc::new(Shared {
            scheduler: Mutex::new(scheduler),
            snapshot: SnapshotCell::new(now),
            slots: (0..lanes).map(|_| LaneSlot::default()).collect(),
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
        self.shared.slots.len()
    }

    pub(super) fn submit(
        &self,
        shard: usize,
        id: JobId,
        share: Share,
        job: Job,
        now: Instant,
    ) -> Result<(), Box<(Refused, Job)>> {
        let deadline = job.deadline;
        let mut scheduler = self.shared.scheduler();
        let mut late = Vec::new();
        let submitted = scheduler.submit(shard, share, Work { job, id }, deadline, now, &mut late);
        drop(scheduler);
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
        self.shared.scheduler().tick(now, &mut tick);
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
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        self.shared.snapshot.get(now)
    }

    /// This moment's figures.
    pub fn stats(&self) -> PoolStats {
        let scheduler = self.shared.scheduler();
        let (Counts { idle, awake, busy, stalled, abandoned, .. }, totals) =
            (scheduler.counts(), scheduler.totals());
        let Totals {
            jobs,
            late,
            cancelled,
            queue_full,
            deadline_unreachable,
            no_session,
            abandoned: abandoned_total,
            reopened,
        } = totals;
        PoolStats {
            lanes_configured: self.lanes(),
            lanes_open: idle + awake + busy + stalled,
            lanes_busy: busy + stalled,
            lanes_hung: stalled + abandoned,
            is_unavailable: scheduler.is_unavailable(sync::now()),
            abandoned_total,
            sessions_reopened_total: reopened,
            queued: scheduler.queued().take(self.settings.shards).collect(),
            refused_queue_full_total: queue_full,
            refused_deadline_unreachable_total: deadline_unreachable,
            refused_no_session_total: no_session,
            late_total: late,
            cancelled_total: cancelled,
            jobs_total: jobs,
            last_fault: scheduler.last_fault().map(|(fault, _)| fault.as_ref().to_owned()),
            last_fault_at: scheduler.last_fault().map(|(_, at)| *at),
            service_time_ewma: scheduler.service_time(),
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
            // They have reported their end; what remains is the thread's own exit. The hook has
            // logged a panic.
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
            let wake = self.0.scheduler().exited(self.1, sync::now());
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

fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
