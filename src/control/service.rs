//! The running service as the control plane sees it: what it is made of, and how a configuration
//! becomes that.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use zeroize::Zeroizing;

use super::probes::Trials;
use super::reload::LastReload;
use crate::api::response::HealthStatus;
use crate::config::{Config, ForeignCiphertext, KeyManager, Kind};
use crate::key_manager::local::Local;
use crate::key_manager::pkcs11::{Pkcs11Engine, Settings};
use crate::key_manager::{Answer, Engine, Outcome};
use crate::keystore::{Backend, Key, KeyFailures, KeyStore, KeyStores, Manager};
use crate::limits::{HUNG_CALL_TIME, HUNG_OPEN_TIME};
use crate::sched::{Mailbox, Pool, PoolSettings};
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
    pub managers: Vec<Arc<Manager>>,
    /// The key managers that have lanes, for probing.
    pub probed: Vec<Probed>,
    /// What they encrypt for one another, to prove that replicas hold the same keys.
    pub trials: Trials,
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
    /// Its name in the key manager.
    pub label: Arc<str>,
    /// The key and its key store, for the operator; no other has the same.
    pub what: String,
    /// Other key managers must hold the same key.
    pub replicated: bool,
}

/// A key manager with lanes as its prober sees it.
pub struct Probed {
    /// Which.
    pub manager: Arc<Manager>,
    /// Tells what it is.
    pub engine: Arc<dyn Engine>,
    /// For outcomes of the prober's jobs: the pool's one after the shards'.
    pub mailbox: Arc<Mailbox>,
    /// Tells that the engine, which was told to, has closed.
    closed: Mutex<Option<Receiver<()>>>,
}

impl Probed {
    /// Closes the engine unless that was done; false when it hangs.
    fn close(&self, deadline: Instant) -> bool {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = closed.get_or_insert_with(|| {
            let (done, closed) = bounded(1);
            let engine = self.engine.clone();
            let close = move || {
                engine.close();
                let _ = done.send(());
            };
            // Without a thread the session goes with the process.
            let _ = std::thread::Builder::new().name("xksd-close".into()).spawn(close);
            closed
        });
        closed.recv_deadline(deadline) != Err(RecvTimeoutError::Timeout)
    }
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
        let mut managers = Vec::new();
        let mut probed = Vec::new();
        for (configured, opened) in config.key_managers.iter().zip(opened.into_iter().flatten()) {
            let manager = |backend| {
                Arc::new(Manager {
                    name: configured.name.as_str().into(),
                    backend,
                    probe: ArcSwapOption::empty(),
                    keys: KeyFailures::default(),
                })
            };
            match opened {
                Opened::Local(local) => managers.push(manager(Backend::Local(local))),
                Opened::Pkcs11(engine, sessions) => {
                    let engine: Arc<dyn Engine> = engine;
                    let settings = PoolSettings {
                        name: configured.name.clone(),
                        lanes: sessions,
                        shards,
                        hang_after: HUNG_CALL_TIME,
                        open_hang_after: HUNG_OPEN_TIME,
                    };
                    let mailbox = Mailbox::new();
                    let pool = Pool::start(
                        settings,
                        engine.clone(),
                        mailboxes.iter().chain([&mailbox]).cloned().collect(),
                    );
                    let manager = manager(Backend::Pool(pool));
                    probed.push(Probed {
                        manager: manager.clone(),
                        engine,
                        mailbox,
                        closed: Mutex::new(None),
                    });
                    managers.push(manager);
                }
            }
        }
        let stores = key_stores(&config, &managers)?;
        Ok(Service {
            config_file,
            config: ArcSwap::from_pointee(config),
            last_reload: ArcSwap::from_pointee(LastReload::success(Vec::new())),
            managers,
            probed,
            trials: Trials::default(),
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
        self.managers.iter().any(|manager| manager.health(now) != HealthStatus::Unavailable)
    }

    /// The keys that key stores expect in a key manager.
    pub fn expected_keys(&self, manager: &Arc<Manager>) -> Vec<ExpectedKey> {
        let stores = self.stores.load();
        let mut keys = Vec::new();
        for store in stores
            .by_prefix
            .values()
            .filter(|store| store.managers.iter().any(|m| Arc::ptr_eq(m, manager)))
        {
            for (id, key) in &store.keys {
                let what =
                    format!("key {id:?} (label {:?}) of key store {:?}", key.label, store.prefix);
                keys.push(ExpectedKey {
                    label: key.label.clone(),
                    what,
                    replicated: store.managers.len() > 1,
                });
            }
        }
        keys.sort();
        keys
    }

    /// Ends the lanes of all key managers and closes their engines, together by `deadline`. Gives
    /// those where some are still inside the module: to be called again.
    pub fn stop_lanes(&self, deadline: Instant) -> Vec<&str> {
        let left = |probed: &&Probed| match &probed.manager.backend {
            Backend::Pool(pool) => pool.stop(deadline) && probed.close(deadline),
            Backend::Local(_) => true,
        };
        self.probed
            .iter()
            .filter(|probed| !left(probed))
            .map(|probed| &*probed.manager.name)
            .collect()
    }

    /// Sessions of each key manager with lanes, open and hung: what changes as they close.
    pub fn sessions(&self) -> Vec<(usize, usize)> {
        let pools = self.probed.iter().filter_map(|probed| {
            if let Backend::Pool(pool) = &probed.manager.backend { Some(pool) } else { None }
        });
        pools.map(|pool| pool.stats()).map(|stats| (stats.lanes_open, stats.lanes_hung)).collect()
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
pub fn open(configured: &KeyManager) -> Result<Opened, String> {
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
pub fn key_stores(config: &Config, managers: &[Arc<Manager>]) -> Result<KeyStores, String> {
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
            .map(|key| {
                (key.id.clone(), Key { label: key.label.as_str().into(), enabled: key.enabled })
            })
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
