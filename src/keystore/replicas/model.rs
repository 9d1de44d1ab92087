//! Distrust and failover, tried out exhaustively: every order in which two requests, two replicas
//! and their probes can act, while HSMs lie, hang and recover at any moment and a reload changes
//! the order of the replicas.
//!
//! What decides is the code that runs: [`Scheduler`], [`Quarantine`], [`judge`] and [`two_best`],
//! [`may_pass_elsewhere`], [`time_of_a_try`]. Modelled is what carries it out: one session a
//! replica whose steps are to take a job, to compute and to hand over the outcome; a probe, which
//! is whole; and a request, which tries what `pipeline::execute` tries. Only the first replica
//! lies. Left out: several sessions of one HSM, which `quarantine::model` has, and lost sessions.

use std::collections::{HashSet, VecDeque};

use super::*;
use crate::key_manager::pkcs11::{Epoch, Quarantine, SelfTest};
use crate::limits::{SELF_TEST_INTERVAL, SELF_TEST_ROUND_TRIPS};
use crate::sched::Share;
use crate::sched::model::{LaneId, Report, Scheduler, Settings, Step, Tick};

const REPLICAS: usize = 2;
const REQUESTS: usize = 2;
/// Of time, each time it passes. A call hangs for half of it until its lane is given up.
const WHILE: Duration = SELF_TEST_INTERVAL.checked_div(2).unwrap();
/// A whole try for each of two replicas.
const BUDGET: Duration = WHILE.checked_mul(4).unwrap();
/// Nothing is new in what comes after.
const CAUGHT_MAX: u32 = 2;
const HANGS_MAX: u32 = 1;

/// Which try of which request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Job {
    request: usize,
    second_try: bool,
}

/// Where a session is.
#[derive(Clone, Debug)]
enum Doing {
    Nothing,
    Job { job: Job, epoch: Epoch, caught: u32 },
    SelfTest { job: Job, test: SelfTest },
    Computed { job: Job, epoch: Epoch, caught: u32, outcome: Result<(), Fault> },
}

struct Replica {
    scheduler: Scheduler<Job>,
    lane: LaneId,
    doing: Doing,
    /// Given up, and what it was at.
    abandoned: Option<(LaneId, Doing)>,
    quarantine: Quarantine,
    lies: bool,
    hangs: bool,
    hung: u32,
    /// Whether the last probe was well, and when.
    probe: Option<(bool, Instant)>,
    caught: u32,
    /// What must be true: caught, and no whole self-test passed since.
    distrusted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Request {
    NotYet,
    Waits { tries: [Option<usize>; 2], second_try: bool, try_ends: Instant, ends: Instant },
    Answered,
    Failed,
}

struct World {
    start: Instant,
    now: Instant,
    replicas: [Replica; REPLICAS],
    requests: [Request; REQUESTS],
    /// An encryption, which is verified; else a decryption, whose lie nobody sees.
    verified: [bool; REQUESTS],
    /// Outcomes on their way.
    mailbox: Vec<(Job, Result<(), Fault>)>,
    /// The configuration has the replicas the other way round.
    reloaded: bool,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Lie,
    Hang(usize),
    Reload,
    TimePasses,
    Begin(usize),
    Work(usize, bool),
    Return(usize),
    Probe(usize),
    Deliver(usize),
}

/// That something was tried.
#[derive(Debug, Default)]
struct Seen {
    answered: u32,
    by_the_other: u32,
    held_back: u32,
    trusted_again: u32,
}

impl Replica {
    fn new(now: Instant) -> Replica {
        let settings = Settings {
            shards: 1,
            lanes: 1,
            queue_max: REQUESTS,
            openings_max: 1,
            hang_after: WHILE / 2,
            open_hang_after: WHILE / 2,
            abandoned_max: 1,
            seed: 1,
        };
        let mut scheduler = Scheduler::new(settings, Box::new(|_| false), now);
        let lane = scheduler.lanes().next().expect("one");
        scheduler.step(lane, now, &mut VecDeque::new(), &mut Vec::new());
        scheduler.opened(lane, now);
        Replica {
            scheduler,
            lane,
            doing: Doing::Nothing,
            abandoned: None,
            quarantine: Quarantine::default(),
            lies: false,
            hangs: false,
            hung: 0,
            probe: Some((true, now)),
            caught: 0,
            distrusted: false,
        }
    }

    fn twin(&self) -> Replica {
        let (scheduler, quarantine) = (self.scheduler.twin(), self.quarantine.twin());
        let (doing, abandoned) = (self.doing.clone(), self.abandoned.clone());
        Replica { scheduler, quarantine, doing, abandoned, ..*self }
    }

    fn catch(&mut self) {
        self.quarantine.begin("a lie");
        self.caught += 1;
        self.distrusted = true;
    }

    /// As a session leaves the quarantine: the epoch, or the test to take part in, or neither.
    fn epoch(&self, now: Instant) -> Result<Epoch, Option<SelfTest>> {
        let epoch = self.quarantine.epoch();
        if epoch.is_quarantine() { Err(self.quarantine.join_self_test(now)) } else { Ok(epoch) }
    }

    /// A whole self-test, but for what others have done of it.
    fn pass(&mut self, test: SelfTest) {
        for _ in 0..SELF_TEST_ROUND_TRIPS {
            self.quarantine.passed_one(test);
        }
        self.distrusted = false;
    }

    /// A probe, in a session of its own.
    fn probe(&mut self, now: Instant) {
        let mut is_well = !self.hangs;
        if is_well {
            match self.epoch(now) {
                Err(None) => is_well = false,
                Err(Some(test)) if self.lies => {
                    self.quarantine.failed(test);
                    is_well = false;
                }
                Err(Some(test)) => self.pass(test),
                Ok(_) => {}
            }
            if self.lies {
                self.catch();
                is_well = false;
            }
        }
        self.probe = Some((is_well, now));
    }

    fn prospect(&self, start: Instant, now: Instant) -> Prospect {
        let sessions = Some((Snapshot::of(&self.scheduler, start, now), 1));
        let probe = self.probe.map(|(is_well, at)| (is_well, now - at));
        Prospect { health: judge(probe, sessions), time: expected(sessions) }
    }
}

impl World {
    fn new(verified: [bool; REQUESTS]) -> World {
        let now = Instant::now();
        World {
            start: now,
            now,
            replicas: [Replica::new(now), Replica::new(now)],
            requests: [Request::NotYet, Request::NotYet],
            verified,
            mailbox: Vec::new(),
            reloaded: false,
        }
    }

    fn twin(&self) -> World {
        let replicas = [self.replicas[0].twin(), self.replicas[1].twin()];
        let (requests, mailbox) = (self.requests.clone(), self.mailbox.clone());
        World { replicas, requests, mailbox, ..*self }
    }

    /// All that can happen next.
    fn actions(&self) -> Vec<Action> {
        let mut actions = vec![Action::TimePasses];
        let [first, _] = &self.replicas;
        if first.caught < CAUGHT_MAX || first.lies {
            actions.push(Action::Lie);
        }
        if !self.reloaded {
            actions.push(Action::Reload);
        }
        for (at, replica) in self.replicas.iter().enumerate() {
            if replica.hangs || replica.hung < HANGS_MAX {
                actions.push(Action::Hang(at));
            }
            let may_be_caught = !replica.lies || replica.caught < CAUGHT_MAX;
            if may_be_caught {
                actions.push(Action::Probe(at));
            }
            match &replica.doing {
                Doing::Job { .. } | Doing::SelfTest { .. } if replica.hangs => {}
                Doing::Job { .. } if replica.lies && may_be_caught => {
                    actions.extend([Action::Work(at, false), Action::Work(at, true)]);
                }
                Doing::SelfTest { .. } if !may_be_caught => {}
                _ => actions.push(Action::Work(at, false)),
            }
            if replica.abandoned.is_some() && !replica.hangs {
                actions.push(Action::Return(at));
            }
        }
        for (at, request) in self.requests.iter().enumerate() {
            match request {
                Request::NotYet => actions.push(Action::Begin(at)),
                Request::Waits { .. } => actions.push(Action::Deliver(at)),
                Request::Answered | Request::Failed => {}
            }
        }
        actions
    }

    fn act(&mut self, action: Action, seen: &mut Seen) {
        match action {
            Action::Lie => self.replicas[0].lies ^= true,
            Action::Hang(at) => {
                let replica = &mut self.replicas[at];
                replica.hangs ^= true;
                replica.hung += u32::from(replica.hangs);
            }
            Action::Reload => self.reloaded = true,
            Action::TimePasses => self.time_passes(),
            Action::Begin(at) => self.begin(at),
            Action::Work(at, says_bad) => self.work(at, says_bad, seen),
            Action::Return(at) => {
                // What an abandoned lane brings is handed over as any other's.
                let replica = &mut self.replicas[at];
                let (lane, doing) = replica.abandoned.take().expect("one");
                replica.scheduler.exited(lane, self.now);
                if let Doing::Job { job, epoch, caught } = doing {
                    self.hand_over(at, job, (epoch, caught), Ok(()), seen);
                }
            }
            Action::Probe(at) => {
                let was = self.replicas[at].distrusted;
                self.replicas[at].probe(self.now);
                seen.trusted_again += u32::from(was && !self.replicas[at].distrusted);
            }
            Action::Deliver(at) => self.deliver(at, seen),
        }
    }

    fn time_passes(&mut self) {
        self.now += WHILE;
        for replica in &mut self.replicas {
            let mut tick = Tick::default();
            replica.scheduler.tick(self.now, &mut tick);
            if tick.stalled.contains(&replica.lane) && !tick.start.is_empty() {
                let doing = std::mem::replace(&mut replica.doing, Doing::Nothing);
                replica.abandoned = Some((replica.lane, doing));
                replica.lane = tick.start[0];
            }
            self.mailbox.extend(tick.late.iter().map(|late| (late.job, Err(Fault::Timeout))));
        }
    }

    fn begin(&mut self, at: usize) {
        let order = if self.reloaded { [1, 0] } else { [0, 1] };
        let prospect = |replica: &usize| self.replicas[*replica].prospect(self.start, self.now);
        let tries = two_best(order.iter().map(prospect)).map(|place| place.map(|p| order[p]));
        let ends = self.now + BUDGET;
        self.requests[at] = Request::Waits { tries, second_try: false, try_ends: ends, ends };
        self.submit(at);
    }

    /// Gives the request's job to the replica whose turn it is; to the next where that refuses.
    fn submit(&mut self, at: usize) {
        let Request::Waits { tries, second_try, try_ends, ends } = &mut self.requests[at] else {
            return;
        };
        let replica_left = !*second_try;
        let left = ends.saturating_duration_since(self.now);
        *try_ends = self.now + time_of_a_try(left, replica_left);
        let job = Job { request: at, second_try: *second_try };
        let (replica, share) = (tries[usize::from(*second_try)], Share::of_key_store(0, 1));
        let taken = replica.is_some_and(|replica| {
            let scheduler = &mut self.replicas[replica].scheduler;
            let mut late = Vec::new();
            let taken = scheduler.submit(0, share, job, *try_ends, self.now, &mut late).is_ok();
            self.mailbox.extend(late.iter().map(|late| (late.job, Err(Fault::Timeout))));
            taken && !left.is_zero()
        });
        if !taken {
            self.try_next(at, replica_left);
        }
    }

    fn try_next(&mut self, at: usize, another: bool) {
        if let Request::Waits { second_try: second_try @ false, .. } = &mut self.requests[at]
            && another
        {
            *second_try = true;
            return self.submit(at);
        }
        self.requests[at] = Request::Failed;
    }

    /// The request looks for its outcome, or its try is over.
    fn deliver(&mut self, at: usize, seen: &mut Seen) {
        let Request::Waits { second_try, try_ends, .. } = self.requests[at] else { return };
        let job = Job { request: at, second_try };
        let found = self.mailbox.iter().position(|(of, _)| *of == job);
        let outcome = match found {
            Some(found) => self.mailbox.remove(found).1,
            None if self.now >= try_ends => Err(Fault::Timeout),
            None => return,
        };
        match outcome {
            Ok(()) => {
                seen.answered += 1;
                seen.by_the_other += u32::from(second_try);
                self.requests[at] = Request::Answered;
            }
            Err(fault) => self.try_next(at, may_pass_elsewhere(&fault, !second_try)),
        }
    }

    /// One step of a replica's session. `says_bad`: what it lies is that a ciphertext is bad.
    fn work(&mut self, at: usize, says_bad: bool, seen: &mut Seen) {
        let now = self.now;
        let replica = &mut self.replicas[at];
        match std::mem::replace(&mut replica.doing, Doing::Nothing) {
            Doing::Nothing => {
                let (mut out, mut late) = (VecDeque::new(), Vec::new());
                let next = replica.scheduler.step(replica.lane, now, &mut out, &mut late);
                if next.step == Step::Open && !replica.hangs {
                    replica.scheduler.opened(replica.lane, now);
                }
                self.mailbox.extend(late.iter().map(|late| (late.job, Err(Fault::Timeout))));
                if let Some(entry) = out.pop_front() {
                    self.take_on(at, entry.job);
                } else if next.step == Step::Work {
                    replica.scheduler.finished(replica.lane, Report::default(), now);
                }
            }
            Doing::SelfTest { job, test } => {
                if replica.lies {
                    replica.quarantine.failed(test);
                    replica.catch();
                    return self.end(at, job, Err(replica_fault()));
                }
                if replica.quarantine.is_running(test) {
                    replica.pass(test);
                    seen.trusted_again += 1;
                }
                self.take_on(at, job);
            }
            Doing::Job { job, epoch, caught } => {
                let outcome = match (replica.lies, self.verified[job.request]) {
                    (true, true) => {
                        replica.catch();
                        Err(replica_fault())
                    }
                    (true, false) if says_bad => Err(Fault::BadCiphertext),
                    _ => Ok(()),
                };
                replica.doing = Doing::Computed { job, epoch, caught, outcome };
            }
            Doing::Computed { job, epoch, caught, outcome } => {
                self.hand_over(at, job, (epoch, caught), outcome, seen);
                let replica = &mut self.replicas[at];
                replica.scheduler.finished(replica.lane, Report::default(), now);
            }
        }
    }

    /// The session begins a job, or takes part in the self-test first.
    fn take_on(&mut self, at: usize, job: Job) {
        let replica = &mut self.replicas[at];
        match replica.epoch(self.now) {
            Ok(epoch) => replica.doing = Doing::Job { job, epoch, caught: replica.caught },
            Err(Some(test)) => replica.doing = Doing::SelfTest { job, test },
            Err(None) => self.end(at, job, Err(replica_fault())),
        }
    }

    /// What the HSM said of a job leaves, or not.
    fn hand_over(
        &mut self,
        at: usize,
        job: Job,
        (epoch, caught): (Epoch, u32),
        outcome: Result<(), Fault>,
        seen: &mut Seen,
    ) {
        let replica = &self.replicas[at];
        let said = outcome.is_ok() || outcome == Err(Fault::BadCiphertext);
        let released = replica.quarantine.release(epoch, outcome.clone());
        if released != outcome {
            seen.held_back += 1;
        } else if said {
            assert!(!replica.distrusted, "{job:?}: answered while distrusted");
            assert_eq!(caught, replica.caught, "{job:?}: caught while the job was under way");
        }
        self.mailbox.push((job, released));
    }

    fn end(&mut self, at: usize, job: Job, outcome: Result<(), Fault>) {
        self.mailbox.push((job, outcome));
        let replica = &mut self.replicas[at];
        replica.scheduler.finished(replica.lane, Report::default(), self.now);
    }

    /// All that what can follow depends on. Times as they are from now, those that are long over as
    /// one.
    fn fingerprint(&self) -> String {
        let ago = |at: Instant| ((self.now - at).as_millis() / WHILE.as_millis()).min(3);
        let left = |at: Instant| at.saturating_duration_since(self.now).as_millis();
        let mut text = format!("{} {:?}", self.reloaded, self.mailbox);
        for replica in &self.replicas {
            let Replica { scheduler, quarantine, doing, abandoned, .. } = replica;
            let (in_quarantine, test) = quarantine.seen_at(self.now);
            let test = test.map(|(age, right, open)| (ago(self.now - age), right, open));
            let of = |doing: &Doing| match doing {
                Doing::Nothing => String::new(),
                Doing::Job { job, epoch, caught } => {
                    format!("{job:?} {} {caught}", *epoch == quarantine.epoch())
                }
                Doing::SelfTest { job, test } => {
                    format!("{job:?} {}", quarantine.is_running(*test))
                }
                Doing::Computed { job, epoch, caught, outcome } => {
                    format!("{job:?} {} {caught} {outcome:?}", *epoch == quarantine.epoch())
                }
            };
            text += &format!(
                "|{in_quarantine} {test:?} {} {:?} {} {} {} {:?} {} {} {:?} {:?} {:?}",
                of(doing),
                abandoned.as_ref().map(|(_, doing)| of(doing)),
                replica.lies,
                replica.hangs,
                replica.hung,
                replica.probe.map(|(is_well, _)| is_well),
                replica.caught,
                replica.distrusted,
                scheduler.counts(),
                scheduler.queued().collect::<Vec<_>>(),
                scheduler.outage().map(ago),
            );
        }
        for request in &self.requests {
            text += &match request {
                Request::Waits { tries, second_try, try_ends, ends } => {
                    format!("|{tries:?} {second_try} {} {}", left(*try_ends), left(*ends))
                }
                other => format!("|{other:?}"),
            };
        }
        text
    }
}

fn replica_fault() -> Fault {
    Fault::Device { detail: String::new() }
}

/// Everything that can follow, up to so many steps. Gives how many different states there are.
fn explore(verified: [bool; REQUESTS], steps: usize, seen: &mut Seen) -> usize {
    let first = World::new(verified);
    let mut known = HashSet::from([first.fingerprint()]);
    let mut at_this_step = vec![first];
    for _ in 0..steps {
        let mut next_step = Vec::new();
        for world in &at_this_step {
            for action in world.actions() {
                let mut next = world.twin();
                next.act(action, seen);
                if known.insert(next.fingerprint()) {
                    next_step.push(next);
                }
            }
        }
        at_this_step = next_step;
    }
    known.len()
}

#[test]
fn nothing_of_a_distrusted_replica_is_answered_in_any_order_of_steps() {
    // More of them for a long run: XKSD_MODEL_STEPS=14 cargo test --release --lib any_order
    let steps = std::env::var("XKSD_MODEL_STEPS").map_or(8, |n| n.parse().expect("a number"));
    let mut seen = Seen::default();
    let mut states = 0;
    for verified in [[false, true], [false, false], [true, true]] {
        states += explore(verified, steps, &mut seen);
    }
    let Seen { answered, by_the_other, held_back, trusted_again } = seen;
    assert!(
        answered > 0 && by_the_other > 0 && held_back > 0 && trusted_again > 0,
        "{states} states: {seen:?}"
    );
}
