//! A lane's place in its pool: where it sleeps and is wakeup, and the jobs that it took and has not
//! begun.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use super::mailbox::JobId;
use super::model::{Entry, LaneId};
use super::sync::{Condvar, Mutex};
use crate::key_manager::Job;

/// A job and where its outcome goes.
pub(super) struct Work {
    pub(super) job: Job,
    pub(super) id: JobId,
}

/// A lane's place, shared with those who wake it, on cache lines of no other lane. It outlives the
/// lanes that sit there.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct LaneSlot {
    wake_pending: Mutex<bool>,
    wakeup: Condvar,
    /// The jobs of the batch that are not begun, so that they can be taken away from a lane that
    /// hangs. Empty with slow key managers, whose batches are one job.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    holder: Option<LaneId>,
    jobs: VecDeque<Entry<Work>>,
}

impl LaneSlot {
    pub(super) fn wake(&self) {
        *self.wake_pending.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wakeup.notify_one();
    }

    /// Until wakeup, or for so long. May end early: the scheduler is asked again whatever ended it.
    pub(super) fn park(&self, timeout: Option<Duration>) {
        let mut wake_pending = self.wake_pending.lock().unwrap_or_else(PoisonError::into_inner);
        if !*wake_pending {
            wake_pending = match timeout {
                Some(timeout) => {
                    self.wakeup
                        .wait_timeout(wake_pending, timeout)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self.wakeup.wait(wake_pending).unwrap_or_else(PoisonError::into_inner),
            };
        }
        *wake_pending = false;
    }

    /// Puts what follows in a batch where it can be taken away. Not while a later occupant's jobs
    /// are there: an abandoned lane may come so far after it was given up.
    pub(super) fn hold(&self, lane: LaneId, jobs: &mut VecDeque<Entry<Work>>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.jobs.is_empty() && !jobs.is_empty() {
            held.holder = Some(lane);
            std::mem::swap(&mut held.jobs, jobs);
        }
    }

    pub(super) fn next(&self, lane: LaneId) -> Option<Entry<Work>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.holder == Some(lane) { held.jobs.pop_front() } else { None }
    }

    /// Takes away what `lane` has not begun.
    pub(super) fn take_held(&self, lane: LaneId) -> VecDeque<Entry<Work>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.holder == Some(lane) { std::mem::take(&mut held.jobs) } else { VecDeque::new() }
    }
}
