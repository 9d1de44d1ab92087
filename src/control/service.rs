//! The running service as the control plane sees it: what it is made of, and how a configuration
//! becomes that.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use zeroize::Zeroizing;

use super::probes::Challenges;
use super::reload::LastReload;
use crate::config::{self, Config, ForeignCiphertext, Kind};
use crate::key_manager::local::Local;
use crate::key_manager::pkcs11::{Pkcs11Engine, Settings};
use crate::key_manager::{Answer, KeyRef, Outcome};
use crate::keystore::{Health, Key, KeyManager, KeyStore, KeyStores};
use crate::sched::Mailbox;
use crate::sigv4::{AccessKeyId, Credential, CredentialSet, SecretAccessKey};
use crate::telemetry::{Log, ShardMetrics};
use crate::tls;

/// Everything that runs but the shards themselves.
pub struct Service {
    /// Where the configuration came from.
    pub config_file: PathBuf,
    /// The configuration in force.
    pub config: ArcSwap<Config>,
    /// What became of the last attempt to take over another.
    pub last_reload: ArcSwap<LastReload>,
    /// In the configuration's order.
    pub managers: Vec<Arc<KeyManager>>,
    /// What they encrypt for one another, to prove that replicas hold the same keys.
    pub challenges: Challenges,
    /// What shards serve.
    pub stores: Arc<ArcSwap<KeyStores>>,
    /// What shards greet new connections with.
    pub tls: Arc<ArcSwap<tls::Server>>,
    /// One a shard.
    pub metrics: Vec<Arc<ShardMetrics>>,
    /// One a shard.
    pub mailboxes: Vec<Arc<Mailbox>>,
    /// Log.
    pub log: Log,
    /// Where the shards listen, once they all do: the configuration may leave the port open.
    pub listening: OnceLock<SocketAddr>,
    /// Connections that each shard may have open.
    pub connections_a_shard: usize,
    /// Set once stopping has begun.
    pub draining: AtomicBool,
    /// Start of the process, nearly.
    pub started: Instant,
}

/// A key that a key store expects in a key manager.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpectedKey {
    /// Which.
    pub key: KeyRef,
    /// The key and its key store, for the operator; no other has the same.
    pub what: String,
    /// Other key managers must hold the same key.
    pub replicated: bool,
}

impl Service {
    /// Builds everything and starts the lanes of the key managers.
    ///
    /// # Errors
    /// For the operator: a line for each key manager that cannot be opened.
    pub fn build(
        config_file: PathBuf,
        config: Config,
        tls: tls::Server,
        shards: usize,
        connections_a_shard: usize,
        log: Log,
    ) -> Result<Service, String> {
        // All of them before the first logs in: a start that one of them refuses is tried again and
        // again, and must not spend the tries of a PIN.
        let (opened, refused): (Vec<_>, Vec<_>) =
            config.key_managers.iter().map(open).partition(Result::is_ok);
        if !refused.is_empty() {
            return Err(refused.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("\n"));
        }
        let mailboxes: Vec<Arc<Mailbox>> = (0..shards).map(|_| Arc::default()).collect();
        let start = |(configured, opened): (&config::KeyManager, Opened)| {
            let name = &configured.name;
            Arc::new(match opened {
                Opened::Local(local) => KeyManager::in_process(name, local),
                Opened::Pkcs11(engine, sessions) => {
                    KeyManager::with_sessions(name, engine, sessions, &mailboxes)
                }
            })
        };
        let opened = opened.into_iter().flatten();
        let managers: Vec<_> = config.key_managers.iter().zip(opened).map(start).collect();
        let stores = key_stores(&config, &managers)?;
        Ok(Service {
            config_file,
            config: ArcSwap::from_pointee(config),
            last_reload: ArcSwap::from_pointee(LastReload::success(Vec::new())),
            managers,
            challenges: Challenges::default(),
            stores: Arc::new(ArcSwap::from_pointee(stores)),
            tls: Arc::new(ArcSwap::from_pointee(tls)),
            metrics: (0..shards).map(|_| Arc::default()).collect(),
            mailboxes,
            log,
            listening: OnceLock::new(),
            connections_a_shard,
            draining: AtomicBool::new(false),
            started: Instant::now(),
        })
    }

    /// Whether a load balancer should send requests here: all shards listen, not stopping, and some
    /// key manager serves.
    pub fn is_ready(&self) -> bool {
        self.listening.get().is_some()
            && !self.draining.load(Ordering::Acquire)
            && self.has_key_manager()
    }

    /// Whether some key manager serves.
    pub fn has_key_manager(&self) -> bool {
        let now = Instant::now();
        self.managers.iter().any(|manager| manager.health(now) != Health::Unavailable)
    }

    /// The keys that key stores expect in a key manager.
    pub fn expected_keys(&self, manager: &Arc<KeyManager>) -> Vec<ExpectedKey> {
        let stores = self.stores.load();
        let mut keys = Vec::new();
        for store in stores
            .by_prefix
            .values()
            .filter(|store| store.managers.iter().any(|m| Arc::ptr_eq(m, manager)))
        {
            for (id, key) in &store.keys {
                let key = key.primary();
                let what =
                    format!("key {id:?} (label {:?}) of key store {:?}", key.label, store.prefix);
                keys.push(ExpectedKey { key, what, replicated: store.managers.len() > 1 });
            }
        }
        keys.sort();
        keys
    }

    /// Closes the sessions of all key managers, together by `deadline`. Gives those where a thread
    /// is still inside the module: to be called again.
    pub fn stop_key_managers(&self, deadline: Instant) -> Vec<&str> {
        let left = self.managers.iter().filter(|manager| !manager.stop(deadline));
        left.map(|manager| &*manager.name).collect()
    }

    /// Sessions of each key manager that has some, open and hung: what changes as they close.
    pub fn sessions(&self) -> Vec<(usize, usize)> {
        let stats = self.managers.iter().filter_map(|manager| manager.sessions());
        stats.map(|stats| (stats.lanes_open, stats.lanes_hung)).collect()
    }
}

/// A key manager as configured, ready to be used.
pub enum Opened {
    /// Keys in this process.
    Local(Box<Local>),
    /// A PKCS#11 token, and how many sessions to have.
    Pkcs11(Arc<Pkcs11Engine>, usize),
}

/// Opens a key manager: reads key files; does not touch an HSM yet.
///
/// # Errors
/// A sentence for the operator.
pub fn open(configured: &config::KeyManager) -> Result<Opened, String> {
    match &configured.kind {
        Kind::Local { key_file } => Local::load(key_file)
            .map(|local| Opened::Local(Box::new(local)))
            .map_err(|e| format!("key manager {:?}: {e}", configured.name)),
        Kind::Pkcs11(pkcs11) => {
            let settings = Settings {
                name: configured.name.clone(),
                module: pkcs11.module.clone(),
                token: pkcs11.token.clone(),
                pin: Zeroizing::new(pkcs11.pin.expose().to_string()),
                profile: pkcs11.profile,
                initialize_parameters: pkcs11.initialize_parameters.clone(),
                verify_encryptions: pkcs11.verify_encryptions,
            };
            let engine = Pkcs11Engine::new(settings)
                .map_err(|fault| format!("key manager {:?}: {fault}", configured.name))?;
            Ok(Opened::Pkcs11(engine, pkcs11.sessions))
        }
    }
}

/// The key stores of a configuration over key managers that run.
///
/// # Errors
/// A sentence for the operator; a validated configuration gives none.
pub fn key_stores(config: &Config, managers: &[Arc<KeyManager>]) -> Result<KeyStores, String> {
    let mut by_prefix = HashMap::new();
    for store in &config.keystores {
        let at =
            |error: &dyn std::fmt::Display| format!("key store {:?}: {error}", store.path_prefix);
        let mut credentials = Vec::new();
        for credential in &store.credentials {
            let id = AccessKeyId::new(&credential.access_key_id).map_err(|e| at(&e))?;
            let secret =
                SecretAccessKey::new(credential.secret_access_key.expose()).map_err(|e| at(&e))?;
            credentials.push(Credential::new(id, secret));
        }
        let keys = store
            .keys
            .iter()
            .map(|key| (key.id.clone(), Key::new(&key.label, key.enabled)))
            .collect();
        let built = KeyStore {
            prefix: store.path_prefix.as_str().into(),
            enabled: store.enabled,
            credentials: CredentialSet::new(credentials).map_err(|e| at(&e))?,
            keys,
            managers: store
                .key_managers
                .iter()
                .filter_map(|&index| managers.get(index).cloned())
                .collect(),
            accept_aws_sample: store
                .accept_foreign_ciphertext
                .contains(&ForeignCiphertext::AwsSample),
        };
        by_prefix.insert(store.path_prefix.clone(), Arc::new(built));
    }
    Ok(KeyStores {
        by_prefix,
        regions: config.server.regions.clone(),
        request_budget: config.server.request_budget,
    })
}

/// Why a key of this description cannot serve AWS KMS; `None` when it can.
pub fn why_not(described: Outcome) -> Option<String> {
    match described {
        Ok(Answer::Described(key)) if key.spec != "AES_256" => {
            Some(format!("it is {} and not AES_256", key.spec))
        }
        Ok(Answer::Described(key))
            if !(key.usage.contains(&"ENCRYPT") && key.usage.contains(&"DECRYPT")) =>
        {
            Some(format!(
                "its usage is {} and lacks ENCRYPT or DECRYPT",
                if key.usage.is_empty() { "empty".into() } else { key.usage.join(", ") }
            ))
        }
        Ok(Answer::Described(key)) if !key.enabled => {
            Some("today is outside its start and end date".into())
        }
        Ok(Answer::Described(_)) => None,
        Ok(_) => Some("the key manager answered another question".into()),
        Err(fault) => Some(fault.to_string()),
    }
}
