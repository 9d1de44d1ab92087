//! A job through the scheduler: its decisions, and the way to a lane's thread and back.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use futures_util::future::join_all;
use xksd::key_manager::{Job, KeyRef, Task};
use xksd::limits::{QUEUE_JOBS_A_SHARD_MAX, SESSION_OPENINGS_MAX};
use xksd::sched::model::{LaneId, Report, Scheduler, Settings, Step};
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
            let (mut core, mut batch, mut late) = (opened(lanes, now), VecDeque::new(), Vec::new());
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

async fn describe(inbox: &Rc<Inbox>, pool: &Pool) {
    let job =
        Job { key: KeyRef::first(KEY_ID), task: Task::Describe, deadline: Instant::now() + LONG };
    let Ok(ticket) = inbox.submit(pool, Share::OWN, job) else { panic!("refused") };
    ticket.await.outcome.expect("described");
}

/// A core whose lanes all have their session and nothing to do.
fn opened(lanes: usize, now: Instant) -> Scheduler<()> {
    let settings = Settings {
        shards: 1,
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
