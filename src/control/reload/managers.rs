//! The key managers of a reload: those that run on, those that are opened, those that are closed.
//!
//! One takes over only when it serves. Until then, and where it does not in time, the one before it
//! serves on, and a key store keeps the key managers that it has: it is never left with fewer
//! replicas than run, nor with fewer keys.

use std::sync::Arc;

use super::activation::{self, Candidate};
use super::arrangement::{Arrangement, arrange, fit};
use crate::config::{self, Config, Kind};
use crate::control::build::{self, Opened};
use crate::control::serving::apply;
use crate::control::state::State;
use crate::key_manager::local::Local;
use crate::keystore::KeyManager;
use crate::limits::RETIREMENT_TIME;

/// What is done with the key managers, in the order of the configuration that is wanted.
pub(super) struct Plan(Vec<Entry>);

enum Entry {
    /// It runs on.
    Runs(Arc<KeyManager>),
    /// It is to be opened.
    Opens(Opened),
    /// It cannot be: why.
    Fails(String),
}

impl Plan {
    /// Compares, and reads key files. A key manager that runs on has its PIN at once.
    pub(super) fn new(state: &State, old: &Config, wanted: &Config) -> Plan {
        let running = state.managers.load();
        let entry = |configured: &config::KeyManager| {
            let mut runs = old.key_managers.iter().zip(running.iter());
            let runs = runs.find(|(before, _)| before.name == configured.name);
            if let Some((before, manager)) = runs
                && manager.clients_max() >= build::clients(wanted, &configured.name)
                && runs_on(before, configured)
            {
                // One that is awaited comes by itself.
                let pkcs11 = configured.pkcs11().filter(|pkcs11| pkcs11.awaited_pin.is_none());
                if let Some(pkcs11) = pkcs11 {
                    manager.set_pin(pkcs11.pin.clone());
                }
                return of_key_file(configured, manager);
            }
            match cannot_be_opened(configured, wanted.server.watch_files) {
                Some(why) => Entry::Fails(why),
                None => build::open(configured).map_or_else(Entry::Fails, Entry::Opens),
            }
        };
        Plan(wanted.key_managers.iter().map(entry).collect())
    }

    /// What can be in force before those are open that have to be: none where there are none.
    pub(super) fn before_opening(&self, wanted: &Config, old: &Config) -> Option<Config> {
        if !self.0.iter().any(|entry| matches!(entry, Entry::Opens(_))) {
            return None;
        }
        let entries = self.0.iter().zip(&wanted.key_managers);
        // How wrapped keys are opened changes with the key managers that open them.
        let runs_on = |(entry, configured): &(&Entry, &config::KeyManager)| {
            matches!(entry, Entry::Runs(_)) && configured.wrapped().is_none()
        };
        let run_on: Vec<_> = entries.filter(runs_on).map(|(_, configured)| configured).collect();
        let now = |before: &config::KeyManager| {
            let now = run_on.iter().find(|now| now.name == before.name);
            now.map_or(before, |now| now).clone()
        };
        let runs = old.key_managers.iter().map(now).collect();
        let (mut config, _) = fit(wanted.clone(), runs, old);
        keep_keys(&mut config, old);
        Some(config)
    }

    /// Opens what is to be opened, puts the configuration in force and closes what is no longer
    /// used. Gives the configuration in force, and what could not be had.
    pub(super) fn carry_out(
        self,
        state: &Arc<State>,
        wanted: Config,
        before: &Config,
    ) -> Result<(Config, Vec<String>), String> {
        let running = state.managers.load_full();
        let (mut chosen, mut failed, mut opened) = (Vec::new(), Vec::new(), Vec::new());
        for (at, entry) in self.0.into_iter().enumerate() {
            match entry {
                Entry::Runs(manager) => chosen.push(Some(manager)),
                Entry::Opens(keys) => {
                    opened.push((at, keys));
                    chosen.push(None);
                }
                Entry::Fails(why) => {
                    failed.push(not_had(&wanted.key_managers[at], before, &why));
                    chosen.push(None);
                }
            }
        }
        let mut candidates = activation::start(state, &wanted, before, &mut chosen, opened);
        for (at, why) in activation::wait(state, &mut candidates) {
            failed.push(not_had(&wanted.key_managers[at], before, &why));
            chosen[at] = None;
        }
        let arranged = arrange(wanted, before, &running, &chosen);
        failed.extend(arranged.notes.iter().cloned());
        link_wrapped(state, &arranged, &candidates);
        apply(state, &arranged.config, &arranged.managers)?;
        state.candidate.store(None);
        let Arrangement { config, managers, .. } = arranged;
        let budget = config.server.request_budget.max(before.server.request_budget);
        for gone in running.iter().filter(|gone| !managers.iter().any(|m| Arc::ptr_eq(m, gone))) {
            state.attendants.dismiss(gone, budget + RETIREMENT_TIME);
        }
        Ok((config, failed))
    }
}

/// A key store has no key that it did not have, and no other version of one: they may be in the key
/// managers that are being opened.
fn keep_keys(config: &mut Config, old: &Config) {
    for store in &mut config.keystores {
        let before = old.keystores.iter().find(|before| before.path_prefix == store.path_prefix);
        let before = before.map_or(&[][..], |before| &before.keys);
        store.keys.retain_mut(|key| {
            let Some(before) = before.iter().find(|before| before.id == key.id) else {
                return false;
            };
            key.versions.clone_from(&before.versions);
            key.versions_are_stated = before.versions_are_stated;
            true
        });
    }
}

/// Whether the key manager that runs can have these settings.
fn runs_on(before: &config::KeyManager, wanted: &config::KeyManager) -> bool {
    let mut same = before.clone();
    match (&mut same.kind, &wanted.kind) {
        (Kind::Pkcs11(before), Kind::Pkcs11(wanted)) => {
            before.pin.clone_from(&wanted.pin);
            before.awaited_pin.clone_from(&wanted.awaited_pin);
        }
        (Kind::Wrapped(before), Kind::Wrapped(wanted)) => {
            return before.folder == wanted.folder && before.memory == wanted.memory;
        }
        _ => {}
    }
    same == *wanted
}

/// Why a reload does not try to open it.
fn cannot_be_opened(configured: &config::KeyManager, files_are_watched: bool) -> Option<String> {
    let pkcs11 = configured.pkcs11()?;
    let names = pkcs11.variables_not_set();
    if !names.is_empty() {
        let names = names.join(", ");
        return Some(format!("its environment sets {names}, which can only be done at a start"));
    }
    // Put in force without it, it would take the place of one that serves.
    let file = pkcs11.awaited_pin.as_ref()?.display();
    Some(if files_are_watched {
        format!("its PIN is not there yet: it is opened once {file} holds it")
    } else {
        format!("its PIN is not there yet: write it to {file}, then reload")
    })
}

/// Whether the key file still holds what was read, where there is one.
fn of_key_file(configured: &config::KeyManager, manager: &Arc<KeyManager>) -> Entry {
    let Some(key_file) = configured.kind.key_file() else { return Entry::Runs(manager.clone()) };
    match Local::load(key_file) {
        Ok(read) if manager.differences(&read).is_empty() => Entry::Runs(manager.clone()),
        Ok(read) => Entry::Opens(Opened::InProcess(Arc::new(read))),
        Err(why) => Entry::Fails(why),
    }
}

/// The wrapped key managers of what is to run, opened by what is to run.
fn link_wrapped(state: &State, arranged: &Arrangement, candidates: &[Candidate]) {
    let running = state.unsealing.load_full();
    let all = arranged.config.key_managers.iter().zip(&arranged.managers);
    let unsealing = all.filter_map(|(configured, manager)| {
        let candidate = candidates.iter().find(|one| Arc::ptr_eq(&one.manager, manager));
        let unsealing = match candidate {
            Some(candidate) => candidate.unsealing.clone()?,
            None => running.iter().find(|one| one.name == configured.name)?.clone(),
        };
        unsealing.set_means(&arranged.config, configured.wrapped()?, &arranged.managers);
        unsealing.heed_seal();
        Some(unsealing)
    });
    state.unsealing.store(Arc::new(unsealing.collect()));
}

/// What became of a key manager that does not take over.
fn not_had(configured: &config::KeyManager, before: &Config, why: &str) -> String {
    let name = &configured.name;
    let runs = before.key_managers.iter().any(|before| before.name == *name);
    let instead = if runs { "the one before it serves on" } else { "it is not used" };
    // Some reasons begin with it.
    let why = why.strip_prefix(&format!("key manager {name:?}: ")).unwrap_or(why);
    format!("key manager {name:?} does not take over, and {instead}: {why}")
}
