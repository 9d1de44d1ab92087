//! `xksd key`: the life of keys that an HSM has wrapped.

mod backup;
mod change;
mod hsms;
mod import;
mod instances;
mod list;

use std::path::PathBuf;

use super::Failure;
use crate::config::{Config, KeyManager, Wrapped};
use crate::key_manager::wrapped::key_file::{LABEL_FORM, is_label};

pub(super) use hsms::open_all;

/// Make, rotate and retire keys that an HSM has wrapped
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
These commands change key files, in the folder of a key manager of kind \"wrapped\". Run them as a \
user who
may write there; the service only reads. They log in to the HSM, so a wrong PIN counts as one try.
Running instances take a new file over within a second of its arrival.

A rotation over several instances:
  xksd key rotate  --config xksd.toml --key-manager near --label foo
  (copy the file keys/foo.json to the other instances)
  xksd key promote --config xksd.toml --key-manager near --label foo --instance \
http://10.0.0.2:9180
  (copy it again)")]
pub enum Command {
    Create(change::CreateArgs),
    Import(import::Args),
    List(list::ListArgs),
    Describe(list::DescribeArgs),
    Rotate(change::RotateArgs),
    Promote(change::PromoteArgs),
    Disable(change::DisableArgs),
    Enable(change::EnableArgs),
    Destroy(change::DestroyArgs),
    CancelDestroy(change::CancelDestroyArgs),
    Rewrap(change::RewrapArgs),
    BackupCheck(backup::Args),
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Create(args) => change::create(args),
        Command::Import(args) => import::run(args),
        Command::List(args) => list::list(args),
        Command::Describe(args) => list::describe(args),
        Command::Rotate(args) => change::rotate(args),
        Command::Promote(args) => change::promote(args),
        Command::Disable(args) => change::disable(args),
        Command::Enable(args) => change::enable(args),
        Command::Destroy(args) => change::destroy(args),
        Command::CancelDestroy(args) => change::cancel_destroy(args),
        Command::Rewrap(args) => change::rewrap(args),
        Command::BackupCheck(args) => backup::run(args),
    }
}

/// Which key manager is meant, and how the answer is shown.
#[derive(Debug, clap::Args)]
struct Of {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Name of a key manager of kind "wrapped"
    #[arg(long, value_name = "NAME")]
    key_manager: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Of {
    fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(&self.config)?)
    }

    /// The key manager of the name.
    fn wrapped<'a>(&self, config: &'a Config) -> Result<&'a Wrapped, Failure> {
        let named = config.key_managers.iter().find(|manager| manager.name == self.key_manager);
        if let Some(wrapped) = named.and_then(KeyManager::wrapped) {
            return Ok(wrapped);
        }
        let name = &self.key_manager;
        Err(Failure::Usage(match named {
            None => format!("--key-manager: there is no {name:?} in the configuration"),
            Some(manager) if manager.pkcs11().is_some() => format!(
                "--key-manager: the keys of {name:?} are made and kept by the HSM, with the HSM's \
                 own tools. What xksd uses them for stands in the configuration: \
                 [[keystore.key.version]], see \"Rotate a key\" in docs/operations.md"
            ),
            Some(_) => format!(
                "--key-manager: {name:?} is of kind \"local\"; keys for trying out have no versions"
            ),
        }))
    }
}

/// Which key.
#[derive(Debug, clap::Args)]
struct OfKey {
    #[command(flatten)]
    of: Of,
    /// Label of the key: its file is LABEL.json
    #[arg(long, value_name = "LABEL", value_parser = label)]
    label: String,
}

/// It is a file's name: no other folder can be named with it.
fn label(text: &str) -> Result<String, &'static str> {
    if is_label(text) { Ok(text.to_owned()) } else { Err(LABEL_FORM) }
}
