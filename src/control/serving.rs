//! What the shards serve, built from what is in force.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::build::key_stores;
use super::digests::Digests;
use super::fleet::view;
use super::logging;
use super::state::State;
use crate::config::Config;
use crate::keystore::KeyManager;
use crate::shard::Balancers;
use crate::telemetry::Level;

/// Builds the key stores again because a key manager that keeps the versions of its keys has other
/// ones now.
pub fn renew_key_stores(state: &State) {
    let applying = state.applying.lock().unwrap_or_else(PoisonError::into_inner);
    let (config, managers) = (state.config.load(), state.managers.load());
    if let Err(why) = serve(state, &config, &managers, &applying) {
        let message = format!("the versions of keys that serve are the old ones: {why}");
        state.log.event(Level::Error, message);
    }
}

/// Has the shards serve the key stores of a configuration over these key managers.
fn serve(
    state: &State,
    config: &Config,
    managers: &[Arc<KeyManager>],
    _applying: &MutexGuard<'_, ()>,
) -> Result<(), String> {
    let (shards, budgets, running) = (state.metrics.len(), &state.budgets, state.stores.load());
    budgets.expect(config, managers);
    let shared = (Some(&**running), &state.fleet_view);
    let stores = key_stores(config, managers, shards, budgets, shared)?;
    budgets.wait_for_blocks();
    state.digests.store(Arc::new(Digests::of(config, &stores)));
    state.stores.store(Arc::new(stores));
    Ok(())
}

/// Puts a configuration in force, over these key managers in its order.
///
/// # Errors
/// A sentence for the operator; a validated configuration gives none.
pub fn apply(state: &State, config: &Config, managers: &[Arc<KeyManager>]) -> Result<(), String> {
    let applying = state.applying.lock().unwrap_or_else(PoisonError::into_inner);
    serve(state, config, managers, &applying)?;
    view::reconfigured(&state.fleet_view, state.fleet.get().map(|fleet| &**fleet), config);
    state.managers.store(Arc::new(managers.to_vec()));
    state.balancers.store(Arc::new(Balancers(config.server.proxy_protocol.clone())));
    state.log.set_level(logging::level(config));
    state.config.store(Arc::new(config.clone()));
    Ok(())
}
