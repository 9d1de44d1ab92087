//! Quotas: how many requests a second, at once in a burst, and at the same time a key store or a
//! key may have.
//!
//! Pure: time is passed in, as nanoseconds since a start of the caller's. Shards share two atomics
//! a quota, and touch them only for a lease of many requests. What shards have leased and not used
//! is the error of this division, and it is bounded: a quarter of a burst, and a quarter of the
//! places.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// A lease holds at most what the rate gives in this time, and counts for so long; then it is given
/// back.
const LEASE_TIME: Duration = Duration::from_millis(10);
/// All shards together hold at most this part of a burst, and of the requests under way, that they
/// do not use.
const LEASED_PART: u64 = 4;
const SECOND_NS: u64 = 1_000_000_000;

/// The bounds of one quota; what is left out is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Requests a second.
    pub rate: Option<Rate>,
    /// Requests under way at the same time, at least 1.
    pub concurrent: Option<u64>,
}

/// Requests a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In the long run; 1 to 1,000,000,000.
    pub requests_per_second: u64,
    /// At once after a silence, at least 1.
    pub burst: u64,
}

impl Rate {
    /// From one request to the next, nanoseconds; rounded up: never more a second than this.
    fn interval_ns(self) -> u64 {
        SECOND_NS.div_ceil(self.requests_per_second.max(1))
    }
}

/// A request goes beyond a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// More a second than `requests_per_second` and `burst` allow.
    Rate,
    /// More at the same time than `concurrent` allows.
    Concurrency,
}

/// One quota, over all shards.
#[derive(Debug)]
pub struct Quota {
    bounds: Bounds,
    /// GCRA's theoretical arrival time, nanoseconds since the start: requests up to then are paid.
    paid_until_ns: AtomicU64,
    /// Places that are leased to shards.
    places_leased: AtomicUsize,
    /// Requests that one lease pays for, at most.
    requests_a_lease: u64,
    /// Places that a shard leases at once.
    places_a_lease: usize,
}

impl Quota {
    /// For this number of shards.
    pub fn new(bounds: Bounds, shards: usize) -> Arc<Quota> {
        let share = |of: u64| (of / (LEASED_PART * shards.max(1) as u64)).max(1);
        let requests_a_lease = bounds.rate.map_or(1, |rate| {
            let meanwhile = rate.requests_per_second * LEASE_TIME.as_millis() as u64 / 1000;
            share(rate.burst).min(meanwhile.max(1))
        });
        Arc::new(Quota {
            bounds,
            paid_until_ns: AtomicU64::new(0),
            places_leased: AtomicUsize::new(0),
            requests_a_lease,
            places_a_lease: bounds.concurrent.map_or(1, share) as usize,
        })
    }

    /// Its bounds.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Pays for a lease; gives how many requests there are, none where the rate is exceeded, and
    /// until when they are paid.
    fn pay(&self, rate: Rate, now_ns: u64) -> (u64, u64) {
        let interval_ns = rate.interval_ns();
        let end = now_ns.saturating_add(interval_ns.saturating_mul(rate.burst));
        let mut until = self.paid_until_ns.load(Ordering::Relaxed);
        loop {
            let from = until.max(now_ns);
            let count = self.requests_a_lease.min(end.saturating_sub(from) / interval_ns);
            if count == 0 {
                return (0, 0);
            }
            let paid = from + count * interval_ns;
            let order = (Ordering::Relaxed, Ordering::Relaxed);
            match self.paid_until_ns.compare_exchange_weak(until, paid, order.0, order.1) {
                Ok(_) => return (count, paid),
                Err(other) => until = other,
            }
        }
    }

    /// Leases places; gives how many, none where all are taken.
    fn lease_places(&self, of: u64) -> usize {
        let all = usize::try_from(of).unwrap_or(usize::MAX);
        let mut count = 0;
        let order = (Ordering::Relaxed, Ordering::Relaxed);
        let _ = self.places_leased.fetch_update(order.0, order.1, |leased| {
            count = self.places_a_lease.min(all.saturating_sub(leased));
            Some(leased + count)
        });
        count
    }
}

/// One shard's part of a quota.
#[derive(Debug)]
pub struct ShardQuota {
    quota: Arc<Quota>,
    /// Requests that are paid for and not made yet, until when they count, and until when they are
    /// paid.
    paid: Cell<u64>,
    paid_end_ns: Cell<u64>,
    paid_until_ns: Cell<u64>,
    /// Places that are leased and free.
    free_places: Cell<usize>,
}

/// A request that is within its quota. It counts as under way until this is dropped.
#[derive(Debug)]
#[must_use = "the request counts as under way until this is dropped"]
pub struct Admission(Rc<ShardQuota>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.give_place_back();
    }
}

impl ShardQuota {
    /// Of this quota.
    pub fn new(quota: Arc<Quota>) -> Rc<ShardQuota> {
        let (paid, paid_end_ns, paid_until_ns, free_places) = Default::default();
        Rc::new(ShardQuota { quota, paid, paid_end_ns, paid_until_ns, free_places })
    }

    /// The quota.
    pub fn quota(&self) -> &Arc<Quota> {
        &self.quota
    }

    /// Lets one request in, or says what it goes beyond.
    ///
    /// # Errors
    /// Which bound it exceeds; then it counts for neither.
    pub fn admit(self: &Rc<Self>, now_ns: u64) -> Result<Admission, Exceeded> {
        if !self.take_place() {
            return Err(Exceeded::Concurrency);
        }
        let admission = Admission(self.clone());
        if self.take_paid(now_ns) { Ok(admission) } else { Err(Exceeded::Rate) }
    }

    fn take_paid(&self, now_ns: u64) -> bool {
        let Some(rate) = self.quota.bounds.rate else { return true };
        if self.paid.get() > 0 && now_ns >= self.paid_end_ns.get() {
            let left_ns = self.paid.take() * rate.interval_ns();
            // What was paid for a time that has passed is gone: as much would be paid now.
            if self.paid_until_ns.get() > now_ns {
                self.quota.paid_until_ns.fetch_sub(left_ns, Ordering::Relaxed);
            }
        }
        if self.paid.get() == 0 {
            let (count, until_ns) = self.quota.pay(rate, now_ns);
            self.paid.set(count);
            self.paid_until_ns.set(until_ns);
            self.paid_end_ns.set(now_ns.saturating_add(LEASE_TIME.as_nanos() as u64));
        }
        let left = self.paid.get().checked_sub(1);
        left.inspect(|&left| self.paid.set(left)).is_some()
    }

    /// Takes back that a request was admitted, which another quota then refused.
    pub fn take_back(self: &Rc<Self>, admission: Admission) {
        if self.quota.bounds.rate.is_some() {
            self.paid.set(self.paid.get() + 1);
        }
        drop(admission);
    }

    fn take_place(&self) -> bool {
        let Some(all) = self.quota.bounds.concurrent else { return true };
        if self.free_places.get() == 0 {
            self.free_places.set(self.quota.lease_places(all));
        }
        let left = self.free_places.get().checked_sub(1);
        left.inspect(|&left| self.free_places.set(left)).is_some()
    }

    fn give_place_back(&self) {
        if self.quota.bounds.concurrent.is_none() {
            return;
        }
        let free = self.free_places.get() + 1;
        // Less than a lease may stay: where a lease is one place, none does.
        if free >= self.quota.places_a_lease {
            self.quota.places_leased.fetch_sub(free, Ordering::Relaxed);
            self.free_places.set(0);
        } else {
            self.free_places.set(free);
        }
    }
}

impl Drop for ShardQuota {
    fn drop(&mut self) {
        self.quota.places_leased.fetch_sub(self.free_places.get(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn shards(bounds: Bounds, count: usize) -> Vec<Rc<ShardQuota>> {
        let quota = Quota::new(bounds, count);
        (0..count).map(|_| ShardQuota::new(quota.clone())).collect()
    }

    fn rate(requests_per_second: u64, burst: u64) -> Bounds {
        Bounds { rate: Some(Rate { requests_per_second, burst }), concurrent: None }
    }

    #[test]
    fn a_burst_then_the_rate() {
        let shard = &shards(rate(1000, 50), 1)[0];
        let admitted = |now| (0..1000).filter(|_| shard.admit(now).is_ok()).count();
        assert_eq!(admitted(MS), 50);
        assert_eq!(admitted(2 * MS), 1);
        assert_eq!(admitted(10 * MS), 8);
        assert_eq!(admitted(10_000 * MS), 50, "no more than a burst is saved");
        assert_eq!(shard.admit(10_000 * MS).unwrap_err(), Exceeded::Rate);
    }

    #[test]
    fn places_are_given_back_by_what_is_dropped() {
        let bounds = Bounds { rate: None, concurrent: Some(3) };
        let all = shards(bounds, 2);
        let held: Vec<_> = (0..3).map(|at| all[at % 2].admit(0).unwrap()).collect();
        assert_eq!(all[1].admit(0).unwrap_err(), Exceeded::Concurrency);
        drop(held);
        assert!((0..100).all(|at| all[at % 2].admit(0).is_ok()), "a quiet shard keeps none");
    }

    #[test]
    fn a_request_beyond_the_rate_takes_no_place() {
        let bounds = Bounds { concurrent: Some(1), ..rate(1, 1) };
        let shard = &shards(bounds, 1)[0];
        drop(shard.admit(0).unwrap());
        assert_eq!(shard.admit(0).unwrap_err(), Exceeded::Rate);
        assert!(shard.admit(2000 * MS).is_ok());
    }

    #[test]
    fn after_a_silence_no_more_than_a_burst() {
        for (per_second, burst, count) in [(1800, 3600, 8), (1000, 80, 2), (20_000, 2000, 64)] {
            let all = shards(rate(per_second, burst), count);
            let leases = all.iter().filter(|shard| shard.admit(MS).is_ok()).count();
            assert!(leases > 0);
            let later = 3600 * SECOND_NS;
            let first = (0..2 * burst).filter(|_| all[0].admit(later).is_ok()).count();
            let of_others = all[1..]
                .iter()
                .map(|shard| (0..2 * burst).filter(|_| shard.admit(later).is_ok()).count());
            let admitted = first + of_others.sum::<usize>();
            assert!(admitted <= burst as usize, "{admitted} of {burst}");
        }
    }

    #[test]
    fn what_another_quota_refuses_is_taken_back() {
        let shard = &shards(rate(1, 2), 1)[0];
        for _ in 0..10 {
            let admission = shard.admit(0).unwrap();
            shard.take_back(admission);
        }
        assert!(shard.admit(0).is_ok() && shard.admit(0).is_ok());
        assert_eq!(shard.admit(0).unwrap_err(), Exceeded::Rate);
    }

    proptest! {
        /// However requests fall on shards: never more than the quota, and less only by what the
        /// shards have leased and not used, once.
        #[test]
        fn the_error_of_dividing_is_bounded(
            count in 1usize..9,
            per_second in 100u64..20_000,
            burst_ms in 1u64..2000,
            chosen in prop::collection::vec(any::<prop::sample::Index>(), 1..64),
        ) {
            let burst = (per_second * burst_ms / 1000).max(1);
            let all = shards(rate(per_second, burst), count);
            let interval = SECOND_NS.div_ceil(per_second);
            // 16 times the rate for 500 ms, in bursts on one shard after the other.
            let (mut admitted, mut now) = (0, SECOND_NS);
            let mut requests = 0;
            while now < SECOND_NS + 500 * MS {
                let shard = chosen[requests / 7 % chosen.len()].index(count);
                admitted += u64::from(all[shard].admit(now).is_ok());
                requests += 1;
                now += interval / 16;
            }
            let most = burst + (now - SECOND_NS) / interval + 1;
            prop_assert!(admitted <= most, "{admitted} of {most}");
            let wanted = (requests as u64).min(most);
            let leased = (all[0].quota.requests_a_lease - 1) * count as u64;
            prop_assert!(leased <= burst / LEASED_PART);
            // Where a burst is one request, it waits for the next one up to a 16th of the interval.
            let waited = wanted / 8 + 1;
            prop_assert!(admitted + leased + waited >= wanted, "{admitted} + {leased} of {wanted}");
        }

        /// However places are taken and given back: never more than there are, and those that quiet
        /// shards keep are less than a quarter.
        #[test]
        fn places_are_bounded(
            count in 1usize..9,
            concurrent in 1u64..200,
            steps in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..600),
        ) {
            let all = shards(Bounds { rate: None, concurrent: Some(concurrent) }, count);
            let mut held = Vec::new();
            for (which, take) in steps {
                if take {
                    match all[which.index(count)].admit(0) {
                        Ok(place) => held.push(place),
                        Err(exceeded) => {
                            prop_assert_eq!(exceeded, Exceeded::Concurrency);
                            let taken = held.len() as u64 + concurrent / LEASED_PART;
                            prop_assert!(taken >= concurrent);
                        }
                    }
                } else if !held.is_empty() {
                    drop(held.swap_remove(which.index(held.len())));
                }
                prop_assert!(held.len() as u64 <= concurrent);
            }
            drop(held);
            let quota = all[0].quota.clone();
            drop(all);
            prop_assert_eq!(quota.places_leased.load(Ordering::Relaxed), 0);
        }
    }
}
