//! Files of the fleet come into force where the configuration in force was read from other ones.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::control::changed_files::{self, are_as, found};
use crate::control::fleet::Joined;
use crate::control::reload;
use crate::control::state::State;

/// Reloads, on behalf of `who`, what files of the fleet have changed; nothing where nothing has.
/// What was refused is tried again once it, or something else that is read with it, has changed.
///
/// # Errors
/// Why it is refused, also where it was before.
pub(super) fn take_over(state: &Arc<State>, joined: &Joined, who: &str) -> Result<(), String> {
    // Held until it is done: the thread and a command may see the same change.
    let _turn = joined.taking_over.lock().unwrap_or_else(PoisonError::into_inner);
    let config = state.config.load_full();
    let found = found(&config);
    let is_given = |path: &Path| joined.documents.is_file(path);
    let given = config.files.iter().chain(&config.texts).filter(|(path, _)| is_given(path));
    if are_as(given, &found) {
        changed_files::put_back(state, &found);
        return Ok(());
    }
    if let Some(why) = changed_files::why_refused(state, &found) {
        return Err(why);
    }
    let reloaded = reload::reload_files(state, who);
    changed_files::tried(state, found, &reloaded);
    reloaded.map(drop)
}
