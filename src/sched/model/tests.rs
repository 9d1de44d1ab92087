use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn us(n: u64) -> Duration {
    Duration::from_micros(n)
}

/// Nobody waits for jobs of this number.
const CANCELLED: u32 = 666;

/// A scheduler with a clock and the buffers of its lanes.
struct Rig {
    scheduler: Scheduler<u32>,
    now: Instant,
    out: VecDeque<Entry<u32>>,
    late: Vec<Entry<u32>>,
}

impl Rig {
    fn new(shards: usize, lanes: usize) -> Rig {
        let now = Instant::now();
        let settings = Settings {
            shards,
            lanes,
            queue_max: 8,
            openings_max: 2,
            hang_after: ms(500),
            open_hang_after: ms(3000),
            abandoned_max: 2 * lanes,
            seed: 7,
        };
        Rig {
            scheduler: Scheduler::new(settings, Box::new(|entry| entry.job == CANCELLED), now),
            now,
            out: VecDeque::new(),
            late: Vec::new(),
        }
    }

    /// With all lanes idle, opened in order of their places.
    fn open(shards: usize, lanes: usize) -> Rig {
        let mut rig = Rig::new(shards, lanes);
        for lane in rig.lanes() {
            assert_eq!(rig.step(lane), Step::Open);
            rig.scheduler.opened(lane, rig.now);
            assert_eq!(rig.step(lane), Step::Park(None));
        }
        rig
    }

    fn measured(shards: usize, lanes: usize, service: Duration) -> Rig {
        let mut rig = Rig::open(shards, lanes);
        rig.scheduler.service.record(16, service * 16, rig.now);
        rig
    }

    fn lanes(&self) -> Vec<LaneId> {
        self.scheduler.lanes().collect()
    }

    fn step(&mut self, lane: LaneId) -> Step {
        self.next(lane).step
    }

    fn next(&mut self, lane: LaneId) -> Next {
        self.out.clear();
        self.late.clear();
        self.scheduler.step(lane, self.now, &mut self.out, &mut self.late)
    }

    fn submit(&mut self, shard: usize, job: u32) -> Result<Option<LaneId>, Refused> {
        self.scheduler
            .submit(
                shard,
                Share::of_key_store(0, 1),
                job,
                self.now + ms(200),
                self.now,
                &mut self.late,
            )
            .map_err(|(refused, _)| refused)
    }

    fn jobs(&self) -> Vec<u32> {
        self.out.iter().map(|entry| entry.job).collect()
    }

    fn tick(&mut self) -> Tick<u32> {
        let mut tick = Tick::default();
        self.scheduler.tick(self.now, &mut tick);
        tick
    }
}

#[test]
fn every_job_of_a_slow_or_unknown_hsm_wakes_a_lane() {
    for mut rig in [Rig::open(2, 4), Rig::measured(2, 4, ms(1))] {
        let woken: Vec<usize> =
            (0..5).filter_map(|job| rig.submit(0, job).unwrap()).map(LaneId::slot).collect();
        // Home lanes first, the last to become idle first; then the others.
        assert_eq!(woken, [2, 0, 3, 1]);
    }
}

#[test]
fn a_fast_hsm_wakes_a_second_lane_only_for_a_wait_worth_it() {
    let mut rig = Rig::measured(1, 4, us(42));
    assert!(rig.submit(0, 0).unwrap().is_some());
    assert_eq!(rig.submit(0, 1).unwrap(), None);
    // Three jobs: 126 µs for one lane.
    assert!(rig.submit(0, 2).unwrap().is_some());
    assert_eq!(rig.submit(0, 3).unwrap(), None);
}

#[test]
fn a_lane_that_does_not_come_back_is_not_waited_for() {
    let mut rig = Rig::measured(1, 2, us(42));
    let lane = rig.submit(0, 0).unwrap().unwrap();
    assert_eq!(rig.step(lane), Step::Work);
    assert_eq!(rig.submit(0, 1).unwrap(), None, "42 µs more are worth no wake");
    rig.now += ms(1);
    assert_eq!(rig.tick().wake.len(), 1);
}

#[test]
fn batches_are_short_and_leave_work_to_lanes_that_should_be_awake() {
    let mut rig = Rig::measured(1, 1, us(42));
    let lane = rig.submit(0, 0).unwrap().unwrap();
    (1..8).for_each(|job| assert_eq!(rig.submit(0, job).unwrap(), None));
    assert_eq!(rig.step(lane), Step::Work);
    assert_eq!(rig.jobs(), [0, 1, 2, 3]);

    let mut rig = Rig::measured(1, 4, us(42));
    let lane = rig.submit(0, 0).unwrap().unwrap();
    (1..8).for_each(|job| assert!(rig.submit(0, job).is_ok()));
    assert_eq!(rig.step(lane), Step::Work);
    assert_eq!(rig.jobs(), [0, 1], "336 µs of work are shared by four");

    let mut rig = Rig::measured(1, 1, ms(1));
    let lane = rig.submit(0, 0).unwrap().unwrap();
    rig.submit(0, 1).unwrap();
    assert_eq!(rig.step(lane), Step::Work);
    assert_eq!(rig.jobs(), [0]);
}

#[test]
fn home_first_but_no_shard_starves() {
    let mut rig = Rig::open(3, 1);
    let lane = rig.submit(0, 0).unwrap().unwrap();
    (1..8).for_each(|job| assert!(rig.submit(0, job).is_ok()));
    (0..2).for_each(|job| assert!(rig.submit(1, 10 + job).is_ok()));
    rig.submit(2, 20).unwrap();
    let mut order = Vec::new();
    while rig.step(lane) == Step::Work {
        order.extend(rig.jobs());
    }
    assert_eq!(order, [0, 1, 2, 10, 3, 4, 5, 20, 6, 7, 11]);
}

#[test]
fn queue_is_bounded_on_both_sides() {
    let mut rig = Rig::open(2, 1);
    (0..8).for_each(|job| assert!(rig.submit(0, job).is_ok()));
    assert_eq!(rig.submit(0, 8), Err(Refused::QueueFull));
    assert!(rig.submit(1, 9).is_ok(), "each shard has its own");
    let lane = rig.lanes()[0];
    assert_eq!(rig.step(lane), Step::Work);
    let entry = rig.out.pop_front().unwrap();
    assert!(rig.scheduler.requeue(entry).is_ok());
    assert_eq!(rig.step(lane), Step::Work);
    assert_eq!(rig.jobs(), [0], "given back to the head");
    rig.submit(0, 8).unwrap();
    let entry = rig.out.pop_front().unwrap();
    assert!(rig.scheduler.requeue(entry).is_err());
    assert_eq!(rig.scheduler.totals().queue_full, 1);
    assert_eq!(rig.submit(2, 0), Err(Refused::NoSession(Some(Arc::from("no such shard")))));
}

#[test]
fn what_cannot_make_it_is_refused_once_something_is_known_and_no_lane_idle() {
    for (measured, service) in [(false, ms(60)), (true, ms(60))] {
        let mut rig = Rig::open(1, 1);
        if measured {
            rig.scheduler.service.record(1, service, rig.now);
        }
        let lane = rig.submit(0, 0).unwrap().unwrap();
        assert_eq!(rig.step(lane), Step::Work);
        // 60, 120 and 180 ms at the least, of 200.
        (1..4).for_each(|job| assert!(rig.submit(0, job).is_ok()));
        assert_eq!(
            rig.submit(0, 4),
            if measured { Err(Refused::DeadlineUnreachable) } else { Ok(None) }
        );
    }
    let mut rig = Rig::measured(1, 1, ms(900));
    assert!(
        rig.submit(0, 0).is_ok(),
        "an idle lane is tried: else nothing would ever be measured again"
    );
    let now = rig.now;
    let past = rig.scheduler.submit(0, Share::OWN, 1, now, now, &mut rig.late);
    assert_eq!(past, Err((Refused::DeadlineUnreachable, 1)));
}

#[test]
fn the_estimate_of_a_flooded_shard_does_not_refuse_another_shards_jobs() {
    let mut rig = Rig::measured(2, 2, ms(60));
    for job in 0..2 {
        let lane = rig.submit(0, job).unwrap().unwrap();
        assert_eq!(rig.step(lane), Step::Work);
    }
    while rig.submit(0, 9).is_ok() {}
    assert_eq!(rig.submit(0, 9), Err(Refused::DeadlineUnreachable));
    assert!(rig.submit(1, 10).is_ok());
}

#[test]
fn late_jobs_are_told_and_never_served() {
    let mut rig = Rig::open(1, 1);
    let lane = rig.submit(0, 0).unwrap().unwrap();
    rig.now += ms(100);
    rig.submit(0, 1).unwrap();
    rig.now += ms(100);
    assert_eq!(rig.step(lane), Step::Work);
    assert_eq!(rig.jobs(), [1]);
    assert_eq!(
        rig.late.iter().map(|entry| entry.job).collect::<Vec<_>>(),
        [0],
        "a deadline is reached at its instant"
    );
    rig.submit(0, 2).unwrap();
    rig.now += ms(200);
    assert_eq!(rig.tick().late.len(), 1);
    assert_eq!(rig.scheduler.totals().late, 2);
    assert_eq!(rig.step(lane), Step::Park(None));
}

#[test]
fn a_lane_that_hangs_while_it_closes_its_session_is_replaced() {
    let mut rig = Rig::open(1, 1);
    let lane = rig.submit(0, 0).unwrap().unwrap();
    assert_eq!(rig.step(lane), Step::Work);
    rig.scheduler.finished(lane, Report::default(), rig.now);
    rig.scheduler.lost(lane, Arc::from("C_Encrypt: CKR_DEVICE_ERROR"), rig.now);
    rig.now += ms(500);
    assert_eq!(rig.tick().start, []);
    rig.now += ms(1);
    let [new] = rig.tick().start[..] else { panic!("replaced") };
    assert_eq!(rig.scheduler.counts().abandoned, 1);
    assert_eq!(rig.step(lane), Step::Exit);
    assert_eq!(rig.step(new), Step::Open);
}

#[test]
fn a_guest_is_served_by_lanes_at_home_elsewhere() {
    let mut rig = Rig::open(2, 2);
    let guest = rig.scheduler.add_guest();
    assert_eq!(guest, 2);
    let lane = rig.submit(guest, 7).unwrap().expect("woken");
    assert_eq!(rig.step(lane), Step::Work);
    assert_eq!(rig.jobs(), [7]);
    assert!(rig.submit(3, 8).is_err(), "no such queue");
}

#[test]
fn cancelled_jobs_cost_neither_a_call_nor_a_place() {
    let mut rig = Rig::open(1, 1);
    let lane = rig.submit(0, CANCELLED).unwrap().unwrap();
    rig.submit(0, 1).unwrap();
    rig.submit(0, CANCELLED).unwrap();
    assert_eq!(rig.step(lane), Step::Work);
    assert_eq!((rig.jobs(), rig.late.len()), (vec![1], 1));
    rig.scheduler.reap(rig.now, &mut rig.late);
    assert_eq!(rig.late.len(), 2);
    assert_eq!((rig.scheduler.totals().cancelled, rig.scheduler.totals().late), (2, 0));
    assert_eq!(rig.step(lane), Step::Park(None));
    (0..8).for_each(|_| assert!(rig.submit(0, CANCELLED).is_ok()));
    assert!(rig.submit(0, 2).is_ok(), "they make room for one that is waited for");
    assert_eq!((rig.late.len(), rig.scheduler.totals().queue_full), (8, 0));
}

#[test]
fn a_short_outage_is_waited_out_and_a_long_one_refused_with_its_fault() {
    let mut rig = Rig::open(1, 1);
    let lane = rig.submit(0, 0).unwrap().unwrap();
    assert_eq!(rig.step(lane), Step::Work);
    rig.scheduler.finished(lane, Report { served: 1, served_time: ms(1) }, rig.now);
    rig.scheduler.lost(lane, Arc::from("C_Encrypt: CKR_SESSION_HANDLE_INVALID"), rig.now);
    rig.now += SHORT_OUTAGE - us(1);
    assert!(rig.submit(0, 1).is_ok());
    rig.now += us(1);
    assert_eq!(
        rig.submit(0, 2),
        Err(Refused::NoSession(Some(Arc::from("C_Encrypt: CKR_SESSION_HANDLE_INVALID"))))
    );
    assert_eq!(rig.step(lane), Step::Open);
    rig.scheduler.opened(lane, rig.now);
    assert!(rig.submit(0, 3).is_ok());
    assert_eq!(rig.step(lane), Step::Work);
    assert_eq!(rig.jobs(), [1]);
    assert_eq!(rig.scheduler.totals().reopened, 1);
}

#[test]
fn first_loss_reopens_at_once_then_backs_off_with_jitter_to_a_bound() {
    let mut rig = Rig::open(1, 1);
    let lane = rig.lanes()[0];
    rig.scheduler.lost(lane, Arc::from("lost"), rig.now);
    let mut full = BACKOFF.0;
    for _ in 0..12 {
        assert_eq!(rig.step(lane), Step::Open);
        rig.scheduler.opened(lane, rig.now);
        rig.scheduler.lost(lane, Arc::from("lost again before it served"), rig.now);
        let Step::Park(Some(wait)) = rig.step(lane) else { panic!("must wait") };
        assert!(wait <= full && wait >= full / 2, "{wait:?} of {full:?}");
        rig.now += wait;
        full = (full * 2).min(BACKOFF.1);
    }
    assert_eq!(full, BACKOFF.1);
    assert_eq!(rig.step(lane), Step::Open);
    rig.scheduler.opened(lane, rig.now);
    rig.scheduler.finished(lane, Report { served: 1, served_time: ms(1) }, rig.now);
    rig.scheduler.lost(lane, Arc::from("lost after it served"), rig.now);
    assert_eq!(rig.step(lane), Step::Open);
}

#[test]
fn few_sessions_open_at_once_and_each_gets_its_turn() {
    let mut rig = Rig::new(1, 4);
    let lanes = rig.lanes();
    let steps: Vec<Step> = lanes.iter().map(|&lane| rig.step(lane)).collect();
    assert_eq!(steps, [Step::Open, Step::Open, Step::Park(None), Step::Park(None)]);
    assert_eq!(rig.scheduler.opened(lanes[0], rig.now), Some(lanes[2]));
    assert_eq!(rig.step(lanes[2]), Step::Open);
    assert_eq!(
        rig.scheduler.open_failed(lanes[1], Arc::from("CKR_SESSION_COUNT"), rig.now),
        Some(lanes[3])
    );
    assert_eq!(rig.scheduler.counts().opening, 2);
    assert!(matches!(rig.step(lanes[1]), Step::Park(Some(_))));
}

#[test]
fn hung_lanes_are_replaced_up_to_the_bound_and_their_word_counts_no_more() {
    let mut rig = Rig::open(1, 2);
    rig.scheduler.settings.abandoned_max = 3;
    let hang = |rig: &mut Rig| {
        let lanes = rig.lanes();
        for &lane in &lanes {
            if rig.step(lane) == Step::Open {
                rig.scheduler.opened(lane, rig.now);
                assert_eq!(rig.step(lane), Step::Park(None));
            }
        }
        for job in 0..2 {
            let lane = rig.submit(0, job).unwrap().unwrap();
            assert_eq!(rig.step(lane), Step::Work);
        }
        rig.now += ms(500);
        assert!(rig.tick().start.is_empty(), "not longer than hang_after");
        rig.now += us(1);
        let tick = rig.tick();
        assert_eq!(tick.stalled, lanes, "what they have not begun goes to others");
        (lanes, tick.start)
    };
    let (first, started) = hang(&mut rig);
    assert_eq!((started, rig.scheduler.counts().abandoned), (rig.lanes(), 2));
    let (second, started) = hang(&mut rig);
    assert_eq!(
        (started, rig.scheduler.counts().abandoned),
        (vec![rig.lanes()[0]], 3),
        "one more, not two"
    );
    assert_eq!(
        (rig.lanes()[1], rig.scheduler.counts().stalled),
        (second[1], 1),
        "the other keeps its place"
    );
    assert!(rig.tick().start.is_empty());
    rig.scheduler.finished(first[0], Report { served: 1, served_time: ms(9000) }, rig.now);
    assert_eq!(rig.scheduler.service_time(), None, "a hung call is no measure");
    assert_eq!(rig.step(first[0]), Step::Exit);
    rig.scheduler.exited(first[0], rig.now);
    assert_eq!(rig.tick().start, [rig.lanes()[1]], "a call returned: there is room for one more");
    assert_eq!(rig.scheduler.counts().abandoned, 3);
    assert_eq!(rig.step(second[1]), Step::Exit);
}

#[test]
fn opening_may_hang_too_and_a_place_without_thread_is_tried_again() {
    let mut rig = Rig::new(1, 1);
    let lane = rig.lanes()[0];
    assert_eq!(rig.step(lane), Step::Open);
    rig.now += ms(3001);
    let tick = rig.tick();
    assert_eq!(tick.start.len(), 1);
    rig.scheduler.exited(tick.start[0], rig.now);
    assert_eq!(rig.tick().start, tick.start);
    assert_eq!(rig.scheduler.opened(lane, rig.now), None);
    assert_eq!(rig.step(lane), Step::Exit);
}

#[test]
fn a_stalled_lane_serves_no_more_until_it_is_back() {
    let mut rig = Rig::measured(1, 1, us(42));
    let lane = rig.submit(0, 0).unwrap().unwrap();
    assert_eq!(rig.step(lane), Step::Work);
    rig.now += STALL_AFTER_MIN;
    assert!(rig.tick().stalled.is_empty());
    rig.now += us(1);
    assert_eq!(rig.tick().stalled, [lane]);
    assert!(rig.tick().stalled.is_empty(), "reported once");
    assert_eq!((rig.scheduler.counts().stalled, rig.scheduler.counts().serving()), (1, 0));
    rig.now += SHORT_OUTAGE;
    assert!(matches!(rig.submit(0, 1), Err(Refused::Hung)));
    rig.scheduler.finished(lane, Report::default(), rig.now);
    assert!(rig.submit(0, 1).is_ok());
}

#[test]
fn faults_are_no_service_time() {
    let mut rig = Rig::measured(1, 1, ms(4));
    let lane = rig.lanes()[0];
    for _ in 0..100 {
        rig.scheduler.finished(lane, Report { served: 0, served_time: us(1) }, rig.now);
    }
    assert_eq!(rig.scheduler.service_time(), Some(ms(4)));
}

#[test]
fn stopping_admits_nothing_and_lanes_end_when_the_queue_is_empty() {
    let mut rig = Rig::open(1, 2);
    let lane = rig.submit(0, 0).unwrap().unwrap();
    rig.scheduler.stop();
    assert!(matches!(rig.submit(0, 1), Err(Refused::NoSession(_))));
    assert_eq!(rig.step(lane), Step::Work);
    assert_eq!(rig.step(lane), Step::Exit);
    rig.scheduler.exited(lane, rig.now);
    assert!(rig.tick().start.is_empty());
    assert_eq!(rig.step(rig.lanes()[0]), Step::Exit);
}

#[test]
fn the_expected_time_grows_with_what_is_ahead_and_falls_with_idle_lanes() {
    let mut rig = Rig::new(1, 2);
    assert_eq!(rig.scheduler.expected_time(), None, "no lane serves");
    rig = Rig::open(1, 2);
    assert_eq!(rig.scheduler.expected_time(), Some(Duration::ZERO), "nothing was measured");
    rig = Rig::measured(1, 2, ms(4));
    let mut expected = vec![rig.scheduler.expected_time().unwrap()];
    for job in 0..4 {
        if let Some(lane) = rig.submit(0, job).unwrap() {
            assert_eq!(rig.step(lane), Step::Work);
        }
        expected.push(rig.scheduler.expected_time().unwrap());
    }
    assert_eq!(expected, [ms(4), ms(4), ms(6), ms(8), ms(10)]);
}

/// Lanes that take 12 to 20 ms a job, under four times as many jobs as they can do, for ten
/// seconds: what was done in time, what too late, and what was dropped after it was let in, as
/// shares of what the lanes can do.
fn overload(shards: usize, lanes: usize) -> (f64, f64, f64) {
    const MEAN_US: u64 = 16_000;
    let mut rig = Rig::new(shards, lanes);
    rig.scheduler.settings.queue_max = 4096;
    for lane in rig.lanes() {
        rig.step(lane);
        rig.scheduler.opened(lane, rig.now);
    }
    let (begin, step, every) = (rig.now, us(100), us(MEAN_US / lanes as u64 / 4));
    let (mut in_time, mut too_late, mut dropped) = (0, 0, 0);
    // When each lane is done with what, and how long that took.
    let mut work: Vec<_> =
        rig.lanes().into_iter().map(|lane| (lane, begin, None::<(Instant, Duration)>)).collect();
    let mut draw = 7_u64;
    let mut job = 0;
    while rig.now < begin + ms(10_000) {
        rig.now += step;
        while begin + every * job < rig.now {
            // A refusal costs nothing.
            let _ = rig.submit(job as usize % shards, job);
            job += 1;
        }
        for (lane, until, done) in &mut work {
            if *until > rig.now {
                continue;
            }
            if let Some((deadline, time)) = done.take() {
                *(if *until <= deadline { &mut in_time } else { &mut too_late }) += 1;
                rig.scheduler.finished(*lane, Report { served: 1, served_time: time }, *until);
            }
            rig.step(*lane);
            dropped += rig.late.len();
            if let Some(entry) = rig.out.pop_front() {
                draw = draw
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let time = us(MEAN_US * 3 / 4 + (draw >> 33) % (MEAN_US / 2));
                (*until, *done) = (rig.now + time, Some((entry.deadline, time)));
            }
        }
    }
    let capacity = ms(10_000).as_micros() as f64 / MEAN_US as f64 * lanes as f64;
    (f64::from(in_time) / capacity, f64::from(too_late) / capacity, dropped as f64 / capacity)
}

#[test]
fn under_four_times_its_load_an_hsm_works_for_jobs_that_make_it() {
    for (shards, lanes) in [(1, 1), (1, 32), (2, 32), (3, 8)] {
        let (in_time, too_late, dropped) = overload(shards, lanes);
        assert!(in_time > 0.95, "{shards} shards, {lanes} lanes: {in_time} in time");
        assert!(too_late < 0.01, "{shards} shards, {lanes} lanes: {too_late} too late");
        assert!(dropped < 0.1, "{shards} shards, {lanes} lanes: {dropped} let in and dropped");
    }
}
