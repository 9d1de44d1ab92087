//! What this instance does as a part of its fleet: takes over what others have changed, and does
//! what operators ask of the fleet. What it knows of the fleet stands in `control::fleet`.

pub mod commands;
mod files;
mod peers;
mod thread;

use std::sync::Arc;

use super::state::State;

/// Starts to take part, where there is a fleet.
///
/// # Errors
/// When there is no thread.
pub(super) fn start(state: &Arc<State>) -> Result<(), String> {
    thread::start(state)
        .and_then(|()| peers::start(state))
        .map_err(|error| format!("cannot start the fleet's thread: {error}"))
}
