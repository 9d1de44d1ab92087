//! What is to run: which key managers, and which of them each key store has.

use std::sync::Arc;

use crate::config::difference::managers;
use crate::config::{self, Config};
use crate::keystore::KeyManager;

/// A configuration over key managers that run.
pub(super) struct Arrangement {
    pub(super) config: Config,
    /// In its order.
    pub(super) managers: Vec<Arc<KeyManager>>,
    /// What is not as it is wanted.
    pub(super) notes: Vec<String>,
}

/// The settings of a key manager, and it.
type Running = (config::KeyManager, Arc<KeyManager>);

/// As `wanted`, as far as that can be had. `chosen`: for each key manager of it, the one that has
/// these settings, if one does. Those of `before` that are still needed stay.
pub(super) fn arrange(
    wanted: Config,
    before: &Config,
    running: &[Arc<KeyManager>],
    chosen: &[Option<Arc<KeyManager>>],
) -> Arrangement {
    let of_name = |name: &str| -> Option<Running> {
        let mut all = before.key_managers.iter().zip(running);
        let (settings, manager) = all.find(|(settings, _)| settings.name == name)?;
        Some((settings.clone(), manager.clone()))
    };
    let mut runs: Vec<Running> = Vec::new();
    for (configured, chosen) in wanted.key_managers.iter().zip(chosen) {
        let chosen = chosen.clone().map(|manager| (configured.clone(), manager));
        runs.extend(chosen.or_else(|| of_name(&configured.name)));
    }
    let wanted_names: Vec<String> = wanted.key_managers.iter().map(|m| m.name.clone()).collect();
    let is_wanted = |name: &String| wanted_names.contains(name);
    let others = before.key_managers.iter().filter(|settings| !is_wanted(&settings.name));
    runs.extend(others.filter_map(|settings| of_name(&settings.name)));
    let mut notes = keep_unsealers(&mut runs, before);
    let settings = runs.iter().map(|(settings, _)| settings.clone()).collect();
    let (mut config, of_stores) = fit(wanted, settings, before);
    notes.extend(of_stores);
    drop_unused(&mut config, &mut runs, is_wanted);
    Arrangement { config, managers: runs.into_iter().map(|(_, manager)| manager).collect(), notes }
}

/// A wrapped key manager of which not all run that are to open it is opened as before.
fn keep_unsealers(runs: &mut [Running], before: &Config) -> Vec<String> {
    let names: Vec<String> = runs.iter().map(|(settings, _)| settings.name.clone()).collect();
    let mut notes = Vec::new();
    for (settings, _) in runs {
        let missing =
            |wrapped: &config::Wrapped| wrapped.unseal_with.iter().any(|hsm| !names.contains(hsm));
        let mut before = before.key_managers.iter();
        if settings.wrapped().is_some_and(missing)
            && let Some(before) = before.find(|before| before.name == settings.name)
        {
            let name = &settings.name;
            notes.push(format!(
                "key manager {name:?} has its settings from before: not all key managers serve \
                 that are to open it"
            ));
            settings.clone_from(before);
        }
    }
    notes
}

/// Key managers that nobody wants and that nothing uses.
fn drop_unused(config: &mut Config, runs: &mut Vec<Running>, is_wanted: impl Fn(&String) -> bool) {
    let is_used = |at: usize, name: &String| {
        let mut wrapped = config.key_managers.iter().filter_map(config::KeyManager::wrapped);
        is_wanted(name)
            || config.keystores.iter().any(|store| store.key_managers.contains(&at))
            || wrapped.any(|wrapped| wrapped.unseal_with.contains(name))
    };
    let all = config.key_managers.iter().enumerate();
    let used: Vec<bool> = all.map(|(at, settings)| is_used(at, &settings.name)).collect();
    let place = |at: usize| used[..at].iter().filter(|used| **used).count();
    for store in &mut config.keystores {
        store.key_managers.iter_mut().for_each(|at| *at = place(*at));
    }
    let mut keep = used.iter();
    config.key_managers.retain(|_| keep.next().copied().unwrap_or(false));
    let mut keep = used.iter();
    runs.retain(|_| keep.next().copied().unwrap_or(false));
}

/// A configuration over the key managers `runs`: its key stores get these, by name. Gives a line
/// for each key store that does not get what it is to have.
///
/// That is logged and not refused: whoever has to cut AWS off must not be stopped by a key manager
/// that does not serve.
pub(super) fn fit(
    mut config: Config,
    runs: Vec<config::KeyManager>,
    before: &Config,
) -> (Config, Vec<String>) {
    let wanted = std::mem::replace(&mut config.key_managers, runs);
    let mut notes = Vec::new();
    let runs = &config.key_managers;
    let place = |name: &str| runs.iter().position(|running| running.name == name);
    config.keystores.retain_mut(|store| {
        let prefix = &store.path_prefix;
        let named = store.key_managers.iter().filter_map(|&index| wanted.get(index));
        let names: Vec<&str> = named.map(|manager| manager.name.as_str()).collect();
        let found: Vec<usize> = names.iter().filter_map(|name| place(name)).collect();
        if found.len() == names.len() {
            store.key_managers = found;
            return true;
        }
        // Not those of its new ones that run: with the key managers that it leaves, it would lose
        // its replicas before it has the new ones, or keys.
        let stayed = before.keystores.iter().find(|before| before.path_prefix == *prefix);
        let kept = stayed.map(|stayed| managers(before, stayed)).unwrap_or_default();
        let kept: Vec<usize> = kept.into_iter().filter_map(place).collect();
        store.key_managers = if kept.is_empty() { found } else { kept };
        if store.key_managers.is_empty() {
            notes.push(format!(
                "key store {prefix:?} is not served: none of its key managers {names:?} serves"
            ));
            return false;
        }
        let kept: Vec<&str> = store.key_managers.iter().map(|&at| runs[at].name.as_str()).collect();
        notes.push(format!(
            "key store {prefix:?} has the key managers {kept:?}, and not {names:?}, of which not \
             all serve"
        ));
        true
    });
    (config, notes)
}
