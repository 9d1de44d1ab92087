//! The one thread that writes the trail and signs it.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::{Durability, Index, News, Shared, WhenUnwritable};
use crate::audit::record::{Record, write_line};
use crate::audit::store::Store;
use crate::limits::{AUDIT_CHECKPOINT_INTERVAL, AUDIT_RETRY_INTERVAL};

pub(super) struct Writer<F> {
    shared: Arc<Shared>,
    store: Store,
    tell: F,
    /// When records were written last.
    written_at: Instant,
    /// Not before then.
    checkpoint_at: Instant,
    retiring: Option<Retiring>,
}

/// Old records that are about to be deleted.
struct Retiring {
    /// The first one that is to stay.
    before: u64,
    /// Where the record stands that says so.
    told: Index,
    /// How old they are at least.
    age: Duration,
}

impl<F: FnMut(News)> Writer<F> {
    pub(super) fn new(shared: Arc<Shared>, store: Store, tell: F) -> Self {
        let now = Instant::now();
        Writer { shared, store, tell, written_at: now, checkpoint_at: now, retiring: None }
    }

    pub(super) fn run(mut self) {
        let mut lines = Vec::new();
        loop {
            let stopping = self.wait(&mut lines);
            if !self.write(&lines, stopping) {
                return;
            }
            lines.clear();
            if stopping {
                let closed = self.store.close();
                return self.checkpointed(closed, true);
            }
            self.sign();
            self.keep_cosigned();
        }
    }

    /// Until there is something to write or to sign; true when it is the last.
    fn wait(&self, lines: &mut Vec<u8>) -> bool {
        let mut waiting = self.shared.waiting();
        loop {
            // Looked at again after each wait: it may have changed.
            let interval = match self.shared.settings().durability {
                Durability::Answer => None,
                Durability::Interval(interval) => Some(interval),
            };
            let due = std::mem::take(&mut waiting.at_once)
                || interval.is_none_or(|interval| self.written_at.elapsed() >= interval);
            if waiting.stopping || due && !waiting.lines.is_empty() {
                std::mem::swap(lines, &mut waiting.lines);
                return waiting.stopping;
            }
            let owed = self.store.size() > self.store.signed();
            let unsigned = self.checkpoint_at.saturating_duration_since(Instant::now());
            if owed && unsigned.is_zero() || waiting.cosigned.is_some() {
                return false;
            }
            // In an interval nobody wakes the writer for a record: it looks.
            let interval = interval.unwrap_or(AUDIT_CHECKPOINT_INTERVAL);
            let left = interval.saturating_sub(self.written_at.elapsed());
            let patience = if left.is_zero() { interval } else { left };
            let patience = if owed { patience.min(unsigned) } else { patience };
            (waiting, _) = self
                .shared
                .arrived
                .wait_timeout(waiting, patience)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes until it succeeds. False when it does not and the process is to end.
    fn write(&mut self, lines: &[u8], stopping: bool) -> bool {
        if lines.is_empty() {
            return true;
        }
        while let Err(error) = self.store.append(lines) {
            if self.shared.writable.swap(false, Ordering::AcqRel) {
                let why = error.to_string();
                self.shared.unwritable.store(Some(Arc::new(why.clone())));
                let refused = self.shared.settings().when_unwritable == WhenUnwritable::Refuse;
                (self.tell)(News::Unwritable { why, refused });
                // Those that wait are refused, or go.
                self.shared.wakers.wake();
            }
            if stopping || self.shared.waiting().stopping {
                return false;
            }
            std::thread::sleep(AUDIT_RETRY_INTERVAL);
        }
        self.written_at = Instant::now();
        self.shared.durable.store(self.store.size(), Ordering::Release);
        self.shared.wakers.wake();
        self.shared.unwritable.store(None);
        if !self.shared.writable.swap(true, Ordering::AcqRel) {
            let missed = self.shared.missed_total.load(Ordering::Relaxed);
            (self.tell)(News::Writable { missed });
        }
        true
    }

    fn sign(&mut self) {
        if Instant::now() < self.checkpoint_at {
            return;
        }
        self.checkpoint_at = Instant::now() + AUDIT_CHECKPOINT_INTERVAL;
        let signed = self.store.checkpoint();
        self.checkpointed(signed, false);
        match self.shared.settings().retention {
            Some(age) => self.retire(age),
            None => self.retiring = None,
        }
    }

    fn keep_cosigned(&mut self) {
        let cosigned = self.shared.waiting().cosigned.take();
        if let Some((size, note)) = cosigned {
            let kept = self.store.keep_cosigned(size, &note);
            self.told_signed(kept.err());
        }
    }

    /// Deletes old records once a signed record says so: without one, whoever reads the trail
    /// cannot know that they were not taken away. Where `age` has changed since, they stay: what is
    /// deleted cannot be brought back.
    fn retire(&mut self, age: Duration) {
        self.retiring.take_if(|retiring| retiring.age != age);
        if let Some(retiring) = &self.retiring {
            if retiring.told.is_below(self.store.signed())
                && let Ok(deleted) = self.store.delete_before(retiring.before)
            {
                self.retiring = None;
                (self.tell)(News::Deleted(deleted));
            }
            return;
        }
        let now = SystemTime::now();
        let Ok(Some(before)) = self.store.retired(age, now) else { return };
        let record = Record::Retired { before, older_than_seconds: age.as_secs() };
        let mut waiting = self.shared.waiting();
        write_line(&record, now, &mut waiting.lines);
        self.retiring = Some(Retiring { before, told: Index(waiting.end), age });
        waiting.end += 1;
    }

    fn checkpointed(&mut self, signed: io::Result<Option<String>>, last: bool) {
        match signed {
            Ok(Some(note)) => {
                self.told_signed(None);
                (self.tell)(News::Checkpoint { note, last });
            }
            Ok(None) => {}
            // The records are on disk; the next one signs them as well.
            Err(error) => self.told_signed(Some(error)),
        }
    }

    /// Tells once that checkpoints cannot be written, and that they can again.
    fn told_signed(&mut self, error: Option<io::Error>) {
        let why = error.map(|error| format!("no checkpoint: {error}"));
        match (self.shared.unsigned.swap(why.clone().map(Arc::new)), why) {
            (None, Some(why)) => (self.tell)(News::Unsigned(why)),
            (Some(_), None) => (self.tell)(News::Signed),
            _ => {}
        }
    }
}

impl<F> Drop for Writer<F> {
    /// However it ended: nobody waits for a writer that is gone.
    fn drop(&mut self) {
        self.shared.writable.store(false, Ordering::Release);
        self.shared.wakers.wake();
    }
}
