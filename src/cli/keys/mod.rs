//! `xksd keys`

mod budgets;
mod listing;
mod masters;
mod replicas;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::budgets::Budgets;
use super::{Failure, key, print};
use crate::api::response::key_spec;
use crate::config::{Config, Key, KeyManager};
use crate::control::build::{Opened, open};
use crate::control::expected::why_it_cannot_serve;
use crate::key_manager::wrapped::Wrapped;
use crate::key_manager::{InProcess, Job, KeyListing, KeyRef, KeySpec, Outcome, Task, TokenKeys};

/// Looking a key up may take this long, and so may an encryption or decryption.
const JOB_TIME: Duration = Duration::from_secs(10);

/// Tell what the key managers hold, whether each configured key can serve, and whether replicas
/// hold the same keys
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Logs in to each token, so a wrong PIN counts as one try.

Behind \"can serve, but\" stands what a key in an HSM should not allow: to leave it
(CKA_EXTRACTABLE, or not CKA_SENSITIVE), or to carry other keys out and in (CKA_WRAP, CKA_UNWRAP).
It is shown, and does not change the exit code. The same of the master of a wrapped key manager,
which should allow nothing but to encrypt and decrypt.

\"has encrypted up to\" is what a key has used of its invocation budget on this instance, as its
state directory says; nothing is shown where that cannot be read.

Of a key store with several key managers, each encrypts random bytes under each key, and each other
one decrypts them: the same label does not make it the same key. \"DIFFERENT KEYS\" means that what
AWS has encrypted through one of them is lost to the other.

Exit codes: 0 every configured key can serve, and is the same in all of its key managers; 1 some
cannot, differ, or could not be compared, or a master is missing; 2 wrong configuration.")]
pub struct Args {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = Config::load(&args.config)?;
    config.set_environment().map_err(Failure::Failed)?;
    let (mut holders, budgets) = (Vec::new(), Budgets::read(&config));
    for (index, manager) in config.key_managers.iter().enumerate() {
        let holder = tell_manager(&config, index, manager)?;
        for label in &holder.serves {
            for line in budgets.lines(&holder.name, label) {
                print(&format!("  {line}\n"))?;
            }
        }
        holders.push(holder);
    }
    let mut tally = Tally::default();
    for store in &config.keystores {
        for version in store.keys.iter().flat_map(Key::usable) {
            let serving = store
                .key_managers
                .iter()
                .filter(|&&index| holders[index].serves.contains(&version.label))
                .count();
            tally.cannot += usize::from(serving == 0);
            tally.cannot_everywhere +=
                usize::from((1..store.key_managers.len()).contains(&serving));
        }
        if store.key_managers.len() > 1 {
            replicas::tell(store, &mut holders, &mut tally)?;
        }
    }
    tally.masters = masters::missing(&config, &holders);
    tally.unopened = holders
        .iter()
        .filter(|holder| holder.execute.is_none())
        .map(|holder| holder.name.clone())
        .collect();
    tally.verdict()
}

/// Does one job of a key manager.
type Execute = Box<dyn FnMut(Job) -> Outcome>;

/// A key manager, as far as it could be opened.
struct Holder {
    name: String,
    /// `None` where it could not be opened.
    execute: Option<Execute>,
    /// Labels of the configured keys that can serve.
    serves: BTreeSet<String>,
    /// What an HSM holds.
    listed: Option<TokenKeys>,
}

impl Holder {
    fn unopened(name: &str) -> Holder {
        Holder { name: name.to_owned(), execute: None, serves: BTreeSet::new(), listed: None }
    }
}

/// A job with time enough for a person who waits.
fn job(label: &str, task: Task) -> Job {
    Job { key: KeyRef::first(label), task, deadline: Instant::now() + JOB_TIME }
}

/// What is wrong, each key of a key store counted once.
#[derive(Default)]
struct Tally {
    /// From no key manager.
    cannot: usize,
    /// From some of its key managers only.
    cannot_everywhere: usize,
    different: usize,
    /// Neither different nor the same, for a fault.
    uncompared: usize,
    /// Of wrapped key managers, each a sentence.
    masters: Vec<String>,
    unopened: Vec<String>,
}

impl Tally {
    fn verdict(&self) -> Result<(), Failure> {
        let keys = |count: usize, one: &str, several: &str| match count {
            0 => None,
            1 => Some(format!("1 configured key {one}")),
            _ => Some(format!("{count} configured keys {several}")),
        };
        let wrong: Vec<String> = [
            keys(
                self.different,
                "is not the same in all of its key managers",
                "are not the same in all of their key managers",
            ),
            keys(self.cannot, "cannot serve", "cannot serve"),
            keys(
                self.cannot_everywhere,
                "can serve from only some of its key managers",
                "can serve from only some of their key managers",
            ),
            keys(
                self.uncompared,
                "could not be compared in all of its key managers",
                "could not be compared in all of their key managers",
            ),
        ]
        .into_iter()
        .flatten()
        .chain(self.masters.iter().cloned())
        .chain(self.unopened.iter().map(|name| format!("key manager {name} could not be opened")))
        .collect();
        if wrong.is_empty() { Ok(()) } else { Err(Failure::Failed(wrong.join("\n"))) }
    }
}

/// Label, id and key store of each key that a key manager is to serve, and whether it is enabled.
fn expected(config: &Config, index: usize) -> BTreeSet<(&str, &str, &str, bool)> {
    let mut expected = BTreeSet::new();
    for store in config.keystores.iter().filter(|store| store.key_managers.contains(&index)) {
        expected.extend(store.keys.iter().flat_map(|key| {
            let enabled = store.enabled && key.enabled;
            let (id, prefix) = (key.id.as_str(), store.path_prefix.as_str());
            key.usable().map(move |version| (version.label.as_str(), id, prefix, enabled))
        }));
    }
    expected
}

/// Prints the keys of one that computes in this process.
fn in_process(keys: Arc<dyn InProcess>) -> Result<Execute, Failure> {
    for label in keys.labels() {
        print(&format!("  {label:?}: {}\n", key_spec(KeySpec::AES_256)))?;
    }
    Ok(Box::new(move |job| keys.execute(job)))
}

/// The same of one whose keys an HSM opens; `None` where it does not.
fn wrapped(
    config: &Config,
    manager: &KeyManager,
    keys: Arc<Wrapped>,
) -> Result<Option<Execute>, Failure> {
    let Some(wrapped) = manager.wrapped() else { return Ok(None) };
    match key::open_all(config, wrapped, &keys) {
        Ok(wrong) => {
            wrong.iter().try_for_each(|why| print(&format!("  {why}\n")))?;
            in_process(keys).map(Some)
        }
        Err(why) => print(&format!("  {why}\n")).map(|()| None),
    }
}

/// Prints what one key manager holds, and which of the keys expected there can serve.
fn tell_manager(config: &Config, index: usize, manager: &KeyManager) -> Result<Holder, Failure> {
    print(&format!("key manager {}\n", manager.name))?;
    let opened = match open(manager) {
        Ok(opened) => opened,
        Err(why) => {
            print(&format!("  {why}\n"))?;
            return Ok(Holder::unopened(&manager.name));
        }
    };
    let mut listed = None;
    let mut execute: Execute = match opened {
        Opened::InProcess(keys) => in_process(keys)?,
        Opened::Wrapped(keys) => match wrapped(config, manager, keys)? {
            Some(execute) => execute,
            None => return Ok(Holder::unopened(&manager.name)),
        },
        Opened::Sessions(engine, _) => {
            let opened = engine.list().and_then(|keys| Ok((keys, engine.open()?)));
            let (keys, mut session) = match opened {
                Ok(opened) => opened,
                Err(fault) => {
                    print(&format!("  {fault}\n"))?;
                    return Ok(Holder::unopened(&manager.name));
                }
            };
            for key in keys.iter() {
                print(&format!("  {}\n", listing::line(key)))?;
            }
            masters::tell(config, &manager.name, &keys)?;
            listed = Some(keys);
            Box::new(move |job| session.execute(job))
        }
    };
    // By label: several keys of key stores may be one key here.
    let mut verdicts: BTreeMap<&str, Option<String>> = BTreeMap::new();
    for (label, id, prefix, enabled) in expected(config, index) {
        let verdict = match verdicts.entry(label).or_insert_with(|| {
            why_it_cannot_serve(match &listed {
                Some(listed) => listed.describe(label),
                None => execute(job(label, Task::Describe)),
            })
        }) {
            None => {
                let mut but = if enabled {
                    vec![]
                } else {
                    vec!["it is disabled in the configuration".to_string()]
                };
                let of_label = listed.iter().flat_map(|listed| listed.of_label(label));
                but.extend(of_label.flat_map(KeyListing::exposures));
                if but.is_empty() {
                    "can serve".to_string()
                } else {
                    format!("can serve, but {}", but.join("; "))
                }
            }
            Some(why) => format!("CANNOT SERVE: {why}"),
        };
        print(&format!("  -> key {id} of key store {prefix:?} (label {label:?}): {verdict}\n"))?;
    }
    let serves = verdicts
        .into_iter()
        .filter(|(_, why_not)| why_not.is_none())
        .map(|(label, _)| label.to_owned())
        .collect();
    Ok(Holder { name: manager.name.clone(), execute: Some(execute), serves, listed })
}
