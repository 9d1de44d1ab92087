//! A lane: a thread that owns one session and does what the scheduler says.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::lane_slot::Work;
use super::mailbox::{Delivered, Mailbox};
use super::model::{BATCH_TIME, Entry, LaneId, Report, Step};
use super::shared::Shared;
use super::sync;
use crate::key_manager::{Fault, Job, Outcome, Session};

/// Device faults in a row after which a lane tries its session on the test key, and closes it if
/// that fails too. A lane that fails fast would otherwise draw job after job; a key that always
/// fails must not close sessions that are well.
const DEVICE_FAULTS_MAX: u32 = 3;

/// The thread of `lane`, until the pool stops or the lane was abandoned.
pub(super) fn run(shared: &Shared, lane: LaneId) {
    let mut runner = Runner { shared, lane, session: None, device_faults: 0 };
    let mut batch = VecDeque::new();
    let mut late = Vec::new();
    let mut report = None;
    loop {
        let next = {
            let mut scheduler = shared.scheduler();
            let now = sync::now();
            if let Some(report) = report.take() {
                scheduler.finished(lane, report, now);
            }
            scheduler.step(lane, now, &mut batch, &mut late)
        };
        if let Some(other) = next.wake {
            shared.wake(other);
        }
        shared.answer_late(&mut late);
        match next.step {
            Step::Work => report = runner.serve(&mut batch),
            Step::Open => runner.open(),
            Step::Park(timeout) => shared.slot(lane).park(timeout),
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
                self.shared.scheduler().opened(self.lane, sync::now())
            }
            Err(fault) => self.shared.scheduler().open_failed(
                self.lane,
                Arc::from(describe(&fault)),
                sync::now(),
            ),
        };
        if let Some(other) = wake {
            self.shared.wake(other);
        }
    }

    /// Dropping a session closes it, which may panic or hang like any call.
    fn close(&mut self) {
        let session = self.session.take();
        // The panic hook has logged a panic; there is nothing left to save of this session.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(session)));
    }

    /// Serves a batch; no report when the session was lost meanwhile.
    fn serve(&mut self, batch: &mut VecDeque<Entry<Work>>) -> Option<Report> {
        let slot = self.shared.slot(self.lane);
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
            slot.hold(self.lane, batch);
        }
        let mut now = sync::now();
        let mut woken_at = now;
        let mut lost = None;
        let mut entry = Some(first);
        while let Some(next) = entry {
            lost = self.serve_one(mailbox, next, &mut now, &mut report);
            if lost.is_some() {
                break;
            }
            if now - woken_at > BATCH_TIME {
                mailbox.wake();
                woken_at = now;
            }
            entry = if more { batch.pop_front().or_else(|| slot.next(self.lane)) } else { None };
        }
        mailbox.wake();
        if lost.is_none() && self.device_faults >= DEVICE_FAULTS_MAX {
            self.device_faults = 0;
            lost = self.probe().err().map(|fault| Arc::from(describe(&fault)));
        }
        let Some(fault) = lost else { return Some(report) };
        // Told first: others take over while this session closes, which may take its time.
        self.shared.lost(self.lane, report, fault, batch);
        self.close();
        None
    }

    /// Does one job, unless nobody waits for it, and posts its outcome. `now` is moved on to its
    /// end. What lost the session, if this did.
    fn serve_one(
        &mut self,
        mailbox: &Mailbox,
        entry: Entry<Work>,
        now: &mut Instant,
        report: &mut Report,
    ) -> Option<Arc<str>> {
        let Entry { job: Work { job, id }, submitted, deadline, .. } = entry;
        if deadline <= *now {
            mailbox.post(id, Delivered::timeout(submitted, *now));
            return None;
        }
        if mailbox.is_cancelled(id) {
            return None;
        }
        let queue_wait = now.saturating_duration_since(submitted);
        mailbox.begin(id, queue_wait);
        let (outcome, usable) = self.execute(job);
        let begun = std::mem::replace(now, sync::now());
        let hsm_time = *now - begun;
        if is_service(&outcome) {
            report.served += 1;
            report.served_time += hsm_time;
        }
        let device_fault = matches!(outcome, Err(Fault::Device { .. }));
        self.device_faults = if device_fault { self.device_faults + 1 } else { 0 };
        let lost = (!usable)
            .then(|| outcome.as_ref().err().map_or("session lost".to_owned(), describe).into());
        mailbox.post(id, Delivered { outcome, queue_wait, hsm_time });
        lost
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

/// HSM work done to its end: its time shows what a job costs. The other faults mostly come without
/// the work.
fn is_service(outcome: &Outcome) -> bool {
    matches!(outcome, Ok(_) | Err(Fault::BadCiphertext))
}

fn panicked(what: &str) -> Fault {
    Fault::Device { detail: format!("{what} to the key manager panicked") }
}

/// For the operator: what a fault is, with its detail.
fn describe(fault: &Fault) -> String {
    match fault {
        Fault::Device { detail } | Fault::KeyNotFound { detail } | Fault::KeyRefused { detail } => {
            detail.clone()
        }
        other => format!("{other:?}"),
    }
}
