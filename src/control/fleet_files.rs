//! Files of the fleet come into force where the configuration in force was read from other ones.

use std::sync::{Arc, PoisonError};

use super::fleet::Joined;
use super::reload;
use super::state::{RefusedFiles, State};
use crate::config::files::{Files, on_disk};

/// Reloads, on behalf of `who`, what files of the fleet have changed; nothing where nothing has.
/// What was refused is tried again once it, or something else that is read with it, has changed.
///
/// # Errors
/// Why it is refused, also where it was before.
pub(super) fn take_over(state: &Arc<State>, joined: &Joined, who: &str) -> Result<(), String> {
    // Held until it is done: the thread and a command may see the same change.
    let mut refused = state.fleet_files.lock().unwrap_or_else(PoisonError::into_inner);
    let config = state.config.load_full();
    let found = on_disk(config.files.keys().chain(config.texts.keys()));
    let differs = |all: &Files| {
        let mut files = all.iter().filter(|(path, _)| joined.documents.is_file(path));
        files.any(|(path, held)| found.get(path) != Some(held))
    };
    if !differs(&config.files) && !differs(&config.texts) {
        if let Some(refused) = refused.take() {
            reload::put_back(state, &refused.told);
        }
        return Ok(());
    }
    if let Some(refused) = refused.as_ref().filter(|refused| refused.found == found) {
        return Err(refused.why.clone());
    }
    let reloaded = reload::reload_files(state, who);
    *refused = reloaded.as_ref().err().map(|why| RefusedFiles {
        found,
        why: why.clone(),
        told: state.last_reload.load_full(),
    });
    reloaded.map(drop)
}

/// Whether files of the fleet are not in force yet because they were refused.
pub(super) fn are_refused(state: &State) -> bool {
    state.fleet_files.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}
