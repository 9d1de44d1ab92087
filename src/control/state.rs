//! What runs: the configuration in force and all that was made of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::attendants::Attendants;
use super::audit::ServiceAudit;
use super::blocks::Blocks;
use super::budgets::Budgets;
use super::digests::Digests;
use super::fleet::Fleet;
use super::last_reload::{LastReload, RefusedFiles};
use super::movable_listener::MovableListener;
use super::notify::Notify;
use super::state_dir::StateDir;
use super::unsealing::{KeyFiles, Unsealing};
use super::watched::Watched;
use super::witness::listener::ServiceWitness;
use crate::config::Config;
use crate::key_manager::Health;
use crate::keystore::{FleetView, KeyManager, KeyStores};
use crate::limits::FLEET_START_TIME_MAX;
use crate::sched::Mailbox;
use crate::shard::Balancers;
use crate::telemetry::spans::SpanCounts;
use crate::telemetry::{Log, ShardMetrics};
use crate::tls;

/// Everything that runs but the shards themselves.
pub struct State {
    /// Where the configuration came from.
    pub config_file: PathBuf,
    /// The configuration in force.
    pub config: ArcSwap<Config>,
    /// What became of the last attempt to take over another.
    pub last_reload: ArcSwap<LastReload>,
    /// Where it is looked at from outside.
    pub admin: MovableListener,
    /// Whether the control socket is where `xksd block` looks for it.
    pub control_reachable: AtomicBool,
    /// What became of files that changed.
    pub watched: Watched,
    /// What they hold and is not in force.
    pub refused_files: Mutex<Option<RefusedFiles>>,
    /// What became of the spans of requests.
    pub spans: Arc<SpanCounts>,
    /// Where the configuration asks for it: cosigns the checkpoints of other trails.
    pub witness: ServiceWitness,
    /// In the configuration's order.
    pub managers: ArcSwap<Vec<Arc<KeyManager>>>,
    /// What looks after these, after those that a reload opens and after those that it closes.
    pub attendants: Attendants,
    /// What would be served if all key managers served that a reload opens.
    pub candidate: ArcSwapOption<KeyStores>,
    /// What is said of what shards serve.
    pub digests: ArcSwap<Digests>,
    /// What shards serve.
    pub stores: Arc<ArcSwap<KeyStores>>,
    /// What shards greet new connections with.
    pub tls: Arc<ArcSwap<tls::Server>>,
    /// Whose new connections shards expect to begin with a PROXY protocol header.
    pub balancers: Arc<ArcSwap<Balancers>>,
    /// One a shard.
    pub metrics: Vec<Arc<ShardMetrics>>,
    /// One a shard.
    pub mailboxes: Vec<Arc<Mailbox>>,
    /// Log.
    pub log: Log,
    /// The record of who used which key.
    pub audit: ServiceAudit,
    /// What is blocked.
    pub blocks: Arc<Blocks>,
    /// What survives a restart.
    pub state_dir: Arc<StateDir>,
    /// The other instances of the same service, once a configuration has named them.
    pub fleet: OnceLock<Arc<Fleet>>,
    /// What AWS KMS is shown of it.
    pub fleet_view: Arc<FleetView>,
    /// How often keys have encrypted.
    pub budgets: Budgets,
    /// Key managers whose keys an HSM opens.
    pub unsealing: ArcSwap<Vec<Arc<Unsealing>>>,
    /// What is known of the files of wrapped keys over restarts.
    pub key_files: Arc<KeyFiles>,
    /// Held by a reload: a signal and the control socket may ask for one at the same time.
    pub reloading: Mutex<()>,
    /// Reloads that have it or wait for it.
    pub reloads_asked: AtomicUsize,
    /// Held while what is served is built from what is in force, and swapped.
    pub applying: Mutex<()>,
    /// Where the shards listen, once they all do: the configuration may leave the port open.
    pub listening: OnceLock<SocketAddr>,
    /// Connections that each shard may have open.
    pub connections_a_shard: usize,
    /// Set once the keys of all key managers that serve were listed.
    pub keys_listed: AtomicBool,
    /// What the service manager is told.
    pub notify: Notify,
    /// Set once stopping has begun.
    pub draining: AtomicBool,
    /// Start of the process, nearly.
    pub started: Instant,
}

impl State {
    /// Whether a load balancer should send requests here.
    pub fn is_ready(&self) -> bool {
        self.why_unready().is_none()
    }

    /// Why a load balancer should send no requests here.
    pub fn why_unready(&self) -> Option<&'static str> {
        if self.draining.load(Ordering::Acquire) {
            Some("stopping")
        } else if !self.has_key_manager() {
            Some("no key manager serves")
        } else if self.listening.get().is_none() {
            Some("starting")
        } else if !self.has_listed_keys() {
            Some("listing the keys for the first time")
        } else if self.waits_for_fleet() {
            Some("reading the state of the fleet for the first time")
        } else {
            None
        }
    }

    /// Whether what the fleet has blocked meanwhile may not be in force here yet. etcd is not
    /// waited for any longer than that.
    fn waits_for_fleet(&self) -> bool {
        self.started.elapsed() < FLEET_START_TIME_MAX
            && self
                .fleet
                .get()
                .and_then(|fleet| fleet.joined())
                .is_some_and(|joined| joined.members.connection().age.is_none())
    }

    /// Whether all key managers that serve have listed their keys once. From then on it is so: one
    /// that comes later does not take this instance out again.
    fn has_listed_keys(&self) -> bool {
        if self.keys_listed.load(Ordering::Relaxed) {
            return true;
        }
        let now = Instant::now();
        let serves = |manager: &&Arc<KeyManager>| manager.health(now) != Health::Unavailable;
        let managers = self.managers.load();
        let mut serving = managers.iter().filter(serves).peekable();
        let listed =
            serving.peek().is_some() && serving.all(|manager| manager.first_listing.is_over(now));
        if listed {
            self.keys_listed.store(true, Ordering::Relaxed);
        }
        listed
    }

    /// Whether some key manager of a key store serves.
    pub fn has_key_manager(&self) -> bool {
        let (now, stores) = (Instant::now(), self.stores.load());
        let mut managers = stores.by_prefix.values().flat_map(|store| &store.managers);
        managers.any(|manager| manager.health(now) != Health::Unavailable)
    }

    /// The key stores that a key manager serves, or is to serve.
    pub fn stores_of(&self, manager: &Arc<KeyManager>) -> Arc<KeyStores> {
        let uses = |stores: &KeyStores| {
            let mut managers = stores.by_prefix.values().flat_map(|store| &store.managers);
            managers.any(|used| Arc::ptr_eq(used, manager))
        };
        let running = self.stores.load_full();
        if uses(&running) {
            return running;
        }
        self.candidate.load_full().filter(|candidate| uses(candidate)).unwrap_or(running)
    }

    /// In a line, for who looks at it through the service manager.
    pub fn summary(&self) -> String {
        let now = Instant::now();
        let serves = |manager: &&Arc<KeyManager>| manager.health(now) != Health::Unavailable;
        let managers = self.managers.load();
        let (serving, all) = (managers.iter().filter(serves).count(), managers.len());
        let ready = match self.why_unready() {
            None => "ready".to_owned(),
            Some(why) => format!("not ready: {why}"),
        };
        let blocks = match self.blocks.in_force().len() {
            0 => String::new(),
            blocks => format!("; BLOCKS: {blocks}"),
        };
        let refused = match self.last_reload.load().refused {
            None => "",
            Some(_) => "; the last reload was refused",
        };
        format!("{ready}; {serving} of {all} key managers serve{blocks}{refused}")
    }
}
