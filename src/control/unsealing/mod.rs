//! Wrapped key managers: what may be used of each, and for how long. `unsealer` asks the HSMs.
//!
//! What may be used changes under the lock of the lease only, so that nothing is opened that was
//! sealed meanwhile.

pub mod hsm;
mod key_files;
pub mod look;
pub mod openers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::config::{self, Config};
use crate::key_manager::wrapped::{Closed, Lease, Opening, Standing, Wrapped};
use crate::keystore::KeyManager;
use crate::limits::{KEY_OPENERS_MAX, UNSEAL_CALL_TIME};
use crate::telemetry::{Level, Log};

pub use key_files::{KeyFiles, Seal, parse_key_files};

/// A wrapped key manager, and the HSMs that open its keys.
pub struct Unsealing {
    /// Its name.
    pub name: String,
    /// How they are opened: a reload may bring other means.
    pub means: ArcSwap<Means>,
    /// What may be used.
    pub keys: Arc<Wrapped>,
    /// What is known of its files over restarts.
    pub files: Arc<KeyFiles>,
    /// Keys that wait for others of their folder: what takes keys away finds them here.
    pub opening: Opening,
    lease: Mutex<Lease>,
    log: Log,
}

/// The settings of the wrapped key managers that this one opens.
pub fn opened_by<'a>(
    config: &'a Config,
    name: &'a str,
) -> impl Iterator<Item = &'a config::Wrapped> {
    let wrapped = config.key_managers.iter().filter_map(config::KeyManager::wrapped);
    wrapped.filter(move |wrapped| wrapped.unseal_with.iter().any(|hsm| hsm == name))
}

/// How many clients of an HSM those want that it opens: one asks whether it still opens them, the
/// others open files.
pub fn clients(config: &Config, name: &str) -> usize {
    opened_by(config, name).map(|wrapped| 1 + openers(config, wrapped)).sum()
}

/// How many files are opened at a time: one for each session of the HSM; of one that answers
/// requests as well, half of them go on doing nothing else.
fn openers(config: &Config, wrapped: &config::Wrapped) -> usize {
    let sessions = |name: &String| {
        let index = config.key_managers.iter().position(|manager| manager.name == *name)?;
        let config::Kind::Pkcs11(pkcs11) = &config.key_managers[index].kind else { return None };
        let serves = config.keystores.iter().any(|store| store.key_managers.contains(&index));
        Some(if serves { pkcs11.sessions / 2 } else { pkcs11.sessions })
    };
    let most = wrapped.unseal_with.iter().filter_map(sessions).max();
    most.unwrap_or(1).clamp(1, KEY_OPENERS_MAX)
}

/// Of a wrapped key manager; `managers` are those that may open it.
pub fn of(
    (config, configured): (&Config, &config::KeyManager),
    keys: Arc<Wrapped>,
    managers: &[Arc<KeyManager>],
    files: &Arc<KeyFiles>,
    log: &Log,
) -> Option<Arc<Unsealing>> {
    let means = Means::of(config, configured.wrapped()?, managers);
    let mut lease = Lease::new(means.answer_max(), means.settings.hsm_absent_max);
    if let Some(seal) = files.seal(&configured.name) {
        lease.seal(sealed_by(&seal));
    }
    let (lease, means) = (Mutex::new(lease), ArcSwap::from_pointee(means));
    let (name, files, log) = (configured.name.clone(), files.clone(), log.clone());
    let opening = Opening::default();
    let unsealing = Unsealing { name, means, keys, files, lease, log, opening };
    unsealing.close_if(&unsealing.lock());
    Some(Arc::new(unsealing))
}

/// How keys are opened.
#[derive(Clone)]
pub struct Means {
    /// As configured.
    pub settings: config::Wrapped,
    /// What opens them.
    pub hsms: Vec<Arc<KeyManager>>,
    /// How many files are opened at a time.
    pub openers: usize,
}

impl Means {
    fn of(config: &Config, settings: &config::Wrapped, managers: &[Arc<KeyManager>]) -> Means {
        let named = |name: &String| managers.iter().find(|m| *m.name == **name).cloned();
        let hsms = settings.unseal_with.iter().filter_map(named).collect();
        Means { settings: settings.clone(), hsms, openers: openers(config, settings) }
    }

    /// How long they may take to answer.
    fn answer_max(&self) -> Duration {
        // Two questions to each, and as many to confirm a no.
        let hsms = u32::try_from(self.hsms.len()).unwrap_or(u32::MAX);
        self.settings.recheck + UNSEAL_CALL_TIME * 4 * hsms
    }

    fn is_same(&self, other: &Means) -> bool {
        let hsms = self.hsms.iter().zip(&other.hsms);
        self.settings == other.settings
            && self.openers == other.openers
            && self.hsms.len() == other.hsms.len()
            && hsms.into_iter().all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

fn sealed_by(Seal { who, reason, .. }: &Seal) -> String {
    format!("sealed by {who}: {reason}")
}

impl Unsealing {
    /// From now on they are opened so; the keys that are in use stay that.
    pub fn set_means(
        &self,
        config: &Config,
        settings: &config::Wrapped,
        managers: &[Arc<KeyManager>],
    ) {
        let means = Means::of(config, settings, managers);
        if self.means.load().is_same(&means) {
            return;
        }
        let mut lease = self.lock();
        lease.set_limits(means.answer_max(), means.settings.hsm_absent_max);
        lease.expire(Instant::now());
        self.close_if(&lease);
        self.means.store(Arc::new(means));
    }

    /// The lease: what may be used changes while it is held.
    pub fn lock(&self) -> MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the keys away if the lease says so.
    pub fn close_if(&self, lease: &Lease) {
        let Some(closed) = lease.closed() else { return };
        // Also where the table says the same already: the HSM may have come back and gone since.
        self.opening.clear();
        let table = self.keys.table();
        if table.closed() == Some(&closed) {
            return;
        }
        let why = closed.why().to_owned();
        self.keys.close(closed);
        if table.closed().is_none() {
            let what = "no key can be used, and each was overwritten in memory";
            let message = format!("key manager {:?}: {what}: {why}", self.name);
            self.log.event(Level::Error, message);
        }
    }

    /// To be called often: keys whose HSM has been away for too long are taken away, also while the
    /// thread that asks it is held up.
    pub fn tick(&self, now: Instant) {
        let mut lease = self.lock();
        lease.expire(now);
        self.close_if(&lease);
    }

    /// Takes all keys away at once, and keeps them away.
    ///
    /// # Errors
    /// A sentence for the operator: it is in force, and not on disk.
    pub fn seal(&self, seal: Seal) -> Result<(), String> {
        let mut lease = self.lock();
        lease.seal(sealed_by(&seal));
        self.close_if(&lease);
        self.files
            .set_seal(&self.name, Some(seal))
            .map_err(|why| format!("it is sealed, and would not be after a restart, because {why}"))
    }

    /// Takes the keys away if an operator has sealed a key manager of this name meanwhile.
    pub fn heed_seal(&self) {
        let mut lease = self.lock();
        if let Some(seal) = self.files.seal(&self.name) {
            lease.seal(sealed_by(&seal));
            self.close_if(&lease);
        }
    }

    /// Has the HSM open the keys again.
    ///
    /// # Errors
    /// A sentence for the operator: it stays sealed.
    pub fn unseal(&self, who: &str) -> Result<(), String> {
        let mut lease = self.lock();
        if !matches!(lease.closed(), Some(Closed::Sealed(_))) {
            return Err("it is not sealed".to_owned());
        }
        let saved = self.files.set_seal(&self.name, None);
        saved.map_err(|why| format!("it stays sealed, because {why}"))?;
        lease.unseal();
        self.close_if(&lease);
        let message = format!("key manager {:?}: the seal was taken off by {who}", self.name);
        self.log.event(Level::Warn, message);
        Ok(())
    }

    /// Why no key may be used; `None` where they may.
    pub fn closed(&self) -> Option<Closed> {
        self.keys.table().closed().cloned()
    }

    /// Since when the HSM is away while its keys are used, and why.
    pub fn absence(&self, now: Instant) -> Option<(Duration, String)> {
        match self.lock().standing() {
            Standing::Open { renewed, away: Some(why) } => {
                Some((now.saturating_duration_since(*renewed), why.clone()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::super::state_dir::StateDir;
    use super::*;
    use crate::config::tests::{SMALL, read};
    use crate::key_manager::wrapped::tests::{hsms, rotated};
    use crate::key_manager::wrapped::{Finding, TakenAway, load_first};
    use crate::telemetry::log::Format;

    const NEAR: &str = "[[key_manager]]\nname = \"near\"\nkind = \"wrapped\"\nfolder = \"keys\"\n\
         unseal_with = [\"hsm-a\"]\nmaster = \"m1\"\n";

    /// Keys that wait for others of their folder go with those that are in use, also where none is:
    /// a seal must find all.
    #[test]
    fn what_closes_keys_takes_those_away_that_wait() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = Arc::new(StateDir::open(&dir.path().join("state")).unwrap());
        let files = Arc::new(KeyFiles::load(state_dir).unwrap());
        let (log, _) = Log::start(Format::Json, std::io::sink()).unwrap();
        let config = read(&format!("{SMALL}\n{NEAR}")).unwrap();
        let near = config.key_managers.iter().find(|manager| manager.name == "near").unwrap();
        let keys = Arc::new(Wrapped::new(near.wrapped().unwrap().memory).unwrap());
        let unsealing = of((&config, near), keys.clone(), &[], &files, &log).unwrap();

        let own = keys.arena().slots();
        let mut hsms = hsms();
        let (file, now) = (rotated(&mut hsms), OffsetDateTime::now_utc());
        let mut key = || load_first(&file, &mut hsms, keys.arena(), now).unwrap();
        let seal = || Seal { who: "uid 0".to_owned(), reason: "audit".to_owned(), since: 1 };
        // The first one finds keys that may be used; for the second nothing changes.
        for is_open in [true, false] {
            if is_open {
                unsealing.lock().found(Finding::Yes, Instant::now());
                keys.open([("foo".into(), Arc::new(key()))].into(), [].into());
            }
            let round = unsealing.opening.round();
            unsealing.opening.insert(round, "bar".into(), key()).unwrap();
            assert!(keys.arena().slots() > own);
            unsealing.seal(seal()).unwrap();
            assert_eq!(keys.arena().slots(), own, "overwritten");
            // What was under way brings nothing more in.
            let late = unsealing.opening.insert(round, "bar".into(), key());
            assert_eq!(late, Err(TakenAway));
        }
    }
}
