//! Counters and histograms of one shard.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::limits::{DENYING_POLICIES_COUNTED_MAX, KEY_COUNTERS_MAX};

/// Latencies are counted from 1 µs to this, microseconds; longer ones count as this long.
const LATENCY_MAX_US: u64 = 60_000_000;
/// Two digits: a figure is at most 1 % off, and a histogram takes 20 KiB.
const SIGNIFICANT_DIGITS: u8 = 2;

/// No policy and no key has this id.
const OTHER: &str = "(other)";
/// Made once: no request allocates it.
static OTHER_KEYS: LazyLock<Arc<str>> = LazyLock::new(|| OTHER.into());

/// What requests are counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKey {
    /// Path prefix of the key store; empty for requests that reached none.
    pub key_store: Arc<str>,
    /// `encrypt`, `decrypt`, `metadata`, `health`, or `none`.
    pub operation: &'static str,
    /// The error's name, or `none`.
    pub error: &'static str,
}

/// What requests for keys that there are are counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRequests {
    /// Path prefix of the key store.
    pub key_store: Arc<str>,
    /// External key id, `(other)` for those that are counted together.
    pub key: Arc<str>,
    /// `encrypt`, `decrypt` or `metadata`.
    pub operation: &'static str,
    /// The error's name, or `none`.
    pub error: &'static str,
}

/// The three times of a request, each of one operation.
#[derive(Clone)]
pub struct Latencies {
    /// From the request's first byte to its answer.
    pub total: Histogram<u64>,
    /// Waiting for a session.
    pub queue: Histogram<u64>,
    /// In the key manager.
    pub hsm: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Latencies {
        let empty = Histogram::new_with_bounds(1, LATENCY_MAX_US, SIGNIFICANT_DIGITS)
            .expect("bounds are constants");
        Latencies { total: empty.clone(), queue: empty.clone(), hsm: empty }
    }
}

impl Latencies {
    /// Adds another shard's.
    pub fn add(&mut self, other: &Latencies) {
        for (mine, theirs) in [
            (&mut self.total, &other.total),
            (&mut self.queue, &other.queue),
            (&mut self.hsm, &other.hsm),
        ] {
            mine.add(theirs).expect("all histograms have the same bounds");
        }
    }
}

/// Requests of one shard, by key store, operation and error; latencies by operation.
#[derive(Clone, Default)]
pub struct Requests {
    /// Answers given.
    pub answered: BTreeMap<RequestKey, u64>,
    /// Those for keys that there are.
    pub by_key: BTreeMap<KeyRequests, u64>,
    /// Times, by operation.
    pub latencies: BTreeMap<&'static str, Latencies>,
    /// Refused authentications by reason.
    pub unauthenticated: BTreeMap<&'static str, u64>,
    /// Requests beyond a quota, by key store.
    pub quota_exceeded: BTreeMap<Arc<str>, u64>,
    /// Requests that policies denied, or would have.
    pub policy_denied: BTreeMap<DenialKey, u64>,
}

/// What denials of policies are counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DenialKey {
    /// Path prefix of the key store.
    pub key_store: Arc<str>,
    /// The ids of the policies that denied; empty where none permitted.
    pub policy: Arc<str>,
    /// `enforce` or `dry-run`.
    pub mode: &'static str,
}

/// One shard's figures, on cache lines that no other shard writes to.
#[derive(Default)]
#[repr(align(128))]
pub struct ShardMetrics {
    requests: Mutex<Requests>,
    handshake_failures: Mutex<BTreeMap<&'static str, u64>>,
    /// Connections open now.
    pub connections_open: AtomicU64,
    /// Connections accepted since the start.
    pub connections_accepted: AtomicU64,
    /// Connections closed because the shard had its maximum: at accept, or to make room.
    pub connections_refused: AtomicU64,
    /// Connections ended because a reload no longer admits their clients.
    pub connections_withdrawn: AtomicU64,
    /// Completed handshakes.
    pub handshakes: AtomicU64,
    /// Completed handshakes that resumed an earlier session.
    pub handshakes_resumed: AtomicU64,
    /// Decrypts of a newer version of a key than is known.
    pub newer_key_versions: AtomicU64,
    /// accept(2) failures (descriptors exhausted and the like).
    pub accept_errors: AtomicU64,
}

/// Records a duration in whole microseconds, at least 1 so that it is counted at all.
fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record((time.as_micros() as u64).max(1));
}

/// A poisoned lock here guards plain counters: they stay usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ShardMetrics {
    /// Counts one answered request; `hsm` is queue wait and key manager time, where it got that
    /// far.
    pub fn request(&self, key: &RequestKey, total: Duration, hsm: Option<(Duration, Duration)>) {
        let mut requests = lock(&self.requests);
        match requests.answered.get_mut(key) {
            Some(count) => *count += 1,
            None => {
                requests.answered.insert(key.clone(), 1);
            }
        }
        let latencies = requests.latencies.entry(key.operation).or_default();
        record(&mut latencies.total, total);
        if let Some((queue, hsm)) = hsm {
            record(&mut latencies.queue, queue);
            record(&mut latencies.hsm, hsm);
        }
    }

    /// Counts the same request by its key; `counted_as` as the key says.
    pub fn request_for_key(&self, request: &RequestKey, counted_as: Option<Arc<str>>) {
        let RequestKey { key_store, operation, error } = request.clone();
        let key = counted_as.unwrap_or_else(|| OTHER_KEYS.clone());
        let mut key = KeyRequests { key_store, key, operation, error };
        let by_key = &mut lock(&self.requests).by_key;
        if by_key.len() >= KEY_COUNTERS_MAX && !by_key.contains_key(&key) {
            key.key = OTHER_KEYS.clone();
        }
        *by_key.entry(key).or_default() += 1;
    }

    /// Counts a refused authentication.
    pub fn unauthenticated(&self, reason: &'static str) {
        *lock(&self.requests).unauthenticated.entry(reason).or_default() += 1;
    }

    /// Counts a request beyond a quota of this key store or of one of its keys.
    pub fn quota_exceeded(&self, key_store: &Arc<str>) {
        *lock(&self.requests).quota_exceeded.entry(key_store.clone()).or_default() += 1;
    }

    /// Counts a request that these policies denied, or would have. Policies come and go with the
    /// configuration: those beyond [`DENYING_POLICIES_COUNTED_MAX`] are counted together.
    pub fn policy_denied(&self, key_store: &Arc<str>, policy: &Arc<str>, mode: &'static str) {
        let mut requests = lock(&self.requests);
        let denied = &mut requests.policy_denied;
        let mut key = DenialKey { key_store: key_store.clone(), policy: policy.clone(), mode };
        if denied.len() >= DENYING_POLICIES_COUNTED_MAX && !denied.contains_key(&key) {
            key.policy = OTHER.into();
        }
        *denied.entry(key).or_default() += 1;
    }

    /// Counts a failed handshake by its reason.
    pub fn handshake_failed(&self, reason: &'static str) {
        *lock(&self.handshake_failures).entry(reason).or_default() += 1;
    }

    /// A copy of the request figures.
    pub fn requests(&self) -> Requests {
        lock(&self.requests).clone()
    }

    /// A copy of the handshake failures by reason.
    pub fn handshake_failures(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.handshake_failures).clone()
    }
}

/// The figures of all shards added up.
#[derive(Default)]
pub struct Totals {
    /// Requests and latencies.
    pub requests: Requests,
    /// Failed handshakes by reason.
    pub handshake_failures: BTreeMap<&'static str, u64>,
    /// See [`ShardMetrics`].
    pub connections_accepted: u64,
    /// See [`ShardMetrics`].
    pub connections_refused: u64,
    /// See [`ShardMetrics`].
    pub connections_withdrawn: u64,
    /// See [`ShardMetrics`].
    pub handshakes: u64,
    /// See [`ShardMetrics`].
    pub handshakes_resumed: u64,
    /// See [`ShardMetrics`].
    pub newer_key_versions: u64,
    /// See [`ShardMetrics`].
    pub accept_errors: u64,
}

impl Totals {
    /// Adds up.
    pub fn of(shards: &[Arc<ShardMetrics>]) -> Totals {
        let mut totals = Totals::default();
        for shard in shards {
            let requests = shard.requests();
            for (key, count) in requests.answered {
                *totals.requests.answered.entry(key).or_default() += count;
            }
            for (key, count) in requests.by_key {
                *totals.requests.by_key.entry(key).or_default() += count;
            }
            for (operation, latencies) in &requests.latencies {
                totals.requests.latencies.entry(operation).or_default().add(latencies);
            }
            for (reason, count) in requests.unauthenticated {
                *totals.requests.unauthenticated.entry(reason).or_default() += count;
            }
            for (key_store, count) in requests.quota_exceeded {
                *totals.requests.quota_exceeded.entry(key_store).or_default() += count;
            }
            for (key, count) in requests.policy_denied {
                *totals.requests.policy_denied.entry(key).or_default() += count;
            }
            for (reason, count) in shard.handshake_failures() {
                *totals.handshake_failures.entry(reason).or_default() += count;
            }
            totals.connections_accepted += shard.connections_accepted.load(Ordering::Relaxed);
            totals.connections_refused += shard.connections_refused.load(Ordering::Relaxed);
            totals.connections_withdrawn += shard.connections_withdrawn.load(Ordering::Relaxed);
            totals.handshakes += shard.handshakes.load(Ordering::Relaxed);
            totals.handshakes_resumed += shard.handshakes_resumed.load(Ordering::Relaxed);
            totals.newer_key_versions += shard.newer_key_versions.load(Ordering::Relaxed);
            totals.accept_errors += shard.accept_errors.load(Ordering::Relaxed);
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(error: &'static str) -> RequestKey {
        RequestKey { key_store: "/a".into(), operation: "encrypt", error }
    }

    #[test]
    fn shards_add_up() {
        let shards = [Arc::new(ShardMetrics::default()), Arc::new(ShardMetrics::default())];
        shards[0].request(
            &key("none"),
            Duration::from_millis(2),
            Some((Duration::from_micros(10), Duration::from_micros(900))),
        );
        shards[1].request(&key("none"), Duration::from_millis(4), None);
        shards[1].request(&key("ThrottlingException"), Duration::ZERO, None);
        shards[1].handshake_failed("timeout");
        let totals = Totals::of(&shards);
        assert_eq!(totals.requests.answered[&key("none")], 2);
        assert_eq!(totals.requests.answered[&key("ThrottlingException")], 1);
        let latencies = &totals.requests.latencies["encrypt"];
        assert_eq!((latencies.total.len(), latencies.queue.len(), latencies.hsm.len()), (3, 1, 1));
        assert_eq!(totals.handshake_failures["timeout"], 1);
    }

    #[test]
    fn denials_of_many_policies_are_counted_together() {
        let metrics = ShardMetrics::default();
        let key_store = "/a".into();
        for number in 0..DENYING_POLICIES_COUNTED_MAX + 7 {
            metrics.policy_denied(&key_store, &number.to_string().into(), "enforce");
        }
        metrics.policy_denied(&key_store, &"0".into(), "enforce");
        let denied = metrics.requests().policy_denied;
        let count = |policy: &str| {
            let key =
                DenialKey { key_store: key_store.clone(), policy: policy.into(), mode: "enforce" };
            denied[&key]
        };
        assert_eq!((count("0"), count("1"), count(OTHER)), (2, 1, 7));
    }

    #[test]
    fn keys_beyond_the_bound_are_counted_together() {
        let metrics = ShardMetrics::default();
        for number in 0..KEY_COUNTERS_MAX + 7 {
            metrics.request_for_key(&key("none"), Some(number.to_string().into()));
        }
        metrics.request_for_key(&key("none"), Some("0".into()));
        metrics.request_for_key(&key("none"), None);
        let counts = metrics.requests().by_key;
        let count = |id: &str| {
            let of = |key: &KeyRequests| &*key.key == id;
            counts.iter().filter(|(key, _)| of(key)).map(|(_, count)| count).sum::<u64>()
        };
        assert_eq!((count("0"), count("1"), count(OTHER)), (2, 1, 8));
        assert_eq!(counts.len(), KEY_COUNTERS_MAX + 1);
    }

    #[test]
    fn a_latency_beyond_the_range_counts_as_the_longest() {
        let metrics = ShardMetrics::default();
        metrics.request(&key("none"), Duration::from_secs(3600), None);
        let longest = metrics.requests().latencies["encrypt"].total.max();
        assert!(longest >= LATENCY_MAX_US, "{longest}");
    }
}
