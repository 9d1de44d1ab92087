//! Files that have changed come into force, or are refused: once, whoever has seen the change first
//! (`file_watch`, or `sharing` for those of the fleet).

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::last_reload::RefusedFiles;
use super::reload::{self, Said};
use super::state::State;
use crate::config::Config;
use crate::config::files::{Digest, Files, on_disk};

/// What all files hold now that a configuration names or was read from.
pub(super) fn found(config: &Config) -> Files {
    on_disk(config.files.keys().chain(config.texts.keys()))
}

/// Whether these files hold what they held.
pub(super) fn are_as<'a>(
    mut held: impl Iterator<Item = (&'a PathBuf, &'a Option<Digest>)>,
    found: &Files,
) -> bool {
    held.all(|(path, held)| found.get(path) == Some(held))
}

/// Why these files are not tried: they were refused as they are.
pub(super) fn why_refused(state: &State, found: &Files) -> Option<String> {
    let refused = refused(state);
    refused.as_ref().filter(|refused| refused.found == *found).map(|refused| refused.why.clone())
}

/// Whether some were refused and do not hold again what is in force.
pub(super) fn are_refused(state: &State) -> bool {
    refused(state).is_some()
}

/// What became of files that were `found`.
pub(super) fn tried(state: &State, found: Files, reloaded: &Result<Said, String>) {
    let count = if reloaded.is_ok() { &state.watched.taken } else { &state.watched.refused };
    count.fetch_add(1, Ordering::Relaxed);
    let of = |why: &String| {
        let (why, told) = (why.clone(), state.last_reload.load_full());
        RefusedFiles { found, why, told }
    };
    *refused(state) = reloaded.as_ref().err().map(of);
}

/// Nothing is refused any more where files hold again what is in force: those that the
/// configuration names, and those that it was read from and that the fleet gives. What else has
/// changed in the configuration is an operator's, who says when it is done.
pub(super) fn put_back(state: &State, found: &Files) {
    let config = state.config.load();
    let fleet = state.fleet.get().and_then(|fleet| fleet.joined());
    let is_given = |path: &Path| fleet.is_some_and(|joined| joined.documents.is_file(path));
    let texts = config.texts.iter().filter(|(path, _)| is_given(path));
    if !are_refused(state) || !are_as(config.files.iter().chain(texts), found) {
        return;
    }
    let refused = refused(state).take();
    if let Some(refused) = refused {
        reload::put_back(state, &refused.told);
    }
}

/// Never held while something is reloaded.
fn refused(state: &State) -> MutexGuard<'_, Option<RefusedFiles>> {
    state.refused_files.lock().unwrap_or_else(PoisonError::into_inner)
}
