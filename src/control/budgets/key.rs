//! One key whose encryptions are counted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::configured::Encrypts;
use super::file::{KeyName, SavedKey};
use crate::limits::{BUDGET_BLOCK_ENCRYPTIONS, BUDGET_BLOCK_TIME};
use crate::policy::budget::Budget;

/// A key, whichever key stores use it.
pub(super) struct CountedKey {
    /// Names of all key managers that were ever configured to hold it.
    pub(super) key_managers: BTreeSet<String>,
    pub(super) name: KeyName,
    pub(super) budget: Arc<Budget>,
    /// Since when its encryptions are counted, Unix seconds.
    pub(super) counted_since: i64,
    /// Whether the configuration names it.
    pub(super) is_configured: bool,
    pub(super) encrypts: Encrypts,
    /// The highest threshold that was told, percent.
    pub(super) told: Option<u8>,
    block: Block,
    /// Budgets of keys that turned out to be this one.
    absorbed: Vec<Absorbed>,
}

/// How much is reserved at once, and when that was done last.
struct Block {
    encryptions: u64,
    reserved_at: Option<Instant>,
}

/// A shard may lease from it until it has seen the configuration in force.
struct Absorbed {
    budget: Arc<Budget>,
    /// So many of its encryptions are counted by now.
    counted: u64,
}

/// How often a key has encrypted on this instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// At the most.
    pub encryptions: u64,
    /// Whether this holds for all the time since it was promoted: it was counted from the start, or
    /// quotas bound what was not.
    pub since_promoted: bool,
}

impl CountedKey {
    /// One that is not known yet.
    pub(super) fn new(key_managers: BTreeSet<String>, name: KeyName, now: i64) -> CountedKey {
        CountedKey::with(key_managers, name, 0, now)
    }

    /// As it was saved.
    pub(super) fn saved(saved: SavedKey) -> CountedKey {
        let name = saved.name();
        let SavedKey { key_managers, encryptions, counted_since, .. } = saved;
        CountedKey::with(key_managers.into_iter().collect(), name, encryptions, counted_since)
    }

    fn with(
        key_managers: BTreeSet<String>,
        name: KeyName,
        encryptions: u64,
        counted_since: i64,
    ) -> CountedKey {
        let encryptions_a_block = *BUDGET_BLOCK_ENCRYPTIONS.start();
        CountedKey {
            key_managers,
            name,
            budget: Budget::new(encryptions),
            counted_since,
            is_configured: false,
            encrypts: Encrypts::default(),
            told: None,
            block: Block { encryptions: encryptions_a_block, reserved_at: None },
            absorbed: Vec::new(),
        }
    }

    /// It turns out that `other` is the same key.
    pub(super) fn absorb(&mut self, mut other: CountedKey) {
        other.settle_absorbed();
        // The file has both, one beside the other.
        self.budget.set_reserved(self.budget.reserved() + other.budget.reserved());
        self.key_managers.append(&mut other.key_managers);
        self.counted_since = self.counted_since.max(other.counted_since);
        self.absorbed.append(&mut other.absorbed);
        self.absorbed.push(Absorbed { budget: other.budget, counted: 0 });
        self.settle_absorbed();
    }

    /// Counts what was taken from budgets that are this one.
    pub(super) fn settle_absorbed(&mut self) {
        self.absorbed.retain_mut(|absorbed| {
            // Looked at first: who has it no more, takes no more from it.
            let is_used = Arc::strong_count(&absorbed.budget) > 1;
            let taken = absorbed.budget.taken();
            self.budget.add(taken.saturating_sub(absorbed.counted));
            absorbed.counted = absorbed.counted.max(taken);
            is_used
        });
    }

    /// How often it has encrypted, by what was counted and by its quotas, whichever is less.
    pub(super) fn used(&self, now: i64) -> Used {
        let (counted, encrypts) = (self.budget.taken(), &self.encrypts);
        let from_the_start = encrypts.promoted.is_some_and(|at| self.counted_since <= at);
        if from_the_start {
            let by_quota = encrypts.bound(now).filter(|_| encrypts.promoted <= Some(now));
            let encryptions = by_quota.map_or(counted, |most| most.min(counted));
            return Used { encryptions, since_promoted: true };
        }
        match encrypts.bound(self.counted_since).zip(encrypts.bound(now)) {
            Some((before, most)) => {
                let encryptions = counted.saturating_add(before).min(most);
                Used { encryptions, since_promoted: true }
            }
            None => Used { encryptions: counted, since_promoted: false },
        }
    }

    /// Whether half of its block is used.
    pub(super) fn needs_block(&self) -> bool {
        self.is_configured && self.left() < self.block.encryptions / 2
    }

    /// Whether more than is reserved was taken.
    pub(super) fn is_beyond(&self) -> bool {
        self.budget.taken() > self.budget.reserved()
    }

    fn left(&self) -> u64 {
        self.budget.reserved().saturating_sub(self.budget.taken())
    }

    /// What the file is to say so that a block is reserved: the same as now where one is not needed
    /// soon.
    pub(super) fn next_reserved(&mut self, now: Instant) -> u64 {
        let reserved = self.budget.reserved();
        if !self.is_configured || self.left() > self.block.encryptions / 4 * 3 {
            return reserved;
        }
        if let Some(age) = self.block.reserved_at.map(|at| now.saturating_duration_since(at)) {
            let (smallest, largest) = BUDGET_BLOCK_ENCRYPTIONS.into_inner();
            let size = self.block.encryptions;
            let size = match () {
                () if age < BUDGET_BLOCK_TIME => size * 2,
                () if age > BUDGET_BLOCK_TIME * 4 => size / 2,
                () => size,
            };
            self.block.encryptions = size.clamp(smallest, largest);
        }
        reserved.max(self.budget.taken() + self.block.encryptions)
    }

    /// The file says so now.
    pub(super) fn set_reserved(&mut self, encryptions: u64, now: Instant) {
        if encryptions > self.budget.reserved() {
            self.block.reserved_at = Some(now);
            self.budget.set_reserved(encryptions);
        }
    }

    /// As it is to be saved, with this number of encryptions.
    pub(super) fn to_save(&self, encryptions: u64) -> SavedKey {
        SavedKey {
            key_managers: self.key_managers.iter().cloned().collect(),
            label: self.name.label.clone(),
            version: self.name.version,
            encryptions,
            counted_since: self.counted_since,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key() -> CountedKey {
        let name = KeyName { label: "foo".into(), version: None };
        let mut key = CountedKey::new(BTreeSet::from(["a".to_owned()]), name, 1000);
        key.is_configured = true;
        key
    }

    #[test]
    fn blocks_grow_with_use_and_shrink_again() {
        let (mut key, mut now) = (key(), Instant::now());
        let (smallest, largest) = BUDGET_BLOCK_ENCRYPTIONS.into_inner();
        let mut block = |key: &mut CountedKey, after: Duration| {
            now += after;
            assert!(key.needs_block());
            let reserved = key.next_reserved(now);
            key.set_reserved(reserved, now);
            assert!(!key.needs_block() && key.next_reserved(now) == reserved);
            reserved - key.budget.taken()
        };
        assert_eq!(block(&mut key, Duration::ZERO), smallest);
        let mut sizes = Vec::new();
        for _ in 0..6 {
            key.budget.add(key.left() / 2 + 1);
            sizes.push(block(&mut key, Duration::from_secs(1)) / smallest);
        }
        assert_eq!(sizes, [2, 4, 8, 16, 16, 16]);
        assert_eq!(smallest * 16, largest);
        key.budget.add(largest);
        assert!(key.is_beyond() || key.left() == 0);
        assert_eq!(block(&mut key, Duration::from_secs(3600)), largest / 2);
    }

    #[test]
    fn the_surer_of_two_bounds_counts() {
        let mut key = key();
        key.budget.add(5000);
        let used = |key: &CountedKey, now| {
            let Used { encryptions, since_promoted } = key.used(now);
            (encryptions, since_promoted)
        };
        assert_eq!(used(&key, 2000), (5000, false), "nobody knows since when it encrypts");
        let rate = |requests_per_second| {
            let rate = crate::policy::quota::Rate { requests_per_second, burst: 0 };
            Encrypts::of("foo", Some(900), Some(rate))
        };
        // 100 s were not counted, in which 2 tries of 3 requests a second were possible.
        key.encrypts = rate(3);
        assert_eq!(used(&key, 2000), (5600, true));
        // Since then, no more than that either: a crash had counted too many.
        assert_eq!(used(&key, 1000), (600, true));
        key.encrypts = Encrypts::of("foo", Some(900), None);
        assert_eq!(used(&key, 2000), (5000, false), "100 s of which nothing is known");
        key.counted_since = 800;
        assert_eq!(used(&key, 2000), (5000, true));
        key.encrypts = rate(2);
        assert_eq!(used(&key, 2000), (4400, true));
        assert_eq!(used(&key, 850), (5000, true), "a date that is wrong bounds nothing");
    }

    #[test]
    fn what_turns_out_to_be_the_same_key_is_counted_once_and_wholly() {
        let (mut one, other, third) = (key(), key(), key());
        one.budget.add(10);
        other.budget.add(100);
        let (in_use, mut second) = (other.budget.clone(), other);
        second.absorb(third);
        one.absorb(second);
        assert_eq!(one.budget.taken(), 110);
        in_use.add(7);
        one.settle_absorbed();
        one.settle_absorbed();
        assert_eq!((one.budget.taken(), one.absorbed.len()), (117, 1));
        drop(in_use);
        one.settle_absorbed();
        assert_eq!((one.budget.taken(), one.absorbed.len()), (117, 0));
    }
}
