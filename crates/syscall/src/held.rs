//! What the executor has submitted and the kernel does not have yet.
//!
//! Most of it the kernel never needs to see: timers that are set for each turn of the executor and
//! cancelled at its end.

use std::time::Instant;

use crate::entry::Entry;

/// Entries in the order in which they came.
#[derive(Default)]
pub(crate) struct Held {
    entries: Vec<Entry>,
    /// Of each timer that is set and that only its time ends: whose, and when it is due.
    due: Vec<(u64, Instant)>,
}

impl Held {
    /// Takes an entry, or takes back the timer that it cancels.
    pub(crate) fn add(&mut self, entry: Entry, now: impl Fn() -> Instant) {
        if entry.cancelled().is_some_and(|whose| self.take_back(whose)) {
            return;
        }
        if let Some(duration) = entry.duration() {
            self.due.push((entry.user_data(), now() + duration));
        }
        self.entries.push(entry);
    }

    /// A timer becomes something that is done: its completion lets the executor forget it.
    fn take_back(&mut self, whose: u64) -> bool {
        let is_timer = |held: &Entry| held.is_timeout() && held.user_data() == whose;
        let Some(at) = self.entries.iter().position(is_timer) else { return false };
        self.due.retain(|(timer, _)| *timer != whose);
        if self.entries[at].is_linked() && at + 1 < self.entries.len() {
            // It would have been cancelled with the timer that it waits for.
            match self.entries[at + 1].user_data() {
                0 => drop(self.entries.remove(at + 1)),
                dependant => self.entries[at + 1] = Entry::nothing(dependant),
            }
        }
        self.entries[at] = Entry::nothing(whose);
        true
    }

    /// Whether something is held that is neither a timer nor done.
    pub(crate) fn has_work(&self) -> bool {
        let mut waits = false;
        self.entries.iter().any(|entry| !stays(&mut waits, entry) && !entry.is_nothing())
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Moves all but timers to `released`.
    pub(crate) fn release(&mut self, released: &mut Vec<Entry>) {
        let mut waits = false;
        released.extend(self.entries.extract_if(.., |entry| !stays(&mut waits, entry)));
    }

    /// Takes entries again that the kernel did not take.
    pub(crate) fn give_back(&mut self, entries: &[Entry]) {
        self.entries.splice(0..0, entries.iter().copied());
    }

    /// When the next timer is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due.iter().map(|(_, due)| *due).min()
    }

    /// Takes a timer out that is due, as something that is done.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Entry> {
        let at = self.due.iter().position(|(_, due)| *due <= now)?;
        let (whose, _) = self.due.swap_remove(at);
        self.entries.retain(|held| held.user_data() != whose);
        Some(Entry::nothing(whose))
    }
}

/// Whether an entry is a timer, or waits for the one before it.
fn stays(waits: &mut bool, entry: &Entry) -> bool {
    let waited = std::mem::replace(waits, entry.is_timeout() && entry.is_linked());
    waited || entry.is_timeout()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::{cancel, linked, poll, timeout};

    const MILLISECOND: [i64; 2] = [0, 1_000_000];

    fn held(entries: &[Entry]) -> Held {
        let mut held = Held::default();
        entries.iter().for_each(|entry| held.add(*entry, Instant::now));
        held
    }

    /// What would be submitted: who, and whether it is done.
    fn released(held: &mut Held) -> Vec<(u64, bool)> {
        let mut released = Vec::new();
        held.release(&mut released);
        released.iter().map(|entry| (entry.user_data(), entry.is_nothing())).collect()
    }

    #[test]
    fn a_timer_that_was_cancelled_is_done() {
        let mut held = held(&[timeout(7, 0, &MILLISECOND), poll(8, 3), cancel(7)]);
        assert_eq!(held.due(), None);
        assert_eq!(released(&mut held), [(7, true), (8, false)]);
        assert_eq!(held.len(), 0);
    }

    #[test]
    fn what_waits_for_a_timer_goes_with_it() {
        let timer = linked(timeout(7, 128, &MILLISECOND));
        let mut unnamed = held(&[timer, poll(0, 3), poll(8, 3)]);
        assert!(unnamed.has_work(), "the last one waits for nothing");
        assert_eq!(released(&mut unnamed), [(8, false)]);
        assert!(!unnamed.has_work());
        unnamed.add(cancel(7), Instant::now);
        assert_eq!(released(&mut unnamed), [(7, true)]);
        let mut named = held(&[timer, poll(9, 3), cancel(7)]);
        assert_eq!(released(&mut named), [(7, true), (9, true)]);
    }

    #[test]
    fn all_but_timers_goes_to_the_kernel_in_its_order() {
        let mut held = held(&[poll(1, 3), timeout(2, 0, &MILLISECOND), poll(3, 3), cancel(1)]);
        assert_eq!(released(&mut held), [(1, false), (3, false), (0, false)]);
        assert_eq!(held.len(), 1, "the timer stays");
        held.give_back(&[poll(1, 3), poll(3, 3)]);
        assert_eq!(released(&mut held), [(1, false), (3, false)]);
    }

    #[test]
    fn a_timer_is_due_at_its_time() {
        let now = Instant::now();
        let mut held = Held::default();
        held.add(timeout(1, 0, &[0, 2_000_000]), || now);
        held.add(timeout(2, 0, &MILLISECOND), || now);
        let due = now + std::time::Duration::from_millis(1);
        assert_eq!(held.due(), Some(due));
        assert!(held.expire(due - std::time::Duration::from_nanos(1)).is_none());
        let expired = held.expire(due).unwrap();
        assert_eq!((expired.user_data(), expired.is_nothing()), (2, true));
        assert_eq!(held.len(), 1);
    }
}
