//! What a request is served from: key stores and the key managers behind them. Built by the control
//! plane, immutable, swapped whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::api::response::HealthStatus;
use crate::key_manager::ManagerInfo;
use crate::key_manager::local::Local;
use crate::limits::PROBE_AGE_MAX;
use crate::sched::Pool;
use crate::sigv4::CredentialSet;

/// One configuration's worth of key stores.
pub struct KeyStores {
    /// By path prefix: `/example` for `/example/kms/xks/v1/…`, empty for none.
    pub by_prefix: HashMap<String, Arc<KeyStore>>,
    /// SigV4 regions accepted.
    pub regions: Vec<String>,
    /// A request is answered within this, counted from its first byte.
    pub request_budget: Duration,
}

/// One key store: what KMS sees as an external key store.
pub struct KeyStore {
    /// Path prefix.
    pub prefix: Arc<str>,
    /// False: every authenticated request is answered InvalidStateException.
    pub enabled: bool,
    /// Who may sign.
    pub credentials: CredentialSet,
    /// By external key id.
    pub keys: HashMap<String, Key>,
    /// Replicas of the same keys.
    pub managers: Vec<Arc<Manager>>,
    /// Decrypt also what AWS's sample proxy encrypted.
    pub accept_aws_sample: bool,
}

/// One key as KMS names it.
pub struct Key {
    /// Its name in the key manager.
    pub label: Arc<str>,
    /// False: answered InvalidStateException.
    pub enabled: bool,
}

/// A key manager and what is known of its health.
pub struct Manager {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// How jobs reach it.
    pub backend: Backend,
    /// The last finished probe.
    pub probe: ArcSwapOption<Probe>,
    /// What the last look at its keys found.
    pub keys: KeyFailures,
}

/// How many of the keys that are expected of a key manager do not serve as they should.
#[derive(Debug, Default)]
pub struct KeyFailures {
    /// Not there, not AES-256, not allowed, or twice.
    pub cannot_serve: AtomicUsize,
    /// Other keys than a replica has under the same label; counted at that of the two that found
    /// it.
    pub different: AtomicUsize,
}

/// How jobs reach a key manager.
pub enum Backend {
    /// In this process, on the shard itself.
    Local(Box<Local>),
    /// Through lanes with a session each.
    Pool(Arc<Pool>),
}

/// What a deep probe found.
pub struct Probe {
    /// When it ended.
    pub at: Instant,
    /// How long encrypt and decrypt took together, or why they failed.
    pub result: Result<Duration, String>,
    /// What the module tells of itself.
    pub info: ManagerInfo,
}

impl Manager {
    /// Health as told to AWS KMS, load balancers and operators: one truth for all of them.
    pub fn health(&self, now: Instant) -> HealthStatus {
        let probe = self.probe.load();
        let Some(probe) = probe.as_ref() else { return HealthStatus::Unavailable };
        if probe.result.is_err() || now.saturating_duration_since(probe.at) > PROBE_AGE_MAX {
            return HealthStatus::Unavailable;
        }
        match &self.backend {
            Backend::Local(_) => HealthStatus::Active,
            Backend::Pool(pool) => {
                let condition = pool.snapshot(now);
                if condition.is_unavailable {
                    HealthStatus::Unavailable
                } else if condition.lanes_hung > 0 || condition.lanes_open * 2 < pool.lanes() {
                    HealthStatus::Degraded
                } else {
                    HealthStatus::Active
                }
            }
        }
    }
}

impl KeyStore {
    /// Key managers to try in turn: two different ones, or the only one twice, the second time on
    /// another session. Those that are unavailable come last, because what is known of them may be
    /// old.
    pub fn tries(&self, now: Instant) -> impl Iterator<Item = &Arc<Manager>> {
        let [first, second] = match &self.managers[..] {
            [] => [None, None],
            [only] => [Some(only), Some(only)],
            several => {
                let prospects = several.iter().map(|manager| (manager, manager.prospect(now)));
                let first = preferred(prospects.clone());
                let others = prospects
                    .filter(|(manager, _)| first.is_some_and(|first| !Arc::ptr_eq(first, manager)));
                [first, preferred(others)]
            }
        };
        first.into_iter().chain(second)
    }
}

/// Another replica is preferred to one that stands before it in the configuration when it may be
/// expected to answer in less than half the time, and sooner by this. The factor is above what the
/// probes, which measure idle replicas, and the mix of calls, which measures busy ones, differ by;
/// the time keeps in-process modules together, whose queues are shorter than it costs to have
/// another's caches cold.
const WORTH_CHANGING: Duration = Duration::from_millis(1);

/// What a request may expect of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prospect {
    health: u8,
    time: Duration,
}

impl Prospect {
    fn is_clearly_better_than(self, other: Prospect) -> bool {
        let worth = self.time.saturating_mul(2).saturating_add(WORTH_CHANGING) < other.time;
        self.health < other.health || self.health == other.health && worth
    }
}

impl Manager {
    fn prospect(&self, now: Instant) -> Prospect {
        let health = match self.health(now) {
            HealthStatus::Active => 0,
            HealthStatus::Degraded => 1,
            HealthStatus::Unavailable => 2,
        };
        let time = match &self.backend {
            Backend::Local(_) => Duration::ZERO,
            Backend::Pool(pool) => pool.snapshot(now).expected_time.unwrap_or(Duration::MAX),
        };
        Prospect { health, time }
    }
}

/// The first in order to which none of the later ones is clearly better.
fn preferred<T>(replicas: impl Iterator<Item = (T, Prospect)>) -> Option<T> {
    replicas
        .reduce(|best, next| if next.1.is_clearly_better_than(best.1) { next } else { best })
        .map(|(replica, _)| replica)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(replicas: &[(u8, u64)]) -> Option<usize> {
        preferred(
            replicas
                .iter()
                .map(|&(health, us)| Prospect { health, time: Duration::from_micros(us) })
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
        let nobody = Prospect { health: 0, time: Duration::MAX };
        assert!(!nobody.is_clearly_better_than(nobody));
        assert!(
            Prospect { health: 0, time: Duration::from_secs(1) }.is_clearly_better_than(nobody)
        );
    }
}
