//! `xksd keys`

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Failure, print};
use crate::control::config::{Config, KeyManager};
use crate::control::service::{Opened, open, why_not};
use crate::hsm::pkcs11::KeyListing;
use crate::hsm::{Engine, Job, Outcome, Task};

/// Looking a key up may take this long.
const LOOK_UP_TIME: Duration = Duration::from_secs(10);

/// Tell what the key managers hold, and whether each configured key can serve
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Logs in to each token, so a wrong PIN counts as one try.

Behind \"can serve, but\" stands what a key in an HSM should not allow: to leave it (CKA_EXTRACTABLE, or not CKA_SENSITIVE), or to
carry other keys out and in (CKA_WRAP, CKA_UNWRAP). It is told, and does not change the exit code.

Exit codes: 0 every configured key can serve, 1 some cannot, 2 wrong configuration.")]
pub struct Args {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = Config::load(&args.config)?;
    let mut cannot = 0;
    for (index, manager) in config.key_managers.iter().enumerate() {
        cannot += tell_manager(&config, index, manager)?;
    }
    match cannot {
        0 => Ok(()),
        1 => Err(Failure::Failed("1 configured key cannot serve".into())),
        _ => Err(Failure::Failed(format!("{cannot} configured keys cannot serve"))),
    }
}

/// Prints what one key manager holds; how many of the keys expected there cannot serve.
fn tell_manager(config: &Config, index: usize, manager: &KeyManager) -> Result<usize, Failure> {
    print(&format!("key manager {}\n", manager.name))?;
    let mut expected: BTreeSet<(&str, &str, &str, bool)> = BTreeSet::new();
    for store in config.keystores.iter().filter(|store| store.key_managers.contains(&index)) {
        expected.extend(
            store.keys.iter().map(|key| (key.label.as_str(), key.id.as_str(), store.path_prefix.as_str(), store.enabled && key.enabled)),
        );
    }
    let opened = match open(manager) {
        Ok(opened) => opened,
        Err(why) => {
            print(&format!("  {why}\n"))?;
            return Ok(expected.len().max(1));
        }
    };
    let mut listed = Vec::new();
    let mut execute: Box<dyn FnMut(Job) -> Outcome> = match opened {
        Opened::Local(local) => {
            for label in local.labels() {
                print(&format!("  {label:?}: AES_256\n"))?;
            }
            Box::new(move |job| local.execute(job))
        }
        Opened::Pkcs11(engine, _) => {
            let opened = engine.list_keys().and_then(|keys| Ok((keys, engine.open()?)));
            let (keys, mut session) = match opened {
                Ok(opened) => opened,
                Err(fault) => {
                    print(&format!("  {fault}\n"))?;
                    return Ok(expected.len().max(1));
                }
            };
            for key in &keys {
                print(&format!("  {key}\n"))?;
            }
            listed = keys;
            Box::new(move |job| session.execute(job))
        }
    };
    let mut cannot = 0;
    for (label, id, prefix, enabled) in expected {
        let job = Job { label: Arc::from(label), task: Task::Describe, deadline: Instant::now() + LOOK_UP_TIME };
        let verdict = match why_not(execute(job)) {
            None => {
                let mut but = if enabled { vec![] } else { vec!["it is disabled in the configuration".to_string()] };
                but.extend(listed.iter().filter(|key| key.label == label).flat_map(KeyListing::exposures));
                if but.is_empty() { "can serve".to_string() } else { format!("can serve, but {}", but.join("; ")) }
            }
            Some(why) => {
                cannot += 1;
                format!("CANNOT SERVE: {why}")
            }
        };
        print(&format!("  -> key {id} of key store {prefix:?} (label {label:?}): {verdict}\n"))?;
    }
    Ok(cannot)
}
