//! What the key managers have encrypted for one another, to be compared: replicas must hold the
//! same keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::key_manager::replica_check::Challenge;

/// A challenge of each key manager, with its name.
type ChallengesOfKey = Vec<(Arc<str>, Arc<Challenge>)>;

/// What the key managers have encrypted for one another, by key of a key store.
#[derive(Default)]
pub struct Challenges(Mutex<HashMap<String, ChallengesOfKey>>);

impl Challenges {
    /// Takes the place of the challenge that this key manager had; gives those of the others. Of
    /// two that come at once, one finds the other's.
    pub(super) fn exchange(
        &self,
        key: &str,
        name: &Arc<str>,
        challenge: Challenge,
    ) -> ChallengesOfKey {
        let mut challenges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_key = challenges.entry(key.to_owned()).or_default();
        of_key.retain(|(other, _)| other != name);
        let others = of_key.clone();
        of_key.push((name.clone(), Arc::new(challenge)));
        others
    }

    /// What is expected of this key manager has changed.
    pub(super) fn withdraw(&self, name: &Arc<str>) {
        let mut challenges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        challenges.retain(|_, of_key| {
            of_key.retain(|(other, _)| other != name);
            !of_key.is_empty()
        });
    }
}
