//! Fair shares, shown: key stores that ask for more than their part of an HSM, and one that asks
//! for little, in virtual time. Seeded: a failure names its seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::*;

const BUDGET: Duration = Duration::from_millis(200);
/// Until queues and estimates have settled.
const WARM_UP: Duration = Duration::from_millis(300);
/// Jobs that the HSM could do after the warm-up.
const JOBS: u32 = 20_000;
const TICK: Duration = Duration::from_millis(50);

/// A key store's load: jobs a second as a part of what the HSM can do, weight, and the only shard
/// that its connections came to, or all of them.
#[derive(Clone, Copy)]
struct Load {
    part: f64,
    weight: u32,
    shard: Option<usize>,
}

struct Hsm {
    shards: usize,
    lanes: usize,
    /// Mean time of a job, which takes between three quarters and five quarters of that.
    service_us: u64,
}

impl Hsm {
    /// Jobs a second.
    fn capacity(&self) -> f64 {
        self.lanes as f64 * 1e6 / self.service_us as f64
    }
}

/// What one key store got.
#[derive(Default)]
struct Got {
    served: u64,
    refused: u64,
    /// From submission to the outcome, µs.
    times: Vec<u64>,
}

impl Got {
    fn p99(&mut self) -> u64 {
        self.times.sort_unstable();
        self.times[self.times.len() * 99 / 100]
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival(usize),
    /// By the lane's place.
    Done(usize),
    Tick,
}

/// Xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    /// Exponentially distributed: arrivals that know nothing of each other.
    fn wait(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-((self.below(1 << 40) + 1) as f64 / (1u64 << 40) as f64).ln())
    }
}

/// A lane, by its place: the batch it has begun, and what it takes.
#[derive(Default)]
struct Batch {
    jobs: VecDeque<Entry<usize>>,
    time: Duration,
}

struct Run<'a> {
    hsm: &'a Hsm,
    loads: &'a [Load],
    random: Random,
    scheduler: Scheduler<usize>,
    begin: Instant,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, Event)>>,
    batches: Vec<Batch>,
    late: Vec<Entry<usize>>,
    got: Vec<Got>,
}

/// What each key store gets of an HSM.
fn run(hsm: &Hsm, loads: &[Load], seed: u64) -> Vec<Got> {
    let now = Instant::now();
    let settings = Settings {
        shards: hsm.shards,
        lanes: hsm.lanes,
        queue_max: 4096,
        openings_max: hsm.lanes,
        hang_after: Duration::from_secs(2),
        open_hang_after: Duration::from_secs(2),
        abandoned_max: 0,
        seed,
    };
    let mut run = Run {
        hsm,
        loads,
        random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        scheduler: Scheduler::new(settings, Box::new(|_| false), now),
        begin: now,
        now,
        events: BinaryHeap::new(),
        batches: (0..hsm.lanes).map(|_| Batch::default()).collect(),
        late: Vec::new(),
        got: loads.iter().map(|_| Got::default()).collect(),
    };
    let lanes: Vec<LaneId> = run.scheduler.lanes().collect();
    for lane in lanes {
        let (out, late) = (&mut VecDeque::new(), &mut Vec::new());
        assert_eq!(run.scheduler.step(lane, now, out, late).step, Step::Open);
        run.scheduler.opened(lane, now);
        assert_eq!(run.scheduler.step(lane, now, out, late).step, Step::Park(None));
    }
    (0..loads.len()).for_each(|load| run.after(Duration::ZERO, Event::Arrival(load)));
    run.after(TICK, Event::Tick);
    run.go();
    run.got
}

impl Run<'_> {
    fn after(&mut self, wait: Duration, event: Event) {
        self.events.push(Reverse((self.now + wait, event)));
    }

    fn go(&mut self) {
        let end =
            self.begin + WARM_UP + Duration::from_secs_f64(f64::from(JOBS) / self.hsm.capacity());
        while let Some(Reverse((at, event))) = self.events.pop()
            && at < end
        {
            self.now = at;
            match event {
                Event::Arrival(load) => self.arrival(load),
                Event::Done(place) => self.done(place),
                Event::Tick => {
                    let mut tick = Tick::default();
                    self.scheduler.tick(self.now, &mut tick);
                    tick.wake.into_iter().for_each(|lane| self.step(lane));
                    self.after(TICK, Event::Tick);
                }
            }
        }
    }

    fn arrival(&mut self, of: usize) {
        let Load { part, weight, shard } = self.loads[of];
        let shard = shard.unwrap_or_else(|| self.random.below(self.hsm.shards as u64) as usize);
        let share = Share::of_key_store(of, weight);
        let deadline = self.now + BUDGET;
        match self.scheduler.submit(shard, share, of, deadline, self.now, &mut self.late) {
            Ok(lane) => lane.into_iter().for_each(|lane| self.step(lane)),
            Err(_) if self.now > self.begin + WARM_UP => self.got[of].refused += 1,
            Err(_) => {}
        }
        let mean = Duration::from_secs_f64(1.0 / (self.hsm.capacity() * part));
        let wait = self.random.wait(mean);
        self.after(wait, Event::Arrival(of));
    }

    fn step(&mut self, lane: LaneId) {
        let place = lane.slot();
        let next =
            self.scheduler.step(lane, self.now, &mut self.batches[place].jobs, &mut self.late);
        self.late.clear();
        if next.step == Step::Work {
            let jobs = self.batches[place].jobs.len() as u64;
            let us = self.hsm.service_us;
            let ns: u64 = (0..jobs).map(|_| us * 750 + self.random.below(us * 500)).sum();
            let time = Duration::from_nanos(ns);
            self.batches[place].time = time;
            self.after(time, Event::Done(place));
        }
        next.wake.into_iter().for_each(|lane| self.step(lane));
    }

    fn done(&mut self, place: usize) {
        let Batch { jobs, time } = std::mem::take(&mut self.batches[place]);
        let report = Report { served: jobs.len() as u32, served_time: time };
        for entry in jobs {
            if self.now > self.begin + WARM_UP {
                let got = &mut self.got[entry.job];
                got.served += 1;
                got.times.push((self.now - entry.submitted).as_micros() as u64);
            }
        }
        let Some(lane) = self.scheduler.lanes().nth(place) else { unreachable!("places stay") };
        self.scheduler.finished(lane, report, self.now);
        self.step(lane);
    }
}

const HSMS: [Hsm; 5] = [
    Hsm { shards: 2, lanes: 32, service_us: 4000 },
    Hsm { shards: 1, lanes: 16, service_us: 1000 },
    // More shards than a fair part of one shard's lanes would do for.
    Hsm { shards: 16, lanes: 32, service_us: 1000 },
    Hsm { shards: 3, lanes: 8, service_us: 16_000 },
    // Batches.
    Hsm { shards: 2, lanes: 4, service_us: 60 },
];

fn load(part: f64) -> Load {
    Load { part, weight: 1, shard: None }
}

#[test]
fn a_flood_does_not_delay_another_key_store() {
    for seed in 1..=2 {
        for (hsm, shard) in HSMS.iter().zip([None, None, Some(3), None, None]) {
            let calm = Load { shard, ..load(0.1) };
            let alone = run(hsm, &[calm], seed)[0].p99();
            let [flood, calm] = &mut run(hsm, &[load(10.0), calm], seed)[..] else {
                unreachable!("two key stores")
            };
            let ratio = calm.p99() as f64 / alone as f64;
            let what = format!("seed {seed}, {} lanes of {} µs", hsm.lanes, hsm.service_us);
            assert_eq!(calm.refused, 0, "{what}");
            // Where jobs are shorter than a batch, whoever comes waits for a batch to end, and his
            // own outcome for the rest of his.
            let batches = 2 * BATCH_TIME.as_micros() as u64;
            let is_batched = hsm.service_us * 2 < BATCH_TIME.as_micros() as u64;
            assert!(ratio <= 1.5 || is_batched && calm.p99() < alone + batches, "{what}: {ratio}");
            let all = (flood.served + calm.served) as f64 / f64::from(JOBS);
            assert!(all > 0.95, "{what}: {all} of the HSM's time was used");
        }
    }
}

#[test]
fn key_stores_that_all_want_more_get_by_weight() {
    for seed in 1..=2 {
        for hsm in &HSMS {
            let flood = |part, weight| Load { part, weight, shard: None };
            let got = run(hsm, &[flood(4.0, 1), flood(10.0, 3), flood(2.0, 6)], seed);
            let all: u64 = got.iter().map(|got| got.served).sum();
            for (got, part) in got.iter().zip([0.1, 0.3, 0.6]) {
                let share = got.served as f64 / all as f64;
                assert!(
                    (share / part - 1.0).abs() < 0.05,
                    "seed {seed}, {} lanes of {} µs: {share} of {part}",
                    hsm.lanes,
                    hsm.service_us
                );
            }
        }
    }
}

#[test]
fn what_one_leaves_is_the_others() {
    for hsm in &HSMS {
        let heavy = |part, weight| Load { part, weight, shard: None };
        let got = run(hsm, &[heavy(10.0, 1), heavy(0.3, 100)], 7);
        let all: u64 = got.iter().map(|got| got.served).sum();
        let share = got[0].served as f64 / all as f64;
        assert!((0.66..0.74).contains(&share), "{} lanes: {share}", hsm.lanes);
        assert_eq!(got[1].refused, 0);
    }
}
