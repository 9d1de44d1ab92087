//! How often each key has encrypted, over restarts: the invocation budgets that shards take from.
//!
//! What shards may take is reserved on disk first, in blocks, so that a crash counts too many and
//! never too few. A thread of its own writes: a disk that hangs must stop neither requests nor the
//! main thread.

mod configured;
pub mod file;
mod key;
mod registry;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

pub use self::file::KeyName;
use self::file::{FILE, SavedKey, parse};
use self::key::CountedKey;
pub use self::key::Used;
use self::registry::Registry;
use super::block_shown::timestamp_of;
use super::blocks::unix_seconds;
use super::state_dir::StateDir;
use crate::config::Config;
use crate::keystore::KeyManager;
use crate::limits::{BUDGET_RELOAD_PATIENCE, BUDGETS_FILE_BYTES_MAX};
use crate::policy::budget::{self, Budget, threshold};

/// The keys' budgets, and the file of them.
pub struct Budgets {
    dir: Arc<StateDir>,
    registry: Mutex<Registry>,
    /// The file could not be written the last time.
    unsaved: AtomicBool,
    /// Asks for blocks at once; answered when they are reserved.
    asks: (Sender<Sender<()>>, Receiver<Sender<()>>),
}

/// What a key's budget is, for the operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Names of the key managers that hold it.
    pub key_managers: Vec<String>,
    /// Its name there.
    pub name: KeyName,
    /// How often it has encrypted on this instance.
    pub used: Used,
    /// How often it may, on this instance.
    pub share: u64,
    /// Since when that is counted, Unix seconds.
    pub counted_since: i64,
}

/// A key has reached a threshold that was not told yet.
pub(super) struct Reached {
    pub(super) percent: u8,
    pub(super) shown: Shown,
    /// The keys as KMS knows them.
    pub(super) keys: Vec<String>,
}

impl Shown {
    fn of(key: &CountedKey, instances: u64, now: i64) -> Shown {
        Shown {
            key_managers: key.key_managers.iter().cloned().collect(),
            name: key.name.clone(),
            used: key.used(now),
            share: budget::share(instances),
            counted_since: key.counted_since,
        }
    }

    /// Since when it is counted, as the log spells a time.
    pub fn counted_since_shown(&self) -> String {
        timestamp_of(self.counted_since)
    }

    /// How much of the share is used.
    pub fn percent(&self) -> f64 {
        budget::percent(self.used.encryptions, self.share)
    }
}

impl Budgets {
    /// As they were saved.
    ///
    /// # Errors
    /// A sentence for the operator. Counts that cannot be read are never taken for none.
    pub fn load(dir: Arc<StateDir>) -> Result<Budgets, String> {
        let saved = match dir.read(FILE, BUDGETS_FILE_BYTES_MAX)? {
            None => Vec::new(),
            Some(bytes) => parse(&bytes).map_err(|why| {
                format!(
                    "the encryptions of keys in {FILE} of the state directory cannot be read: \
                     {why}. xksd does not start without them: they say how often a key may still \
                     encrypt. Put back a copy of the file; without one, move it away, and rotate \
                     the keys that may have encrypted much"
                )
            })?,
        };
        let registry = Mutex::new(Registry::load(saved));
        Ok(Budgets { dir, registry, unsaved: AtomicBool::new(false), asks: unbounded() })
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts for the keys of this configuration, and of the key managers that run, from now on.
    pub fn expect(&self, config: &Config, managers: &[Arc<KeyManager>]) {
        let is_there = |name: &str| config.key_managers.iter().any(|m| m.name == name);
        let keys = configured::keys(config, managers);
        self.lock().expect(keys, is_there, unix_seconds());
    }

    /// The budget of the key of this name in this key manager, if it is counted.
    pub fn find(&self, key_manager: &str, name: &KeyName) -> Option<Arc<Budget>> {
        self.lock().find(key_manager, name).map(|key| key.budget.clone())
    }

    /// What is to be said of the key of this name in this key manager.
    pub fn show(&self, key_manager: &str, name: &KeyName, config: &Config) -> Option<Shown> {
        let registry = self.lock();
        let key = registry.find(key_manager, name)?;
        Some(Shown::of(key, config.server.instances, unix_seconds()))
    }

    /// The keys that encrypt, those that have used most first.
    pub fn most_used(&self, config: &Config) -> Vec<Shown> {
        let (registry, now) = (self.lock(), unix_seconds());
        let encrypt = registry.all().filter(|key| !key.encrypts.keys.is_empty());
        let mut shown: Vec<Shown> =
            encrypt.map(|key| Shown::of(key, config.server.instances, now)).collect();
        drop(registry);
        shown.sort_by(|a, b| {
            let of = |shown: &Shown| std::cmp::Reverse(shown.used.encryptions);
            (of(a), &a.name, &a.key_managers).cmp(&(of(b), &b.name, &b.key_managers))
        });
        shown
    }

    /// Counts encryptions under keys of this label in this key manager, whichever version.
    pub(super) fn add(&self, key_manager: &str, label: &str, encryptions: u64) {
        let registry = self.lock();
        let of_label = registry.all().filter(|key| &*key.name.label == label);
        for key in of_label.filter(|key| key.key_managers.contains(key_manager)) {
            key.budget.add(encryptions);
        }
    }

    /// Whether the file could not be written the last time.
    pub fn is_unsaved(&self) -> bool {
        self.unsaved.load(Ordering::Relaxed)
    }

    /// Waits until keys that are new have a block, but not for a disk that hangs.
    pub fn wait_for_blocks(&self) {
        let (done, is_done) = bounded(1);
        if self.asks.0.send(done).is_ok() {
            let _ = is_done.recv_timeout(BUDGET_RELOAD_PATIENCE);
        }
    }

    /// Saves what keys have encrypted, and no block more: to be called when none of them encrypts
    /// any more.
    ///
    /// # Errors
    /// A sentence for the operator. What is on disk counts more.
    pub(super) fn settle(&self) -> Result<(), String> {
        let settled = self.lock().settled();
        self.write(settled)
    }

    /// Somebody asks for blocks at once; waits for that.
    pub(super) fn next_ask(&self, patience: Duration) -> Option<Sender<()>> {
        self.asks.1.recv_timeout(patience).ok()
    }

    /// Says where those end that refuse, by the share of one of so many instances.
    pub(super) fn limit(&self, instances: u64) {
        let (share, now) = (budget::share(instances), unix_seconds());
        for key in self.lock().all_mut() {
            key.settle_absorbed();
            let taken = key.budget.taken();
            key.budget.set_end(taken + share.saturating_sub(key.used(now).encryptions));
        }
    }

    /// The thresholds that were reached since the last time. Each is told once.
    pub(super) fn reached(&self, config: &Config) -> Vec<Reached> {
        let instances = config.server.instances;
        let (share, now) = (budget::share(instances), unix_seconds());
        let mut all = Vec::new();
        for key in self.lock().all_mut().filter(|key| !key.encrypts.keys.is_empty()) {
            let reached = threshold(key.used(now).encryptions, share);
            if let Some(percent) = reached.filter(|_| reached > key.told) {
                let (shown, keys) = (Shown::of(key, instances, now), key.encrypts.keys.clone());
                all.push(Reached { percent, shown, keys });
            }
            key.told = reached;
        }
        all
    }

    /// Whether half of a key's block is used.
    pub(super) fn need_blocks(&self) -> bool {
        self.lock().all().any(CountedKey::needs_block)
    }

    /// How many keys have encrypted more than the file says.
    pub(super) fn count_beyond(&self) -> usize {
        self.lock().all().filter(|key| key.is_beyond()).count()
    }

    /// Whether the file could be written.
    pub(super) fn set_unsaved(&self, unsaved: bool) {
        self.unsaved.store(unsaved, Ordering::Relaxed);
    }

    /// Reserves a block for each key that needs one.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn reserve(&self) -> Result<(), String> {
        let next = self.lock().next(Instant::now());
        self.write(next.clone())?;
        self.lock().saved(&next, Instant::now());
        Ok(())
    }

    /// Nothing is locked meanwhile: `/status` does not wait for a disk.
    fn write(&self, keys: Vec<SavedKey>) -> Result<(), String> {
        let text = file::text(keys);
        if text.len() > BUDGETS_FILE_BYTES_MAX {
            let bytes = text.len();
            return Err(format!("{FILE} would have {bytes} bytes, and is not read with so many"));
        }
        self.dir.write(FILE, &text)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::tests::{SMALL, read};
    use crate::limits::BUDGET_BLOCK_ENCRYPTIONS;
    use crate::policy::budget::{Exhausted, ShardBudget};

    fn load(state: &Path, config: &Config) -> Budgets {
        let budgets = Budgets::load(Arc::new(StateDir::open(state).unwrap())).unwrap();
        budgets.expect(config, &[]);
        budgets
    }

    fn of_foo(budgets: &Budgets) -> Arc<Budget> {
        budgets.find("hsm-a", &KeyName { label: "foo".into(), version: None }).unwrap()
    }

    fn on_disk(state: &Path) -> u64 {
        let text = std::fs::read(state.join(FILE)).unwrap_or_default();
        parse(&text).map_or(0, |keys| keys[0].encryptions)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Killed at any step, with a disk that fails now and then: what is on disk is never less
        /// than what a shard has taken, and not more than a block above it for each crash.
        #[test]
        fn the_disk_has_it_first(
            steps in prop::collection::vec((0u8..6, 1u64..40_000), 1..40),
        ) {
            let parent = tempfile::tempdir().unwrap();
            let state = parent.path().join("state");
            let config = read(SMALL).unwrap();
            let mut budgets = load(&state, &config);
            let in_the_way = state.join("encryptions.new");
            let (mut made, mut crashes) = (0, 0);
            for (step, count) in steps {
                match step {
                    0 => {
                        drop(budgets);
                        budgets = load(&state, &config);
                        crashes += 1;
                    }
                    1 => {
                        std::fs::create_dir(&in_the_way).unwrap();
                        prop_assert!(budgets.reserve().is_err());
                        std::fs::remove_dir(&in_the_way).unwrap();
                    }
                    2 => budgets.reserve().unwrap(),
                    _ => {
                        let shard = ShardBudget::new(of_foo(&budgets), Exhausted::Refuse);
                        made += (0..count).filter(|_| shard.take().is_ok()).count() as u64;
                    }
                }
                let (least, most) = (on_disk(&state), BUDGET_BLOCK_ENCRYPTIONS.end());
                prop_assert!(least >= made, "{least} of {made}");
                prop_assert!(least <= made + (crashes + 1) * most, "{least} of {made}");
            }
            budgets.settle().unwrap();
            prop_assert!(on_disk(&state) >= made);
            prop_assert!(crashes > 0 || on_disk(&state) == made);
        }
    }
}
