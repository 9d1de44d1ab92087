//! `xksd audit`

mod key;
mod proof;
mod search;
mod verify;

use std::path::PathBuf;

use super::Failure;
use crate::audit::checkpoint::{Checkpoint, Verifier};
use crate::audit::cosignature::CosignerKey;
use crate::audit::layout::Layout;
use crate::config::Config;
use crate::control::audit::signer;

/// Verify and search the audit trail, and prove single records
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Verify(verify::Args),
    Search(search::Args),
    Prove(proof::ProveArgs),
    Export(proof::ExportArgs),
    #[command(subcommand)]
    Key(key::Command),
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Verify(args) => verify::run(args),
        Command::Search(args) => search::run(args),
        Command::Prove(args) => proof::prove(args),
        Command::Export(args) => proof::export(args),
        Command::Key(key::Command::New(args)) => key::new(args),
    }
}

/// Which trail: the configuration's, or a copy of one with the key that verifies it.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Source {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["directory", "verifier"])]
    config: Option<PathBuf>,
    /// Directory of a trail, instead of a configuration: for who has only a copy of it
    #[arg(long, value_name = "DIR", requires = "verifier")]
    directory: Option<PathBuf>,
    /// Verifier key, as `xksd audit key new` printed it; may be given several times
    #[arg(long, value_name = "KEY", requires = "directory")]
    verifier: Vec<String>,
}

/// A trail to be read.
struct Opened {
    layout: Layout,
    verifiers: Vec<Verifier>,
    /// Of the configuration.
    witnesses: Vec<CosignerKey>,
}

impl Source {
    fn open(&self) -> Result<Opened, Failure> {
        if let Some(directory) = &self.directory {
            let verifiers = self.verifier.iter().map(|text| {
                let wrong = || Failure::Usage(format!("{text} is not a verifier key: name+id+key"));
                Verifier::parse(text).ok_or_else(wrong)
            });
            let verifiers = verifiers.collect::<Result<_, _>>()?;
            let witnesses = Vec::new();
            return Ok(Opened { layout: Layout::new(directory), verifiers, witnesses });
        }
        let Some(file) = &self.config else {
            return Err(Failure::Usage("give --config, or --directory and --verifier".to_owned()));
        };
        let config = Config::load(file)?;
        let Some(audit) = &config.audit else {
            let file = file.display();
            return Err(Failure::Usage(format!("{file} has no section [audit]")));
        };
        let own = signer(audit).map_err(Failure::Usage)?.verifier().clone();
        let verifiers = [own].into_iter().chain(audit.previous_verifier_keys.clone()).collect();
        let witnesses = audit.witnesses.iter().map(|witness| witness.verifier_key.clone());
        let (layout, witnesses) = (Layout::new(&audit.directory), witnesses.collect());
        Ok(Opened { layout, verifiers, witnesses })
    }
}

impl Opened {
    fn verifiers(&self) -> Vec<&Verifier> {
        self.verifiers.iter().collect()
    }

    /// The newest checkpoint as text and value.
    fn checkpoint(&self) -> Result<(String, Checkpoint), Failure> {
        let path = self.layout.checkpoint();
        let failed = |why: String| Failure::Failed(format!("{}: {why}", path.display()));
        let note = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
        let opened = self.verifiers.iter().find_map(|verifier| verifier.open(&note).ok());
        let not = || failed("no verifier key accepts this checkpoint".to_owned());
        opened.map(|checkpoint| (note, checkpoint)).ok_or_else(not)
    }
}
