//! Keys that an HSM has opened and that are not in use yet. Whoever opens them has no hold on them
//! while the HSM is asked for more: what takes keys away finds all of them here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::loaded::Loaded;
use super::material::Material;
use super::not_loaded::TakenAway;

/// Keys on their way.
#[derive(Default)]
pub struct Opening(Mutex<Inside>);

#[derive(Default)]
struct Inside {
    /// Counts how often all were taken away.
    round: u64,
    /// By label.
    keys: HashMap<Arc<str>, Arc<Loaded>>,
    /// Versions of keys of which others are being asked for, by label.
    versions: HashMap<Arc<str>, Vec<Arc<Material>>>,
}

/// What was begun before all were taken away brings nothing more in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round(u64);

impl Opening {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all away, and what is still being opened with them. Gives the next round.
    pub fn clear(&self) -> Round {
        let mut inside = self.lock();
        let round = inside.round + 1;
        *inside = Inside { round, ..Inside::default() };
        Round(round)
    }

    /// The one that is now.
    pub fn round(&self) -> Round {
        Round(self.lock().round)
    }

    /// Keeps a version while others of its key are asked for.
    pub(super) fn hold(
        &self,
        round: Round,
        label: &Arc<str>,
        material: Material,
    ) -> Result<Weak<Material>, TakenAway> {
        let mut inside = self.lock();
        if inside.round != round.0 {
            return Err(TakenAway);
        }
        let material = Arc::new(material);
        let held = Arc::downgrade(&material);
        inside.versions.entry(label.clone()).or_default().push(material);
        Ok(held)
    }

    /// Keeps a key that is whole, until [`Opening::take`].
    ///
    /// # Errors
    /// Where all were taken away since the round began.
    pub fn insert(&self, round: Round, label: Arc<str>, key: Loaded) -> Result<(), TakenAway> {
        let mut inside = self.lock();
        inside.versions.remove(&label);
        if inside.round != round.0 {
            return Err(TakenAway);
        }
        inside.keys.insert(label, Arc::new(key));
        Ok(())
    }

    /// Forgets the versions of a key that was refused.
    pub fn forget(&self, label: &str) {
        self.lock().versions.remove(label);
    }

    /// The keys that are whole, and nothing else is on its way.
    pub fn take(&self) -> HashMap<Arc<str>, Arc<Loaded>> {
        std::mem::take(&mut self.lock().keys)
    }

    /// Looks at those that are whole.
    pub fn look<T>(&self, look: impl FnOnce(&HashMap<Arc<str>, Arc<Loaded>>) -> T) -> T {
        look(&self.lock().keys)
    }
}
