//! What the lanes of a pool share: the model under its lock, their places, the way back.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::lane_slot::{LaneSlot, Work};
use super::mailbox::{Delivered, Mailbox};
use super::model::{Entry, LaneId, Report, Scheduler};
use super::snapshot::SnapshotCell;
use super::sync::{self, Condvar, JoinHandle, Mutex, MutexGuard};
use crate::key_manager::Engine;

/// What the lanes share.
pub(super) struct Shared {
    pub(super) scheduler: Mutex<Scheduler<Work>>,
    pub(super) snapshot: SnapshotCell,
    pub(super) slots: Vec<LaneSlot>,
    pub(super) mailboxes: Vec<Arc<Mailbox>>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) threads: Mutex<Threads>,
    pub(super) thread_ended: Condvar,
}

#[derive(Default)]
pub(super) struct Threads {
    /// Those that have not reported their end.
    pub(super) running: usize,
    pub(super) handles: Vec<JoinHandle<()>>,
}

/// The scheduler under its lock; the snapshot follows when it is let go.
pub(super) struct Locked<'a> {
    scheduler: MutexGuard<'a, Scheduler<Work>>,
    snapshot: &'a SnapshotCell,
}

impl Deref for Locked<'_> {
    type Target = Scheduler<Work>;

    fn deref(&self) -> &Scheduler<Work> {
        &self.scheduler
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Scheduler<Work> {
        &mut self.scheduler
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.snapshot.set(&self.scheduler);
    }
}

impl Shared {
    pub(super) fn scheduler(&self) -> Locked<'_> {
        Locked {
            scheduler: self.scheduler.lock().unwrap_or_else(PoisonError::into_inner),
            snapshot: &self.snapshot,
        }
    }

    pub(super) fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn slot(&self, lane: LaneId) -> &LaneSlot {
        &self.slots[lane.slot()]
    }

    pub(super) fn wake(&self, lane: LaneId) {
        self.slot(lane).wake();
    }

    /// Jobs that nobody can do in time any more: their shards have answered them, or do now.
    pub(super) fn answer_late(&self, late: &mut Vec<Entry<Work>>) {
        if late.is_empty() {
            return;
        }
        let now = sync::now();
        for Entry { job: Work { job, id }, shard, submitted, deadline, .. } in late.drain(..) {
            drop(job);
            self.mailboxes[shard].post(id, Delivered::not_begun(submitted, deadline, now));
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
            let mut scheduler = self.scheduler();
            scheduler.finished(lane, report, now);
            scheduler.lost(lane, fault, now);
        }
        self.give_back(lane, now, rest);
    }

    /// Puts `rest` and what `lane` holds and has not begun back to the heads of the queues, and
    /// wakes whom they need.
    pub(super) fn give_back(&self, lane: LaneId, now: Instant, rest: &mut VecDeque<Entry<Work>>) {
        rest.append(&mut self.slot(lane).take_held(lane));
        let (mut wake, mut unqueued) = (Vec::new(), Vec::new());
        {
            let mut scheduler = self.scheduler();
            // From the back, so that the oldest is at the head again.
            while let Some(entry) = rest.pop_back() {
                unqueued.extend(scheduler.requeue(entry).err());
            }
            scheduler.wake_all_needed(now, &mut wake);
        }
        for other in wake {
            self.wake(other);
        }
        self.answer_late(&mut unqueued);
    }

    pub(super) fn no_thread(&self, lane: LaneId, error: &std::io::Error) {
        let now = sync::now();
        let wake = {
            let mut scheduler = self.scheduler();
            let wake = scheduler.open_failed(
                lane,
                Arc::from(format!("no thread for a session: {error}")),
                now,
            );
            scheduler.exited(lane, now);
            wake
        };
        if let Some(other) = wake {
            self.wake(other);
        }
    }

    pub(super) fn stop(&self) {
        self.scheduler().stop();
        self.slots.iter().for_each(LaneSlot::wake);
    }
}
