//! Which of a key store's replicas serves a request: by health, then by the expected time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{KeyManager, KeyStore};
use crate::key_manager::{Fault, Health};
use crate::limits::PROBE_AGE_MAX;
use crate::sched::{PoolStats, Snapshot};

/// Another replica is preferred to one that stands before it in the configuration when it may be
/// expected to answer in less than half the time, and sooner by this. The factor is above what the
/// probes, which measure idle replicas, and the mix of calls, which measures busy ones, differ by;
/// the time keeps in-process modules together, whose queues are shorter than it costs to have
/// another's caches cold.
const WORTH_CHANGING: Duration = Duration::from_millis(1);

/// What a request may expect of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prospect {
    health: Health,
    time: Duration,
}

impl Prospect {
    fn is_clearly_better_than(self, other: Prospect) -> bool {
        let worth = self.time.saturating_mul(2).saturating_add(WORTH_CHANGING) < other.time;
        self.health < other.health || self.health == other.health && worth
    }
}

impl KeyManager {
    /// Health for AWS KMS, load balancers and operators: one truth for all of them.
    pub fn health(&self, now: Instant) -> Health {
        let probe = self.probe.load();
        if self.is_closed() {
            return Health::Unavailable;
        }
        let probe = probe.as_ref();
        let probe =
            probe.map(|probe| (probe.result.is_ok(), now.saturating_duration_since(probe.at)));
        judge(probe, self.snapshot(now))
    }

    /// Why it has the health that it has, for the operator, also where its last probe was well;
    /// `None` where it is [`Health::Active`].
    pub fn health_reason(&self, now: Instant) -> Option<String> {
        if self.health(now) == Health::Active {
            return None;
        }
        if let Some(why) = self.why_closed() {
            return Some(why);
        }
        let Some(probe) = &*self.probe.load() else {
            return Some("its first probe has not ended yet".to_owned());
        };
        let age = now.saturating_duration_since(probe.at);
        match &probe.result {
            Err(why) => Some(why.clone()),
            Ok(_) if age > PROBE_AGE_MAX => {
                Some(format!("its last probe is {} s old", age.as_secs()))
            }
            Ok(_) => missing_sessions(&self.sessions()?),
        }
    }

    fn prospect(&self, now: Instant) -> Prospect {
        Prospect { health: self.health(now), time: expected(self.snapshot(now)) }
    }
}

/// Health by the last probe (whether it was well, and its age), and how the sessions stand, of how
/// many.
fn judge(probe: Option<(bool, Duration)>, sessions: Option<(Snapshot, usize)>) -> Health {
    if !probe.is_some_and(|(is_well, age)| is_well && age <= PROBE_AGE_MAX) {
        return Health::Unavailable;
    }
    match sessions {
        Some((snapshot, _)) if snapshot.is_unavailable => Health::Unavailable,
        Some((snapshot, lanes)) if snapshot.lanes_hung > 0 || snapshot.lanes_open * 2 < lanes => {
            Health::Degraded
        }
        _ => Health::Active,
    }
}

/// When a job may be expected to be done, by how the sessions stand.
fn expected(sessions: Option<(Snapshot, usize)>) -> Duration {
    match sessions {
        // Computed at once.
        None => Duration::ZERO,
        Some((snapshot, _)) => snapshot.expected_time.unwrap_or(Duration::MAX),
    }
}

/// Which sessions are not open or hang, for the operator; `None` when all serve.
pub fn missing_sessions(stats: &PoolStats) -> Option<String> {
    let PoolStats { lanes_configured: configured, lanes_open: open, lanes_hung: hung, .. } = stats;
    let mut missing = Vec::new();
    if open < configured {
        let why =
            stats.last_fault.as_deref().map(|fault| format!(" ({fault})")).unwrap_or_default();
        let sessions = if *configured == 1 { "session is" } else { "sessions are" };
        missing.push(format!("{open} of {configured} {sessions} open{why}"));
    }
    match hung {
        0 => {}
        1 => missing.push("1 session hangs in a call".to_owned()),
        _ => missing.push(format!("{hung} sessions hang in a call")),
    }
    (!missing.is_empty()).then(|| missing.join(", "))
}

impl KeyStore {
    /// Key managers to try in turn: two different ones, or the only one twice, the second time on
    /// another session. Those that are unavailable come last, because what is known of them may be
    /// old.
    pub fn tries(&self, now: Instant) -> impl Iterator<Item = &Arc<KeyManager>> {
        let [first, second] = match &self.managers[..] {
            [] => [None, None],
            // There is nothing to choose.
            [_] => [Some(0), Some(0)],
            several => two_best(several.iter().map(|manager| manager.prospect(now))),
        };
        first.into_iter().chain(second).filter_map(|at| self.managers.get(at))
    }
}

/// Places of the best and of the best of the others.
fn two_best(prospects: impl Iterator<Item = Prospect> + Clone) -> [Option<usize>; 2] {
    let first = preferred(prospects.clone().enumerate());
    let others = prospects.enumerate().filter(|(at, _)| first.is_some_and(|first| first != *at));
    [first, preferred(others)]
}

/// How long a try may take of the time that is left: a replica that hangs must leave time for the
/// other one.
pub fn time_of_a_try(left: Duration, replica_left: bool) -> Duration {
    if replica_left { left / 2 } else { left }
}

/// Whether another try may succeed: on another session always, and `on_a_replica` also where this
/// key manager cannot.
pub fn may_pass_elsewhere(fault: &Fault, on_a_replica: bool) -> bool {
    match fault {
        Fault::Device { .. } => true,
        Fault::Busy | Fault::Timeout | Fault::KeyNotFound { .. } | Fault::KeyRefused { .. } => {
            on_a_replica
        }
        // A statement about the request or the key, which a replica of the key would repeat.
        Fault::BadCiphertext | Fault::KeyUsage | Fault::KeyDisabled | Fault::Sealed { .. } => false,
    }
}

/// The first, in their order, to which none of the later ones is clearly better.
fn preferred<T>(replicas: impl Iterator<Item = (T, Prospect)>) -> Option<T> {
    replicas
        .reduce(|best, next| if next.1.is_clearly_better_than(best.1) { next } else { best })
        .map(|(replica, _)| replica)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests {
    use super::*;

    const HEALTH: [Health; 3] = [Health::Active, Health::Degraded, Health::Unavailable];

    fn choice(replicas: &[(usize, u64)]) -> Option<usize> {
        preferred(
            replicas
                .iter()
                .map(|&(health, us)| Prospect {
                    health: HEALTH[health],
                    time: Duration::from_micros(us),
                })
                .enumerate(),
        )
    }

    #[test]
    fn health_goes_before_load_and_order_decides_between_equals() {
        assert_eq!(choice(&[]), None);
        assert_eq!(choice(&[(0, 4000), (0, 4000)]), Some(0));
        assert_eq!(choice(&[(1, 40), (0, 90_000)]), Some(1));
        assert_eq!(choice(&[(2, 40), (2, 40)]), Some(0));
        assert_eq!(choice(&[(0, 8000), (0, 4000), (0, 500)]), Some(2));
    }

    #[test]
    fn another_is_taken_when_it_is_clearly_sooner_and_not_before() {
        assert_eq!(choice(&[(0, 9000), (0, 4000)]), Some(0));
        assert_eq!(choice(&[(0, 9001), (0, 4000)]), Some(1));
        assert_eq!(choice(&[(0, 1040), (0, 20)]), Some(0), "both are quick");
        assert_eq!(choice(&[(0, 1041), (0, 20)]), Some(1));
    }

    #[test]
    fn one_that_does_not_serve_is_passed_over_without_overflow() {
        let nobody = Prospect { health: Health::Active, time: Duration::MAX };
        assert!(!nobody.is_clearly_better_than(nobody));
        assert!(
            Prospect { health: Health::Active, time: Duration::from_secs(1) }
                .is_clearly_better_than(nobody)
        );
    }
}
