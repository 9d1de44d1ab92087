//! What this instance does as a part of its fleet: takes over what others have changed, and does
//! what operators ask of the fleet. What it knows of the fleet stands in `control::fleet`.

pub mod commands;
mod files;
mod peers;
mod thread;

use std::sync::Arc;

use super::state::State;

/// Takes part once there is a fleet: from the start on, or from a reload on that has brought one.
#[derive(Default)]
pub(super) struct Sharing {
    begun: bool,
}

impl Sharing {
    /// To be called now and then.
    ///
    /// # Errors
    /// Once, when there is no thread.
    pub(super) fn look(&mut self, state: &Arc<State>) -> Result<(), String> {
        let Some(fleet) = state.fleet.get().filter(|_| !self.begun) else { return Ok(()) };
        self.begun = true;
        thread::start(state, fleet)
            .and_then(|()| peers::start(state, fleet))
            .map_err(|error| format!("cannot start the fleet's thread: {error}"))
    }
}
