//! What a key store has while not all of its key managers serve.

use std::sync::Arc;

use super::arrangement::{Arrangement, arrange};
use crate::config::Config;
use crate::config::tests::{SMALL, read};
use crate::key_manager::{Fault, InProcess, Job, ManagerInfo, Outcome};
use crate::keystore::KeyManager;

struct Nothing;

impl InProcess for Nothing {
    fn execute(&self, _job: Job) -> Outcome {
        Err(Fault::Busy)
    }

    fn info(&self) -> ManagerInfo {
        ManagerInfo::default()
    }

    fn labels(&self) -> Vec<String> {
        Vec::new()
    }
}

/// With these local key managers, a name and a key file each, behind the first; the key store uses
/// some.
fn config(key_managers: &[(&str, &str)], uses: &str) -> Config {
    let managers: String = key_managers
        .iter()
        .map(|(name, file)| {
            format!("[[key_manager]]\nname = \"{name}\"\nkind = \"local\"\nkey_file = \"{file}\"\n")
        })
        .collect();
    let text = SMALL.replace("[[keystore]]", &format!("{managers}[[keystore]]"));
    read(&text.replace("key_manager = [\"hsm-a\"]", &format!("key_manager = [\"{uses}\"]")))
        .expect("valid")
}

fn running(config: &Config) -> Vec<Arc<KeyManager>> {
    let run = |name: &str| Arc::new(KeyManager::in_process(name, Arc::new(Nothing)));
    config.key_managers.iter().map(|settings| run(&settings.name)).collect()
}

/// After a reload from `before` to `wanted`, in which those of these names do not serve.
fn reloaded(before: &Config, wanted: Config, failed: &[&str]) -> Arrangement {
    let running = running(before);
    let settings = wanted.key_managers.iter();
    let chosen = settings.map(|settings| {
        let place = before.key_managers.iter().position(|before| before == settings);
        let new = || Arc::new(KeyManager::in_process(&settings.name, Arc::new(Nothing)));
        let serves = !failed.contains(&settings.name.as_str());
        serves.then(|| place.map_or_else(new, |place| running[place].clone()))
    });
    let chosen: Vec<_> = chosen.collect();
    arrange(wanted, before, &running, &chosen)
}

/// The names of what runs, and of what the first key store has.
fn names(arranged: &Arrangement) -> (Vec<&str>, Vec<&str>) {
    let Arrangement { config, managers, .. } = arranged;
    let settings: Vec<&str> = config.key_managers.iter().map(|m| m.name.as_str()).collect();
    let run: Vec<&str> = managers.iter().map(|manager| &*manager.name).collect();
    assert_eq!(settings, run, "in one order");
    let used = config.keystores[0].key_managers.iter().map(|&at| run[at]).collect();
    (run, used)
}

#[test]
fn what_serves_takes_over_and_what_nobody_wants_goes() {
    let before = config(&[("a", "a.json"), ("b", "b.json")], "a\", \"b");
    let wanted = config(&[("b", "other.json"), ("c", "c.json")], "c\", \"b");
    let arranged = reloaded(&before, wanted, &[]);
    assert_eq!(names(&arranged), (vec!["hsm-a", "b", "c"], vec!["c", "b"]));
    assert_eq!(arranged.notes, [""; 0]);
}

#[test]
fn a_key_store_keeps_its_key_managers_while_one_of_its_new_ones_does_not_serve() {
    let before = config(&[("a", "a.json"), ("b", "b.json")], "a\", \"b");
    // Renamed, one of several new, one added to those that it has, a new one beside one that runs
    // and was not its own.
    for uses in ["c", "a\", \"c", "a\", \"b\", \"c", "c\", \"hsm-a"] {
        let wanted = config(&[("b", "b.json"), ("c", "c.json")], "b");
        let wanted = if uses.contains("a\"") && !uses.contains("hsm-a") {
            config(&[("a", "a.json"), ("b", "b.json"), ("c", "c.json")], uses)
        } else {
            Config {
                keystores: config(&[("b", "b.json"), ("c", "c.json")], uses).keystores,
                ..wanted
            }
        };
        let mut in_force = before.clone();
        for _ in 0..2 {
            let arranged = reloaded(&in_force, wanted.clone(), &["c"]);
            let (mut run, used) = names(&arranged);
            run.sort_unstable();
            assert_eq!((run, used), (vec!["a", "b", "hsm-a"], vec!["a", "b"]), "{uses}");
            let note = format!(
                "key store \"/a\" has the key managers [\"a\", \"b\"], and not [\"{uses}\"], of \
                 which not all serve"
            );
            assert_eq!(arranged.notes, [note]);
            in_force = arranged.config;
        }
        let arranged = reloaded(&in_force, before.clone(), &[]);
        assert_eq!((names(&arranged).1, arranged.notes.len()), (vec!["a", "b"], 0), "taken back");
    }
}

#[test]
fn one_that_does_not_serve_with_its_new_settings_runs_on_with_those_before() {
    let before = config(&[("a", "a.json")], "a");
    let arranged = reloaded(&before, config(&[("a", "other.json")], "a"), &["a"]);
    assert_eq!(names(&arranged).1, ["a"]);
    assert_eq!(arranged.config.key_managers, before.key_managers);
}

#[test]
fn a_new_key_store_has_those_of_its_key_managers_that_serve_and_without_any_it_is_not_served() {
    let before = config(&[("a", "a.json")], "a");
    let with_new_store = |uses: &str| {
        let mut wanted = config(&[("a", "a.json"), ("c", "c.json")], uses);
        wanted.keystores[0].path_prefix = "/new".to_owned();
        wanted.keystores.push(before.keystores[0].clone());
        wanted
    };
    let arranged = reloaded(&before, with_new_store("c\", \"a"), &["c"]);
    assert_eq!((arranged.config.keystores.len(), names(&arranged).1), (2, vec!["a"]));
    let arranged = reloaded(&before, with_new_store("c"), &["c"]);
    assert_eq!(
        arranged.notes,
        ["key store \"/new\" is not served: none of its key managers [\"c\"] serves"]
    );
    assert_eq!(arranged.config.keystores, before.keystores, "the others are");
}
