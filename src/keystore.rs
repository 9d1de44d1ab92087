//! What a request is served from: key stores and the key managers behind them. Built by the control plane, immutable, swapped whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::api::response::HealthStatus;
use crate::auth::CredentialSet;
use crate::hsm::ManagerInfo;
use crate::hsm::local::Local;
use crate::limits::PROBE_AGE_MAX;
use crate::sched::Pool;

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
                let stats = pool.stats();
                if stats.is_out {
                    HealthStatus::Unavailable
                } else if stats.lanes_hung > 0 || stats.lanes_open * 2 < pool.lanes() {
                    HealthStatus::Degraded
                } else {
                    HealthStatus::Active
                }
            }
        }
    }
}
