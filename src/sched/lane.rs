//! A lane: a thread that owns one session and does what the core says.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::inbox::{Delivered, Token};
use super::model::{BATCH_TIME, Entry, LaneId, Report, Step};
use super::pool::Shared;
use super::sync::{self, Condvar, Mutex};
use crate::key_manager::{Fault, Job, Outcome, Session};

/// Device faults in a row after which a lane tries its session on the test key, and closes it if
/// that fails too. A lane that fails fast would otherwise draw job after job; a key that always
/// fails must not close sessions that are well.
const DEVICE_FAULTS_MAX: u32 = 3;

/// A job and where its outcome goes.
pub(super) struct Work {
    pub(super) job: Job,
    pub(super) token: Token,
}

/// A lane's place, shared with those who wake it. It outlives the lanes that sit there.
#[derive(Default)]
pub(super) struct Desk {
    permit: Mutex<bool>,
    woken: Condvar,
    /// The jobs of the batch that are not begun, so that they can be taken away from a lane that
    /// hangs. Empty with slow key managers, whose batches are one job.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    holder: Option<LaneId>,
    jobs: VecDeque<Entry<Work>>,
}

impl Desk {
    pub(super) fn wake(&self) {
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.woken.notify_one();
    }

    /// Until woken, or for so long. May end early: the core is asked again whatever ended it.
    fn park(&self, timeout: Option<Duration>) {
        let mut permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        if !*permit {
            permit = match timeout {
                Some(timeout) => {
                    self.woken
                        .wait_timeout(permit, timeout)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self.woken.wait(permit).unwrap_or_else(PoisonError::into_inner),
            };
        }
        *permit = false;
    }

    /// Puts what follows in a batch where it can be taken away. Not while a later occupant's jobs
    /// are there: an abandoned lane may come so far after it was given up.
    fn hold(&self, lane: LaneId, jobs: &mut VecDeque<Entry<Work>>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.jobs.is_empty() && !jobs.is_empty() {
            held.holder = Some(lane);
            std::mem::swap(&mut held.jobs, jobs);
        }
    }

    fn next(&self, lane: LaneId) -> Option<Entry<Work>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.holder == Some(lane) { held.jobs.pop_front() } else { None }
    }

    /// Takes away what `lane` has not begun.
    pub(super) fn take_held(&self, lane: LaneId) -> VecDeque<Entry<Work>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.holder == Some(lane) { std::mem::take(&mut held.jobs) } else { VecDeque::new() }
    }
}

/// The thread of `lane`, until the pool stops or the lane was abandoned.
pub(super) fn run(shared: &Shared, lane: LaneId) {
    let mut runner = Runner { shared, lane, session: None, device_faults: 0 };
    let mut batch = VecDeque::new();
    let mut late = Vec::new();
    let mut report = None;
    loop {
        let next = {
            let mut core = shared.core();
            let now = sync::now();
            if let Some(report) = report.take() {
                core.finished(lane, report, now);
            }
            core.step(lane, now, &mut batch, &mut late)
        };
        if let Some(other) = next.wake {
            shared.wake(other);
        }
        shared.answer_late(&mut late);
        match next.step {
            Step::Work => report = runner.serve(&mut batch),
            Step::Open => runner.open(),
            Step::Park(timeout) => shared.desk(lane).park(timeout),
            Step::Exit => break,
        }
    }
    runner.close();
}

struct Runner<'a> {
    shared: &'a Shared,
    lane: LaneId,
    session: Option<Box<dyn Session>>,
    /// In a row.
    device_faults: u32,
}

impl Runner<'_> {
    fn open(&mut self) {
        let opened = catch_unwind(AssertUnwindSafe(|| self.shared.engine.open()))
            .unwrap_or_else(|_| Err(panicked("opening a session")));
        let wake = match opened {
            Ok(session) => {
                self.session = Some(session);
                self.device_faults = 0;
                self.shared.core().opened(self.lane, sync::now())
            }
            Err(fault) => {
                self.shared.core().open_failed(self.lane, Arc::from(tell(&fault)), sync::now())
            }
        };
        if let Some(other) = wake {
            self.shared.wake(other);
        }
    }

    /// Dropping a session closes it, which may panic or hang like any call.
    fn close(&mut self) {
        let session = self.session.take();
        // A panic has been told by the panic hook; there is nothing left to save of this session.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(session)));
    }

    /// Serves a batch; no report when the session was lost meanwhile.
    fn serve(&mut self, batch: &mut VecDeque<Entry<Work>>) -> Option<Report> {
        let desk = self.shared.desk(self.lane);
        let mut report = Report::default();
        if !batch.is_empty() && !self.check() {
            // Nothing was begun: others do it, or this lane once its session is open again.
            self.shared.lost(self.lane, report, Arc::from("the session was lost"), batch);
            self.close();
            return None;
        }
        let Some(first) = batch.pop_front() else { return Some(report) };
        // A batch comes out of one shard's queue.
        let mailbox = &self.shared.mailboxes[first.shard];
        let more = !batch.is_empty();
        if more {
            desk.hold(self.lane, batch);
        }
        let mut now = sync::now();
        let mut woken_at = now;
        let mut lost = None;
        let mut entry = Some(first);
        while let Some(Entry { job: Work { job, token }, submitted, deadline, .. }) = entry {
            if deadline <= now {
                mailbox.post(token, Delivered::timeout(submitted, now));
            } else if !mailbox.is_cancelled(token) {
                let queue_wait = now.saturating_duration_since(submitted);
                mailbox.begin(token, queue_wait);
                let (outcome, usable) = self.execute(job);
                let begun = std::mem::replace(&mut now, sync::now());
                let hsm_time = now - begun;
                if is_service(&outcome) {
                    report.served += 1;
                    report.served_time += hsm_time;
                }
                self.device_faults = if matches!(outcome, Err(Fault::Device { .. })) {
                    self.device_faults + 1
                } else {
                    0
                };
                if !usable {
                    lost = Some(Arc::from(
                        outcome.as_ref().err().map_or("session lost".to_owned(), tell),
                    ));
                }
                mailbox.post(token, Delivered { outcome, queue_wait, hsm_time });
                if now - woken_at > BATCH_TIME {
                    mailbox.wake();
                    woken_at = now;
                }
            }
            if lost.is_some() {
                break;
            }
            entry = if more { batch.pop_front().or_else(|| desk.next(self.lane)) } else { None };
        }
        mailbox.wake();
        if lost.is_none() && self.device_faults >= DEVICE_FAULTS_MAX {
            self.device_faults = 0;
            lost = self.probe().err().map(|fault| Arc::from(tell(&fault)));
        }
        let Some(fault) = lost else { return Some(report) };
        // Told first: others take over while this session closes, which may take its time.
        self.shared.lost(self.lane, report, fault, batch);
        self.close();
        None
    }

    /// The outcome, and whether the session can go on.
    fn execute(&mut self, job: Job) -> (Outcome, bool) {
        let Some(session) = &mut self.session else {
            return (Err(Fault::Device { detail: "no session".to_owned() }), false);
        };
        match catch_unwind(AssertUnwindSafe(|| {
            let outcome = session.execute(job);
            let usable = session.is_usable();
            (outcome, usable)
        })) {
            Ok(done) => done,
            Err(_) => (Err(panicked("a call")), false),
        }
    }

    fn check(&mut self) -> bool {
        let Some(session) = &mut self.session else { return false };
        catch_unwind(AssertUnwindSafe(|| session.check())).unwrap_or(false)
    }

    fn probe(&mut self) -> Result<(), Fault> {
        let Some(session) = &mut self.session else { return Ok(()) };
        match catch_unwind(AssertUnwindSafe(|| (session.probe(), session.is_usable()))) {
            Ok((Ok(()), true)) => Ok(()),
            Ok((Ok(()), false)) => Err(Fault::Device { detail: "session lost".to_owned() }),
            Ok((Err(fault), _)) => Err(fault),
            Err(_) => Err(panicked("a probe")),
        }
    }
}

/// HSM work done to its end: its time tells what a job costs. The other faults are mostly told
/// without the work.
fn is_service(outcome: &Outcome) -> bool {
    matches!(outcome, Ok(_) | Err(Fault::BadCiphertext))
}

fn panicked(what: &str) -> Fault {
    Fault::Device { detail: format!("{what} to the key manager panicked") }
}

/// For the operator: what a fault is, with its detail.
fn tell(fault: &Fault) -> String {
    match fault {
        Fault::Device { detail } | Fault::KeyNotFound { detail } => detail.clone(),
        other => format!("{other:?}"),
    }
}
