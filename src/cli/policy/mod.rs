//! `xksd policy`: what the policies of a configuration say, without a server.

mod check;
mod explain;
mod request;
mod test;

use std::path::{Path, PathBuf};

use super::Failure;
use crate::config::{self, Config};
use crate::policy::cedar::{self, Policies, Problem};

/// Check, test and explain the policies of a configuration
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Check(check::Args),
    Test(test::Args),
    Explain(Box<explain::Args>),
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Check(args) => check::run(args),
        Command::Test(args) => test::run(args),
        Command::Explain(args) => explain::run(args),
    }
}

/// What each of the commands takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A configuration with at least one key store that has policies.
struct Opened {
    file: PathBuf,
    config: Config,
}

/// A key store and its policies, whatever their mode.
struct OfKeyStore<'a> {
    store: &'a config::KeyStore,
    configured: &'a config::Policy,
    policies: Policies,
    warnings: Vec<Problem>,
}

impl Opened {
    fn load(file: &Path) -> Result<Opened, Failure> {
        let config = Config::load(file)?;
        if config.keystores.iter().all(|store| store.policy.is_none()) {
            let file = file.display();
            return Err(Failure::Usage(format!("{file} has no section [keystore.policy]")));
        }
        Ok(Opened { file: file.to_owned(), config })
    }

    fn all(&self) -> Result<Vec<OfKeyStore<'_>>, Failure> {
        self.config.keystores.iter().filter_map(|store| self.of(store)).collect()
    }

    fn of<'a>(&self, store: &'a config::KeyStore) -> Option<Result<OfKeyStore<'a>, Failure>> {
        let configured = store.policy.as_ref()?;
        let keys: Vec<&str> = store.keys.iter().map(|key| key.id.as_str()).collect();
        let loaded = cedar::load(&configured.sources(&store.path_prefix, &keys));
        Some(match loaded {
            Ok((policies, warnings)) => Ok(OfKeyStore { store, configured, policies, warnings }),
            // Validated by the configuration.
            Err(problems) => Err(Failure::Failed(
                problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
            )),
        })
    }

    /// The one of this path prefix, or the only one that has policies.
    fn find(&self, prefix: Option<&str>) -> Result<OfKeyStore<'_>, Failure> {
        let mut all = self.all()?;
        let names: Vec<String> =
            all.iter().map(|of| format!("{:?}", of.store.path_prefix)).collect();
        let file = self.file.display();
        let Some(prefix) = prefix else {
            return match (all.pop(), all.is_empty()) {
                (Some(only), true) => Ok(only),
                _ => Err(Failure::Usage(format!(
                    "{file} has policies of several key stores; say which: {}",
                    names.join(", ")
                ))),
            };
        };
        all.into_iter().find(|of| of.store.path_prefix == prefix).ok_or_else(|| {
            Failure::Usage(format!(
                "{file} has no policies of a key store {prefix:?}; there are those of {}",
                names.join(", ")
            ))
        })
    }
}
