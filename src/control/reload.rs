//! SIGHUP: key stores, credentials, keys, regions, budget and TLS are read again and swapped whole;
//! what runs on the old ones ends on them.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use super::blocks;
use super::build::key_stores;
use super::fleet_size;
use super::state::{LastReload, State};
use crate::audit::record::Record;
use crate::config::difference::{self, managers};
use crate::config::{self, Config, Invalid, Problem};
use crate::key_manager::local::Local;
use crate::keystore::KeyManager;
use crate::policy::blocklist::Block;
use crate::shard::Balancers;
use crate::telemetry::Level;
use crate::tls;

/// What an operator has said is meant, although it looks like a file that was cut short.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accepted {
    /// `[tls.client]` is missing, and client authentication goes.
    pub loss_of_client_auth: bool,
    /// Policies that forbid are missing.
    pub loss_of_forbids: bool,
}

/// Reads the configuration again, on behalf of `who`, and gives what is to be said of it.
///
/// # Errors
/// What is wrong with it. Then nothing changes.
pub fn reload(state: &Arc<State>, who: &str, accepted: Accepted) -> Result<Vec<String>, String> {
    let _alone = state.reloading.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = Config::load(&state.config_file).map_err(|invalid| invalid.to_string());
    let taken = loaded.and_then(|config| {
        let tls = tls::server(&config.tls.settings())
            .map_err(|problems| wrong_tls(&state.config_file, problems).to_string())?;
        take_over(state, config, Some(tls), accepted)
    });
    finish(state, who, taken)
}

/// Reads the configuration again because a ciphertext names a newer version of its key than is
/// known. It is taken over if nothing but versions of keys differs: what else an operator has
/// changed there is not to come into force without a word of theirs.
pub(super) fn reread_versions(state: &Arc<State>) {
    let _alone = state.reloading.lock().unwrap_or_else(PoisonError::into_inner);
    let told = |what: &str| {
        let message =
            format!("a ciphertext names a newer version of its key than is known: {what}");
        state.log.event(Level::Warn, message);
    };
    match Config::load(&state.config_file) {
        Ok(config) if difference::only_key_versions(&state.config.load(), &config) => {
            told("the configuration is read again");
            let taken = take_over(state, config, None, Accepted::default());
            let _ = finish(state, "a newer key version", taken);
        }
        Ok(config) if config.sha256 == state.config.load().sha256 => {
            told("the configuration does not have it");
        }
        Ok(_) => told("the configuration has other changes, too: reload it"),
        Err(invalid) => told(&invalid.to_string().replace('\n', "; ")),
    }
}

/// Builds the key stores again because a key manager that keeps the versions of its keys has other
/// ones now.
pub(super) fn renew_key_stores(state: &State) {
    let _alone = state.reloading.lock().unwrap_or_else(PoisonError::into_inner);
    let (config, running) = (state.config.load(), state.stores.load());
    let (managers, shards, budgets) = (&state.managers, state.metrics.len(), &state.budgets);
    budgets.expect(&config, managers);
    let shared = (Some(&**running), &state.fleet_size);
    match key_stores(&config, managers, shards, budgets, shared) {
        Ok(stores) => {
            budgets.wait_for_blocks();
            state.stores.store(Arc::new(stores));
        }
        Err(why) => {
            let message = format!("the versions of keys that serve are the old ones: {why}");
            state.log.event(Level::Error, message);
        }
    }
}

/// Tells what became of it: the audit trail, `/status`, the log, and who asked.
fn finish(
    state: &State,
    who: &str,
    result: Result<Reloaded, String>,
) -> Result<Vec<String>, String> {
    match result {
        Ok(Reloaded { changes, warnings, waiting, not_served }) => {
            let config_sha256 = &*state.config.load().sha256;
            let record = Record::Reload { who, config_sha256, changes: &changes, refused: None };
            state.audit.record(&record);
            let waiting_for_restart = not_served.iter().chain(&waiting).cloned().collect();
            state.last_reload.store(Arc::new(LastReload::success(waiting_for_restart)));
            state.log.event(
                Level::Info,
                format!("configuration {} reloaded", state.config_file.display()),
            );
            let said: Vec<String> = [&changes, &not_served, &warnings, &waiting]
                .into_iter()
                .flatten()
                .cloned()
                .collect();
            changes
                .into_iter()
                .for_each(|change| state.log.event(Level::Info, format!("reload: {change}")));
            not_served.into_iter().for_each(|note| state.log.event(Level::Error, note));
            warnings.into_iter().chain(waiting).for_each(|note| state.log.event(Level::Warn, note));
            Ok(said)
        }
        Err(problems) => {
            let why = problems.as_str();
            let refused = why.lines().next().map(ToOwned::to_owned);
            let last = LastReload { refused, ..LastReload::clone(&state.last_reload.load()) };
            state.last_reload.store(Arc::new(last));
            // One line of the log, in which a line end is not shown as one.
            let why = why.replace('\n', "; ");
            let (changes, refused) = (&[][..], Some(&*why));
            state.audit.record(&Record::Reload { who, config_sha256: "", changes, refused });
            state.log.event(
                Level::Error,
                format!("configuration not reloaded, the old one stays in force: {why}"),
            );
            Err(problems)
        }
    }
}

/// What a reload brought.
struct Reloaded {
    /// For whoever must prove who could use which key when.
    changes: Vec<String>,
    /// What can be used and is probably not meant.
    warnings: Vec<String>,
    /// What has to wait for a restart.
    waiting: Vec<String>,
    /// Key stores that have to wait for a restart altogether.
    not_served: Vec<String>,
}

/// Without `tls`, certificates and trust anchors stay those that run.
fn take_over(
    state: &State,
    mut config: Config,
    tls: Option<tls::Server>,
    accepted: Accepted,
) -> Result<Reloaded, String> {
    let running_tls = state.tls.load();
    let tls_in_force = tls.as_ref().unwrap_or(&running_tls);
    let old = state.config.load();
    let mut omissions = difference::omissions(&old, &config);
    if accepted.loss_of_client_auth {
        omissions.retain(|problem| problem.key != difference::CLIENT_AUTH);
    }
    if !accepted.loss_of_forbids {
        omissions.extend(difference::lost_forbids(&old, &config));
    }
    if !omissions.is_empty() {
        let file = state.config_file.clone();
        return Err(Invalid { file, problems: omissions }.to_string());
    }
    let mut warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    warnings.extend(tls_in_force.warnings().iter().map(ToString::to_string));
    warnings.extend(blocks_of_nothing(state, &config));
    let mut waiting = Vec::new();
    look_at_key_files(&config.key_managers, &state.managers, &mut waiting);
    let not_served = keep_running_managers(&mut config, &old, &mut waiting);
    waiting.extend(difference::keep_running(&mut config, &old));
    let running = state.stores.load();
    let (managers, shards, budgets) = (&state.managers, state.metrics.len(), &state.budgets);
    budgets.expect(&config, managers);
    let shared = (Some(&**running), &state.fleet_size);
    let stores = key_stores(&config, managers, shards, budgets, shared)?;
    budgets.wait_for_blocks();
    let changes =
        difference::at_reload((&old, (&**running_tls).into()), (&config, tls_in_force.into()));
    fleet_size::reconfigured(state, &config);
    state.stores.store(Arc::new(stores));
    // A new configuration brings a new ticket key: what was agreed under the old one cannot be
    // resumed past a changed client check.
    if let Some(tls) = tls {
        state.tls.store(Arc::new(tls));
    }
    state.balancers.store(Arc::new(Balancers(config.server.proxy_protocol.clone())));
    state.config.store(Arc::new(config));
    Ok(Reloaded { changes, warnings, waiting, not_served })
}

/// Blocks that hold for nothing any more: a key store or key that was renamed is not blocked.
fn blocks_of_nothing(state: &State, config: &Config) -> Vec<String> {
    let is_there = |block: &&Block| {
        let mut stores = config.keystores.iter();
        stores.find(|store| store.path_prefix == block.key_store).is_some_and(|store| {
            block.key.as_ref().is_none_or(|id| store.keys.iter().any(|key| key.id == *id))
        })
    };
    let active = state.blocks.in_force();
    let gone = active.iter().filter(|block| !is_there(block)).map(|block| {
        format!(
            "{} is blocked and is not in this configuration: where it has another name now, block \
             that",
            blocks::name(&block.key_store, block.key.as_deref())
        )
    });
    gone.collect()
}

/// Key managers are opened at the start only: the key stores get those that run, by name. Gives a
/// line for each key store that has none.
///
/// A change is logged and not refused: whoever has to cut AWS off must not be stopped by a key
/// manager or a PIN that waits for a restart.
fn keep_running_managers(
    config: &mut Config,
    running: &Config,
    waiting: &mut Vec<String>,
) -> Vec<String> {
    let wanted = std::mem::replace(&mut config.key_managers, running.key_managers.clone());
    let runs = |name: &str| running.key_managers.iter().position(|running| running.name == name);
    for manager in wanted.iter().filter(|wanted| !running.key_managers.contains(wanted)) {
        let runs = running.key_managers.iter().find(|running| running.name == manager.name);
        let what = runs.map_or("is new".to_owned(), |runs| {
            format!("changed ({})", difference::changed_keys(runs, manager))
        });
        waiting.push(format!(
            "key manager {:?} {what}: in force from the next start only",
            manager.name
        ));
    }
    for manager in running
        .key_managers
        .iter()
        .filter(|running| !wanted.iter().any(|wanted| wanted.name == running.name))
    {
        waiting.push(format!(
            "key manager {:?} is no longer there: it is closed at the next start only",
            manager.name
        ));
    }
    let mut not_served = Vec::new();
    config.keystores.retain_mut(|store| {
        let prefix = &store.path_prefix;
        let names: Vec<&str> = store
            .key_managers
            .iter()
            .filter_map(|&index| wanted.get(index))
            .map(|m| m.name.as_str())
            .collect();
        let found: Vec<usize> = names.iter().filter_map(|name| runs(name)).collect();
        if found.len() == names.len() {
            store.key_managers = found;
            return true;
        }
        // Not those of its new ones that run: with the key managers that it leaves, it would lose
        // its replicas before it has the new ones, or keys.
        let before = running.keystores.iter().find(|before| before.path_prefix == *prefix);
        store.key_managers = before.map_or(found, |before| before.key_managers.clone());
        if store.key_managers.is_empty() {
            not_served.push(format!(
                "key store {prefix:?} is not served: its key managers \
                {names:?} run from the next start only"
            ));
            return false;
        }
        let kept = managers(running, store);
        waiting.push(format!(
            "key store {prefix:?} has the key managers {kept:?} until the next \
            start, and {names:?} from then on"
        ));
        true
    });
    not_served
}

/// Key files are read at the start only, and here looked at as the next start will: who has edited
/// one must hear that it is not in force, and what is wrong with it. It is logged and not refused,
/// as every change of a key manager.
fn look_at_key_files(
    wanted: &[config::KeyManager],
    running: &[Arc<KeyManager>],
    waiting: &mut Vec<String>,
) {
    for manager in wanted {
        let Some(key_file) = manager.kind.key_file() else { continue };
        let name = &manager.name;
        let read = match Local::load(key_file) {
            Ok(read) => read,
            Err(why) => {
                waiting.push(format!(
                    "key manager {name:?}: {why}. xksd would not start with it; what runs goes on \
                     with the keys that it was started with"
                ));
                continue;
            }
        };
        let running = running.iter().find(|running| *running.name == **name);
        let differences = running.map_or_else(Vec::new, |running| running.differences(&read));
        if !differences.is_empty() {
            waiting.push(format!(
                "key manager {name:?}: key file {} has other keys than were read at the start \
                 ({}): that is in force from the next start only",
                key_file.display(),
                some_of(&differences)
            ));
        }
    }
}

/// Labels for a line of the log, of which there may be thousands.
fn some_of(labels: &[String]) -> String {
    const LABELS_SHOWN: usize = 5;
    let reported: Vec<String> =
        labels.iter().take(LABELS_SHOWN).map(|label| format!("{label:?}")).collect();
    let more = if labels.len() > LABELS_SHOWN {
        format!(" and {} more", labels.len() - LABELS_SHOWN)
    } else {
        String::new()
    };
    format!("{}{more}", reported.join(", "))
}

/// What is wrong with certificates and keys, with the lines of the configuration that name them:
/// where `xksd check` finds the same, it knows these.
fn wrong_tls(config_file: &Path, problems: Vec<tls::Problem>) -> Invalid {
    let found = Config::check(config_file).err().map_or_else(Vec::new, |invalid| invalid.problems);
    let located = |problem: tls::Problem| {
        let same =
            found.iter().find(|found| found.key == problem.key && found.message == problem.message);
        same.cloned().unwrap_or_else(|| Problem::of_key(problem.key, problem.message))
    };
    Invalid { file: config_file.to_owned(), problems: problems.into_iter().map(located).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{SMALL, read};

    /// With these local key managers, a name and a key file each, behind the first; the key store
    /// uses one.
    fn config(key_managers: &[(&str, &str)], uses: &str) -> Config {
        let managers: String = key_managers
            .iter()
            .map(|(name, file)| {
                format!(
                    "[[key_manager]]\nname = \"{name}\"\nkind = \"local\"\nkey_file = \"{file}\"\n"
                )
            })
            .collect();
        let text = SMALL.replace("[[keystore]]", &format!("{managers}[[keystore]]"));
        read(&text.replace("key_manager = [\"hsm-a\"]", &format!("key_manager = [\"{uses}\"]")))
            .expect("valid")
    }

    #[test]
    fn labels_are_told_up_to_a_bound() {
        let some = |labels: &[&str]| some_of(&labels.iter().map(|&l| l.into()).collect::<Vec<_>>());
        assert_eq!(some(&["a\n"]), r#""a\n""#);
        assert_eq!(some(&["a", "b", "c", "d", "e"]), r#""a", "b", "c", "d", "e""#);
        assert_eq!(
            some(&["a", "b", "c", "d", "e", "f", "g"]),
            r#""a", "b", "c", "d", "e" and 2 more"#
        );
    }

    /// The configuration after a reload, what waits for the restart, and the key stores that are
    /// not served.
    fn reloaded(running: &Config, mut new: Config) -> (Config, Vec<String>, Vec<String>) {
        let mut notes = Vec::new();
        let not_served = keep_running_managers(&mut new, running, &mut notes);
        assert_eq!(new.key_managers, running.key_managers, "what runs");
        (new, notes, not_served)
    }

    #[test]
    fn key_stores_get_the_key_managers_that_run_by_name() {
        let running = config(&[("a", "a.json"), ("b", "b.json")], "a");
        let (new, notes, not_served) = reloaded(&running, config(&[("b", "other.json")], "b"));
        assert_eq!((&new.keystores[0].key_managers, not_served.len()), (&vec![2], 0));
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(
            notes[0].contains("\"b\" changed") && notes[1].contains("\"a\" is no longer there"),
            "{notes:?}"
        );
    }

    #[test]
    fn a_key_store_keeps_its_key_managers_while_one_of_its_new_ones_does_not_run() {
        let running = config(&[("a", "a.json"), ("b", "b.json")], "a\", \"b");
        // Renamed, one of several new, one added to those that it has, a new one beside one that
        // runs and was not its own.
        for uses in ["c", "a\", \"c", "a\", \"b\", \"c", "c\", \"hsm-a"] {
            let wanted = config(&[("a", "a.json"), ("b", "b.json"), ("c", "c.json")], uses);
            // As each reload does, over what the one before has left in force.
            let mut in_force = running.clone();
            for _ in 0..2 {
                let (new, notes, not_served) = reloaded(&in_force, wanted.clone());
                assert_eq!(
                    (&new.keystores[0].key_managers, not_served.len()),
                    (&vec![1, 2], 0),
                    "{uses}"
                );
                let reported = format!(
                    "key store \"/a\" has the key managers [\"a\", \"b\"] until the next start, \
                     and [\"{uses}\"] from then on"
                );
                assert_eq!(
                    notes,
                    ["key manager \"c\" is new: in force from the next start only", &reported]
                );
                in_force = new;
            }
            // Nothing is logged any more when it is taken back.
            assert_eq!(reloaded(&in_force, running.clone()).1, [""; 0]);
        }
    }

    #[test]
    fn a_new_key_store_has_those_of_its_key_managers_that_run_and_without_any_it_is_not_served() {
        let running = config(&[("a", "a.json")], "a");
        let with_new_store = |uses: &str| {
            let mut wanted = config(&[("a", "a.json"), ("c", "c.json")], uses);
            wanted.keystores[0].path_prefix = "/new".to_owned();
            wanted.keystores.push(running.keystores[0].clone());
            wanted
        };
        let (new, notes, not_served) = reloaded(&running, with_new_store("c\", \"a"));
        assert_eq!(
            (new.keystores.len(), &new.keystores[0].key_managers, not_served.len()),
            (2, &vec![1], 0)
        );
        assert!(
            notes.iter().any(|note| note.contains("\"/new\" has the key managers [\"a\"] until")),
            "{notes:?}"
        );

        let (new, _, not_served) = reloaded(&running, with_new_store("c"));
        assert_eq!(
            not_served,
            ["key store \"/new\" is not served: its key managers [\"c\"] run from the next \
                 start only"]
        );
        assert_eq!(new.keystores, running.keystores, "the others are");
    }
}
