//! What a reload opens beside key managers: listeners, the audit trail, the log and who gets its
//! spans, the way to the fleet. First all of it is opened, and then put in force.

use std::sync::Arc;

use crate::config::{Config, difference};
use crate::control::fleet::{Fleet, Reach};
use crate::control::state::State;
use crate::control::witness::listener as witness;
use crate::control::{audit, logging, movable_listener, span_export};
use crate::telemetry::log::Opened;
use crate::telemetry::spans::Spans;

/// Nothing of it is in force yet.
pub(super) struct Prepared {
    admin: movable_listener::Change,
    witness: Option<witness::Change>,
    log: Option<Opened>,
    spans: Option<Option<Spans>>,
    /// Where that has changed.
    fleet: Option<Reach>,
    audit: audit::Change,
}

impl Prepared {
    /// Opens what this configuration needs, and closes nothing yet.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn new(state: &State, old: &Config, config: &Config) -> Result<Prepared, String> {
        Ok(Prepared {
            admin: state.admin.prepare(config.admin.as_ref().map(|admin| admin.listen))?,
            witness: state.witness.prepare(config)?,
            log: logging::prepare(config, &state.log)?,
            spans: span_export::change(old, config, &state.log, &state.spans)?,
            fleet: fleet_reach(old, config)?,
            // Last: a trail that begins makes files.
            audit: state.audit.prepare(config)?,
        })
    }

    /// Puts it in force; gives what is to be warned of.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn take_over(
        self,
        state: &State,
        config: &Config,
    ) -> Result<Option<String>, String> {
        let Prepared { admin, witness, log, spans, fleet, audit } = self;
        take_part(state, config)?;
        let diverted = log.map(|opened| logging::divert(&state.log, opened, config));
        let warning = match diverted.transpose()? {
            Some(warning) => warning,
            None => logging::moving(&state.log),
        };
        let begun = state.audit.take_over(audit, config, &state.log);
        begun.inspect_err(|_| put_log_back(state))?;
        // From here on nothing fails: their threads are there.
        state.admin.take_over(admin, &state.log);
        state.witness.take_over(witness, &state.log);
        if let Some(spans) = spans {
            state.log.set_spans(spans);
        }
        if let (Some(fleet), Some(reach)) = (state.fleet.get(), fleet) {
            fleet.set_reach(reach);
        }
        Ok(warning)
    }
}

/// Where it was, after a reload that is refused because there was no thread for the trail. What
/// cannot be put back now is with the next reload, which compares with what runs.
fn put_log_back(state: &State) {
    let running = state.config.load();
    if let Ok(Some(opened)) = logging::prepare(&running, &state.log) {
        let _ = logging::divert(&state.log, opened, &running);
    }
}

/// In a fleet that is new; `sharing` goes on from there. What was kept of one is in force at once.
fn take_part(state: &State, config: &Config) -> Result<(), String> {
    if let Some(fleet) = config.fleet.as_ref().filter(|_| state.fleet.get().is_none()) {
        let fleet = Fleet::open(fleet, &state.state_dir, &state.blocks, &state.log)?;
        let _ = state.fleet.set(Arc::new(fleet));
    }
    Ok(())
}

/// Reads its certificates.
fn fleet_reach(old: &Config, new: &Config) -> Result<Option<Reach>, String> {
    let changed = new.fleet.as_ref().filter(|_| !difference::fleet_changes(old, new).is_empty());
    changed.map(Reach::of).transpose()
}
