//! Starts the threads that probe a key manager or unseal its keys.

use std::io;
use std::sync::Arc;

use crossbeam::channel::bounded;

use super::state::State;
use super::unsealing::Unsealing;
use super::{probes, unsealer};
use crate::keystore::KeyManager;

/// Starts the threads that look after a key manager, until it is dismissed.
///
/// # Errors
/// When no thread can be started.
pub fn attend(
    state: &Arc<State>,
    manager: &Arc<KeyManager>,
    unsealing: Option<&Arc<Unsealing>>,
) -> io::Result<()> {
    let (stop, stopped) = bounded(0);
    let challenges = &state.attendants.challenges;
    let mut threads = vec![probes::start(state, manager, challenges, &stopped)?];
    if let Some(unsealing) = unsealing {
        threads.push(unsealer::start(state, unsealing, &stopped)?);
    }
    state.attendants.add(manager, unsealing, stop, threads);
    Ok(())
}
