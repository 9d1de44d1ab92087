//! The invocation budget of a key: how often it may encrypt with random IVs.
//!
//! NIST SP 800-38D, section 8.3: "The total number of invocations of the authenticated encryption
//! function shall not exceed 2^32, including all IV lengths and all instances of the authenticated
//! encryption function with the given key."
//!
//! Pure: what is reserved on disk is told. Shards take leases, so that they share an atomic only
//! once in `LEASE_ENCRYPTIONS` encryptions.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::INVOCATIONS_A_KEY_MAX;

/// A shard leases so many encryptions at once. Small, as those that are not used are counted until
/// the shard gives them back.
const LEASE_ENCRYPTIONS: u64 = 64;

/// Told once each, percent of an instance's share.
pub const THRESHOLDS_PERCENT: [u8; 4] = [50, 75, 90, 100];

/// The part of a key's invocations that each of so many instances may use.
pub fn share(instances: u64) -> u64 {
    INVOCATIONS_A_KEY_MAX / instances.max(1)
}

/// How much of a share is used, percent.
pub fn percent(used: u64, share: u64) -> f64 {
    used as f64 * 100.0 / share.max(1) as f64
}

/// The highest of [`THRESHOLDS_PERCENT`] that is reached.
pub fn threshold(used: u64, share: u64) -> Option<u8> {
    let reached =
        |percent: &&u8| u128::from(used) * 100 >= u128::from(share) * u128::from(**percent);
    THRESHOLDS_PERCENT.iter().rfind(reached).copied()
}

/// What becomes of an encryption for which there is no budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Exhausted {
    /// It is done all the same; the operator is told.
    #[default]
    Warn,
    /// It is refused.
    Refuse,
}

impl Exhausted {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Warn, Self::Refuse];

    /// As the configuration spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Refuse => "refuse",
        }
    }
}

/// Why an encryption is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBudget {
    /// The instance's share is used up.
    Spent,
    /// None is reserved on disk.
    NotReserved,
}

/// The encryptions under one key, over all shards.
#[derive(Debug, Default)]
pub struct Budget {
    /// Made, or leased to shards.
    taken: AtomicU64,
    /// The file on disk counts as many: nobody will count fewer after a crash.
    reserved: AtomicU64,
    /// Who refuses leases no more than this.
    end: AtomicU64,
}

impl Budget {
    /// Of a key that has encrypted so often, as the file on disk says.
    pub fn new(encryptions: u64) -> Arc<Budget> {
        let (taken, reserved) = (AtomicU64::new(encryptions), AtomicU64::new(encryptions));
        Arc::new(Budget { taken, reserved, end: AtomicU64::new(u64::MAX) })
    }

    /// How often the key has encrypted, at the most.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// How much of it is on disk.
    pub fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Acquire)
    }

    /// The file on disk counts as many now.
    pub fn set_reserved(&self, encryptions: u64) {
        self.reserved.fetch_max(encryptions, Ordering::Release);
    }

    /// Where [`Exhausted::Refuse`] ends.
    pub fn set_end(&self, encryptions: u64) {
        self.end.store(encryptions, Ordering::Relaxed);
    }

    /// Counts encryptions that were not leased.
    pub fn add(&self, encryptions: u64) {
        self.taken.fetch_add(encryptions, Ordering::Relaxed);
    }

    fn lease(&self, exhausted: Exhausted) -> Result<u64, NoBudget> {
        if exhausted == Exhausted::Warn {
            self.add(LEASE_ENCRYPTIONS);
            return Ok(LEASE_ENCRYPTIONS);
        }
        let (reserved, end) = (self.reserved(), self.end.load(Ordering::Relaxed));
        let mut leased = 0;
        let _ = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            leased = reserved.min(end).saturating_sub(taken).min(LEASE_ENCRYPTIONS);
            Some(taken + leased)
        });
        match leased {
            0 if self.taken() >= end => Err(NoBudget::Spent),
            0 => Err(NoBudget::NotReserved),
            leased => Ok(leased),
        }
    }
}

/// One shard's part of a budget.
#[derive(Debug)]
pub struct ShardBudget {
    budget: Arc<Budget>,
    exhausted: Exhausted,
    /// Leased and not used.
    left: Cell<u64>,
}

impl ShardBudget {
    /// Of this budget.
    pub fn new(budget: Arc<Budget>, exhausted: Exhausted) -> Rc<ShardBudget> {
        Rc::new(ShardBudget { budget, exhausted, left: Cell::new(0) })
    }

    /// To be called before each encryption.
    ///
    /// # Errors
    /// Why it must not be made.
    pub fn take(&self) -> Result<(), NoBudget> {
        if self.left.get() == 0 {
            self.left.set(self.budget.lease(self.exhausted)?);
        }
        self.left.set(self.left.get() - 1);
        Ok(())
    }

    /// An encryption that was taken is certain not to have begun.
    pub fn give_back(&self) {
        self.left.set(self.left.get() + 1);
    }
}

impl Drop for ShardBudget {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.left.get(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn thresholds_are_reached_at_their_percentage() {
        let share = share(2);
        assert_eq!(share, 1 << 31);
        for (used, reached) in [
            (0, None),
            (share / 2 - 1, None),
            (share / 2, Some(50)),
            (share / 4 * 3, Some(75)),
            (share - share / 10 - 1, Some(75)),
            (share - share / 10, Some(90)),
            (share - 1, Some(90)),
            (share, Some(100)),
            (u64::MAX, Some(100)),
        ] {
            assert_eq!(threshold(used, share), reached, "{used}");
        }
        assert_eq!(percent(share / 2, share), 50.0);
    }

    #[test]
    fn nothing_is_refused_where_it_is_not_asked_for() {
        let budget = Budget::new(0);
        budget.set_end(0);
        let shard = ShardBudget::new(budget.clone(), Exhausted::Warn);
        assert!((0..1000).all(|_| shard.take() == Ok(())));
        assert!((1000..1000 + LEASE_ENCRYPTIONS).contains(&budget.taken()));
        drop(shard);
        assert_eq!((budget.taken(), budget.reserved()), (1000, 0));
    }

    #[test]
    fn what_is_refused_says_why_and_others_go_on() {
        let budget = Budget::new(10);
        let shard = ShardBudget::new(budget.clone(), Exhausted::Refuse);
        assert_eq!(shard.take(), Err(NoBudget::NotReserved));
        budget.set_reserved(13);
        budget.set_end(12);
        assert_eq!([shard.take(), shard.take()], [Ok(()), Ok(())]);
        assert_eq!(shard.take(), Err(NoBudget::Spent));
        // Of another key store, which only warns.
        assert_eq!(ShardBudget::new(budget.clone(), Exhausted::Warn).take(), Ok(()));
        assert_eq!(shard.take(), Err(NoBudget::Spent));
        budget.set_end(100);
        assert_eq!(shard.take(), Err(NoBudget::NotReserved));
        budget.set_reserved(14);
        assert_eq!(shard.take(), Ok(()));
        shard.give_back();
        drop(shard);
        assert_eq!(budget.taken(), 13);
    }

    proptest! {
        /// However encryptions fall on shards: never fewer are counted than are made, and more only
        /// by what the shards have leased; where it is refused, never more than are reserved.
        #[test]
        fn leases_never_count_too_few(
            count in 1usize..9,
            reserved in 0u64..2000,
            end in 0u64..2000,
            refuse in any::<bool>(),
            steps in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..800),
        ) {
            let exhausted = if refuse { Exhausted::Refuse } else { Exhausted::Warn };
            let budget = Budget::new(0);
            budget.set_reserved(reserved);
            budget.set_end(end);
            let part = || ShardBudget::new(budget.clone(), exhausted);
            let mut shards: Vec<_> = (0..count).map(|_| part()).collect();
            let (mut made, mut unasked) = (0u64, 0u64);
            for (which, step) in steps {
                let which = which.index(count);
                match step {
                    // Another configuration came into force.
                    0 => shards[which] = part(),
                    // What no request asks for is not refused.
                    1 => { budget.add(1); unasked += 1; }
                    2 if shards[which].take().is_ok() => shards[which].give_back(),
                    _ => made += u64::from(shards[which].take().is_ok()),
                }
                let taken = budget.taken();
                prop_assert!(taken >= made + unasked);
                prop_assert!(taken <= made + unasked + count as u64 * LEASE_ENCRYPTIONS);
                prop_assert!(!refuse || made <= reserved.min(end));
            }
            drop(shards);
            prop_assert_eq!(budget.taken(), made + unasked);
        }
    }
}
