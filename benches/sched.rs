//! A job through the scheduler: its decisions, and the way to a lane's thread and back.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use futures_util::future::join_all;
use xksd::key_manager::{Job, KeyRef, Task};
use xksd::limits::{QUEUE_JOBS_A_SHARD_MAX, SESSION_OPENINGS_MAX};
use xksd::sched::model::{Entry, LaneId, Report, Scheduler, Settings, Step};
use xksd::sched::{Inbox, Mailbox, Pool, Share};

use crate::fixture::{KEY_ID, block_on, pool, waker};

/// What a network HSM takes for a job: every job then wakes a lane.
const SERVICE: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(60);

pub fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("sched");
    for lanes in [1, 64] {
        group.bench_function(format!("model, submit to outcome, {lanes} lanes"), |b| {
            let mut now = Instant::now();
            let mut core = opened(lanes, 1, now);
            let (mut batch, mut late) = (VecDeque::new(), Vec::new());
            b.iter(|| {
                now += SERVICE;
                let lane = core
                    .submit(0, Share::OWN, (), now + LONG, now, &mut late)
                    .expect("admitted")
                    .expect("a lane is idle");
                assert!(matches!(core.step(lane, now, &mut batch, &mut late).step, Step::Work));
                batch.clear();
                core.finished(lane, Report { served: 1, served_time: SERVICE }, now);
                assert!(matches!(core.step(lane, now, &mut batch, &mut late).step, Step::Park(_)));
            });
        });
    }

    for (lanes, shards) in [(64, 2), (1024, 64)] {
        group.bench_function(format!("model, all of {lanes} lanes busy, {shards} shards"), |b| {
            let mut busy = Busy::new(lanes, shards);
            b.iter(|| busy.job());
        });
        group.bench_function(
            format!(
                "model and lock, all of {lanes} lanes busy, {shards} shards, two cores in turn"
            ),
            |b| b.iter_custom(|jobs| in_turn(jobs, &Mutex::new(Busy::new(lanes, shards)))),
        );
    }

    // A key manager in this process, describing a key: next to no work, so that what is seen is the
    // hand-over.
    let mailbox = Mailbox::new();
    let (inbox, pool) = (Inbox::new(0, mailbox.clone()), pool(&mailbox));
    let waker = waker();
    for in_flight in [1, 64] {
        group.throughput(Throughput::Elements(in_flight));
        group.bench_function(format!("lane hand-over, {in_flight} in flight"), |b| {
            b.iter(|| {
                block_on(&inbox, &waker, join_all((0..in_flight).map(|_| describe(&inbox, &pool))))
            });
        });
    }
}

/// A scheduler with all lanes at work and as many jobs waiting.
struct Busy {
    core: Scheduler<()>,
    lanes: Vec<LaneId>,
    shards: usize,
    now: Instant,
    jobs: usize,
    batch: VecDeque<Entry<()>>,
    late: Vec<Entry<()>>,
}

impl Busy {
    fn new(lanes: usize, shards: usize) -> Busy {
        let now = Instant::now();
        let core = opened(lanes, shards, now);
        let ids = core.lanes().collect();
        let (batch, late) = (VecDeque::new(), Vec::new());
        let mut busy = Busy { core, lanes: ids, shards, now, jobs: 0, batch, late };
        for job in 0..2 * lanes {
            if let Some(lane) = busy.submit(job) {
                step(&mut busy.core, lane, now);
            }
        }
        busy
    }

    fn submit(&mut self, job: usize) -> Option<LaneId> {
        let deadline = self.now + LONG;
        self.core
            .submit(job % self.shards, Share::OWN, (), deadline, self.now, &mut self.late)
            .expect("admitted")
    }

    /// A job comes, and a lane is done with one and takes the next.
    fn job(&mut self) {
        self.jobs += 1;
        self.now += SERVICE / self.lanes.len() as u32;
        self.submit(self.jobs);
        let lane = self.lanes[self.jobs % self.lanes.len()];
        self.core.finished(lane, Report { served: 1, served_time: SERVICE }, self.now);
        let next = self.core.step(lane, self.now, &mut self.batch, &mut self.late).step;
        assert!(matches!(next, Step::Work));
        self.batch.clear();
    }
}

/// Two threads that do a job in turn: what the holder of a lock works with was in the other core's
/// cache.
fn in_turn(jobs: u64, busy: &Mutex<Busy>) -> Duration {
    let turn = AtomicU64::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let turn = &turn;
            scope.spawn(move || {
                for job in (thread..jobs).step_by(2) {
                    while turn.load(Ordering::Acquire) != job {
                        std::hint::spin_loop();
                    }
                    busy.lock().expect("not poisoned").job();
                    turn.store(job + 1, Ordering::Release);
                }
            });
        }
    });
    begin.elapsed()
}

async fn describe(inbox: &Rc<Inbox>, pool: &Pool) {
    let job =
        Job { key: KeyRef::first(KEY_ID), task: Task::Describe, deadline: Instant::now() + LONG };
    let Ok(ticket) = inbox.submit(pool, Share::OWN, job) else { panic!("refused") };
    ticket.await.outcome.expect("described");
}

/// A core whose lanes all have their session and nothing to do.
fn opened(lanes: usize, shards: usize, now: Instant) -> Scheduler<()> {
    let settings = Settings {
        shards,
        lanes,
        queue_max: QUEUE_JOBS_A_SHARD_MAX,
        openings_max: SESSION_OPENINGS_MAX,
        hang_after: LONG,
        open_hang_after: LONG,
        abandoned_max: lanes,
        seed: 1,
    };
    let mut core = Scheduler::new(settings, Box::new(|_| false), now);
    let lanes: Vec<LaneId> = core.lanes().collect();
    for lane in lanes {
        assert_eq!(step(&mut core, lane, now), Step::Open);
        core.opened(lane, now);
        assert!(matches!(step(&mut core, lane, now), Step::Park(_)));
    }
    core
}

fn step(core: &mut Scheduler<()>, lane: LaneId, now: Instant) -> Step {
    core.step(lane, now, &mut VecDeque::new(), &mut Vec::new()).step
}
