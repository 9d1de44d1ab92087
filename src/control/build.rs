//! How a configuration becomes what runs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::attendants::Attendants;
use super::audit::ServiceAudit;
use super::blocks::Blocks;
use super::budgets::{Budgets, KeyName};
use super::digests::Digests;
use super::fleet::documents::refuse_forgotten_blocks;
use super::fleet::{Fleet, view};
use super::last_reload::LastReload;
use super::movable_listener::MovableListener;
use super::notify::Notify;
use super::span_export;
use super::state::State;
use super::state_dir::StateDir;
use super::unsealing::{self, KeyFiles};
use super::watched::Watched;
use super::witness::listener::ServiceWitness;
use crate::config::{self, Config, ForeignCiphertext, Kind, shell_word};
use crate::key_manager::local::Local;
use crate::key_manager::pkcs11::{Pkcs11Engine, Settings};
use crate::key_manager::wrapped::Wrapped;
use crate::key_manager::{Cipher, Engine, InProcess, KeyRef, Nonces};
use crate::keystore::{FleetView, Key, KeyManager, KeyStore, KeyStores, Version};
use crate::limits::{KEYS_COUNTED_MAX, SPARE_CLIENTS};
use crate::policy::Policy;
use crate::policy::budget::Budget;
use crate::policy::cedar::Revision;
use crate::policy::quota::{Bounds, Quota};
use crate::sched::{Mailbox, Share};
use crate::shard::Balancers;
use crate::sigv4::{AccessKeyId, Credential, CredentialSet, SecretAccessKey};
use crate::telemetry::{Level, Log};
use crate::tls;

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
) -> Result<State, String> {
    // All before the first logs in: a start that is refused must not spend the tries of a PIN.
    let opened = open_all(&config)?;
    let dir = state_dir(&config, &log)?;
    let blocks = Arc::new(Blocks::load(dir.clone())?);
    let fleet = fleet(&config, &dir, &blocks, &log)?;
    let fleet_view = view::new(&config);
    let witness = ServiceWitness::open(&config, &dir)?;
    let key_files = Arc::new(KeyFiles::load(dir.clone())?);
    let budgets = Budgets::load(dir.clone())?;
    let audit = ServiceAudit::new(shards);
    audit.take_over(audit.open(&config)?, &config, &log)?;
    let mailboxes: Vec<Arc<Mailbox>> = (0..shards).map(|_| Arc::default()).collect();
    let opened = config.key_managers.iter().zip(opened);
    let (wrapped, managers): (Vec<_>, Vec<_>) =
        opened.map(|(c, opened)| (opened.wrapped(), start(&config, c, opened, &mailboxes))).unzip();
    let unsealing = config.key_managers.iter().zip(wrapped).filter_map(|(configured, keys)| {
        unsealing::of((&config, configured), keys?, &managers, &key_files, &log)
    });
    let unsealing = unsealing.collect();
    budgets.expect(&config, &managers);
    let stores = key_stores(&config, &managers, shards, &budgets, (None, &fleet_view))?;
    Ok(State {
        config_file,
        spans: span_export::start(&config.server.otlp, &log)?,
        balancers: Arc::new(ArcSwap::from_pointee(Balancers(config.server.proxy_protocol.clone()))),
        digests: ArcSwap::from_pointee(Digests::of(&config, &stores)),
        config: ArcSwap::from_pointee(config),
        last_reload: ArcSwap::from_pointee(LastReload::success(Vec::new(), Vec::new())),
        managers: ArcSwap::from_pointee(managers),
        attendants: Attendants::default(),
        candidate: ArcSwapOption::empty(),
        stores: Arc::new(ArcSwap::from_pointee(stores)),
        tls: Arc::new(ArcSwap::from_pointee(tls)),
        metrics: (0..shards).map(|_| Arc::default()).collect(),
        mailboxes,
        log,
        audit,
        blocks,
        state_dir: dir,
        fleet: fleet.map_or_else(OnceLock::new, OnceLock::from),
        fleet_view,
        witness,
        admin: admin_listener(),
        watched: Watched::default(),
        refused_files: Mutex::default(),
        control_reachable: AtomicBool::new(true),
        unsealing: ArcSwap::from_pointee(unsealing),
        key_files,
        budgets,
        reloading: Mutex::new(()),
        reloads_asked: AtomicUsize::new(0),
        applying: Mutex::new(()),
        listening: OnceLock::new(),
        connections_a_shard,
        keys_listed: AtomicBool::new(false),
        notify: Notify::from_environment(),
        draining: AtomicBool::new(false),
        started: Instant::now(),
    })
}

fn open_all(config: &Config) -> Result<Vec<Opened>, String> {
    let (opened, refused): (Vec<_>, Vec<_>) =
        config.key_managers.iter().map(open).partition(Result::is_ok);
    if refused.is_empty() {
        return Ok(opened.into_iter().flatten().collect());
    }
    Err(refused.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("\n"))
}

fn admin_listener() -> MovableListener {
    MovableListener::new("admin.listen", "xksd-admin", |address| {
        format!("admin listener on http://{address}: / /livez /readyz /ping /metrics /status")
    })
}

fn fleet(
    config: &Config,
    dir: &StateDir,
    blocks: &Arc<Blocks>,
    log: &Log,
) -> Result<Option<Arc<Fleet>>, String> {
    if config.fleet.as_ref().is_none_or(|fleet| fleet.etcd().is_none()) {
        refuse_forgotten_blocks(dir)?;
    }
    let open = |fleet: &config::Fleet| Fleet::open(fleet, dir, blocks, log).map(Arc::new);
    config.fleet.as_ref().map(open).transpose()
}

/// How many clients a key manager must have at a time: its prober and who opens wrapped keys with
/// it, twice, since one that a reload brings stands beside the one before it for a while.
pub fn clients(config: &Config, name: &str) -> usize {
    1 + 2 * unsealing::clients(config, name)
}

/// Starts the lanes of a key manager.
pub fn start(
    config: &Config,
    configured: &config::KeyManager,
    opened: Opened,
    mailboxes: &[Arc<Mailbox>],
) -> Arc<KeyManager> {
    let name = &configured.name;
    Arc::new(match opened {
        Opened::InProcess(keys) => KeyManager::in_process(name, keys),
        Opened::Wrapped(keys) => KeyManager::in_process(name, keys),
        Opened::Sessions(engine, sessions) => {
            let clients = clients(config, name) + SPARE_CLIENTS;
            KeyManager::with_sessions(name, engine, sessions, mailboxes, clients)
        }
    })
}

/// The state directory. One without a state may be a volume that is not mounted: what was blocked
/// would be answered.
fn state_dir(config: &Config, log: &Log) -> Result<Arc<StateDir>, String> {
    let path = &config.server.state_directory;
    let dir = StateDir::open(path)?;
    if dir.is_new()? {
        let shown = path.display();
        if config.server.require_state {
            return Err(format!(
                "state directory {shown} has no state of xksd, and server.require_state is true: \
                 is its volume mounted? If it is new, run: touch {}",
                shell_word(&dir.marker())
            ));
        }
        let message = format!(
            "state directory {shown} is new: nothing is blocked, and the encryptions of keys are \
             counted from now on"
        );
        log.event(Level::Warn, message);
    }
    Ok(Arc::new(dir))
}

/// A key manager as configured, ready to be used.
pub enum Opened {
    /// One that computes in this process.
    InProcess(Arc<dyn InProcess>),
    /// The same, with keys that an HSM is to open.
    Wrapped(Arc<Wrapped>),
    /// One with sessions, and how many to have.
    Sessions(Arc<dyn Engine>, usize),
}

impl Opened {
    /// The keys that an HSM is to open.
    pub fn wrapped(&self) -> Option<Arc<Wrapped>> {
        match self {
            Opened::Wrapped(keys) => Some(keys.clone()),
            Opened::InProcess(_) | Opened::Sessions(..) => None,
        }
    }
}

/// Opens a key manager: reads key files; does not touch an HSM yet.
///
/// # Errors
/// A sentence for the operator.
pub fn open(configured: &config::KeyManager) -> Result<Opened, String> {
    match &configured.kind {
        Kind::Local { key_file } => Local::load(key_file)
            .map(|local| Opened::InProcess(Arc::new(local)))
            .map_err(|e| format!("key manager {:?}: {e}", configured.name)),
        Kind::Wrapped(wrapped) => Wrapped::new(wrapped.memory)
            .map(|wrapped| Opened::Wrapped(Arc::new(wrapped)))
            .map_err(|e| format!("key manager {:?}: {e}", configured.name)),
        Kind::Pkcs11(pkcs11) => {
            let settings = Settings {
                name: configured.name.clone(),
                module: pkcs11.module.clone(),
                token: pkcs11.token.clone(),
                pin: pkcs11.pin.clone(),
                profile: pkcs11.profile,
                initialize_parameters: pkcs11.initialize_parameters.clone(),
                verify_encryptions: pkcs11.verify_encryptions,
                read_write_sessions: pkcs11.read_write_sessions,
            };
            let engine = Pkcs11Engine::new(settings)
                .and_then(|engine| engine.refuse_other_parameters().map(|()| engine))
                .map_err(|fault| format!("key manager {:?}: {fault}", configured.name))?;
            Ok(Opened::Sessions(engine, pkcs11.sessions))
        }
    }
}

/// The key stores of a configuration over key managers that run. A quota whose bounds stay is that
/// of `running`: what it has counted stays, too.
///
/// # Errors
/// A sentence for the operator; a validated configuration gives none.
pub fn key_stores(
    config: &Config,
    managers: &[Arc<KeyManager>],
    shards: usize,
    budgets: &Budgets,
    (running, fleet_view): (Option<&KeyStores>, &Arc<FleetView>),
) -> Result<KeyStores, String> {
    let mut by_prefix = HashMap::new();
    let mut counted = 0..KEYS_COUNTED_MAX;
    let revision = Revision::next();
    for (index, store) in config.keystores.iter().enumerate() {
        let before = running.and_then(|running| running.by_prefix.get(&store.path_prefix));
        let at =
            |error: &dyn std::fmt::Display| format!("key store {:?}: {error}", store.path_prefix);
        let mut credentials = Vec::new();
        for credential in &store.credentials {
            let id = AccessKeyId::new(&credential.access_key_id).map_err(|e| at(&e))?;
            let secret = SecretAccessKey::new(credential.secret_access_key.clone());
            let secret = secret.map_err(|e| at(&e))?;
            credentials.push(Credential::new(id, secret));
        }
        let of_store = |&index: &usize| managers.get(index).cloned();
        let of_store: Vec<_> = store.key_managers.iter().filter_map(of_store).collect();
        let mut key = |configured: &config::Key| {
            let built = key(configured, &of_store, budgets);
            let mut built = built
                .ok_or_else(|| at(&format!("key {:?} has no primary version", configured.id)))?;
            let before = before.and_then(|before| before.keys.get(&configured.id));
            let before = before.and_then(|before| before.quota.as_ref());
            built.quota = quota(configured.quota, before, shards);
            built.counted_as = counted.next().map(|_| configured.id.as_str().into());
            Ok((configured.id.clone(), built))
        };
        let keys = store.keys.iter().map(&mut key).collect::<Result<_, String>>()?;
        let built = KeyStore {
            prefix: store.path_prefix.as_str().into(),
            enabled: store.enabled,
            credentials: CredentialSet::new(credentials).map_err(|e| at(&e))?,
            keys,
            managers: of_store,
            messages: Nonces::default(),
            share: Share::of_key_store(index, store.weight),
            accept_aws_sample: store
                .accept_foreign_ciphertext
                .contains(&ForeignCiphertext::AwsSample),
            quota: quota(store.quota, before.and_then(|before| before.quota.as_ref()), shards),
            exhausted: store.invocation_budget,
            policy: policy(store, revision),
            fleet: fleet_view.clone(),
        };
        by_prefix.insert(store.path_prefix.clone(), Arc::new(built));
    }
    Ok(KeyStores {
        by_prefix,
        regions: config.server.regions.clone(),
        request_budget: config.server.request_budget,
    })
}

/// The policies of a key store; none where they are off.
fn policy(store: &config::KeyStore, revision: Revision) -> Option<Policy> {
    let config::Policy { mode, ids_in_errors, compiled, .. } = store.policy.as_ref()?;
    let (mode, ids_in_errors) = ((*mode)?, *ids_in_errors);
    Some(Policy { policies: compiled.0.clone(), mode, ids_in_errors, revision })
}

/// A key of a key store over these key managers; `None` where no version is primary.
fn key(configured: &config::Key, managers: &[Arc<KeyManager>], budgets: &Budgets) -> Option<Key> {
    let budget = |label: &str, version| {
        let name = KeyName { label: label.into(), version };
        budgets.find(&managers.first()?.name, &name)
    };
    if let Some(keeper) = managers.iter().find(|manager| manager.keeps_versions()) {
        let label = configured.label();
        let budget = |number| budget(label, Some(number));
        return Some(Key::managed(label, keeper.versions(label), configured.enabled, budget));
    }
    let version =
        |configured: &config::KeyVersion| version(configured, budget(&configured.label, None));
    let versions = configured.versions.iter().map(version).collect();
    Key::with_versions(versions, configured.enabled)
}

fn version(configured: &config::KeyVersion, budget: Option<Arc<Budget>>) -> Version {
    let config::KeyVersion { number, label, state, .. } = configured;
    let key = KeyRef { version: *number, ..KeyRef::first(label.as_str()) };
    Version { key, state: *state, cipher: Cipher::Direct, budget }
}

fn quota(
    bounds: Option<Bounds>,
    running: Option<&Arc<Quota>>,
    shards: usize,
) -> Option<Arc<Quota>> {
    let bounds = bounds?;
    let same = running.filter(|running| running.bounds() == bounds);
    Some(same.cloned().unwrap_or_else(|| Quota::new(bounds, shards)))
}
