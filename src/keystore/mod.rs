//! What a request is served from: key stores and the key managers behind them. Built by the control
//! plane, immutable, swapped whole.
//!
//! [`KeyManager`] is the one way to a key manager of any kind; `replicas` says which of a key
//! store's serves a request, [`BlockingClient`] is for jobs that are no request's.

mod client;
mod fleet_view;
mod key;
mod manager;
mod replicas;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::key_manager::Nonces;
use crate::policy::Policy;
use crate::policy::budget::Exhausted;
use crate::policy::quota::Quota;
use crate::sched::Share;
use crate::sigv4::CredentialSet;

pub use client::BlockingClient;
pub use fleet_view::FleetView;
pub use key::{Key, NoVersion, Version};
pub use manager::{KeyFailures, KeyManager, Probe};
pub use replicas::{may_pass_elsewhere, missing_sessions, time_of_a_try};

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
    /// What tells a message's key from others, where each has one.
    pub messages: Nonces,
    /// Replicas of the same keys.
    pub managers: Vec<Arc<KeyManager>>,
    /// Its part of a key manager that others use too.
    pub share: Share,
    /// Decrypt also what AWS's sample proxy encrypted.
    pub accept_aws_sample: bool,
    /// How many requests it may have.
    pub quota: Option<Arc<Quota>>,
    /// What becomes of an encryption for which there is no budget.
    pub exhausted: Exhausted,
    /// What AWS KMS is shown of the other instances.
    pub fleet: Arc<FleetView>,
    /// Who may do what with its keys; `None`: whoever may sign.
    pub policy: Option<Policy>,
}
