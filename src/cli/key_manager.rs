//! `xksd key-manager seal` and `unseal`.

use super::Failure;
use super::service::Service;
use crate::control::commands::Request;

/// Seal and unseal key managers of kind "wrapped"
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Seal(SealArgs),
    Unseal(UnsealArgs),
}

/// Overwrite all keys of a wrapped key manager in memory, at once, and keep them away
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every call with its keys is answered InvalidStateException from now on. The seal survives \
restarts, and holds
until `xksd key-manager unseal`. The HSM is not asked.")]
pub struct SealArgs {
    /// Name in the configuration
    name: String,
    /// Why: it stands in the log, the audit trail and the status
    #[arg(long, value_name = "TEXT", default_value = "no reason given")]
    reason: String,
    #[command(flatten)]
    service: Service,
}

/// Have the HSM open the keys of a sealed key manager again
#[derive(Debug, clap::Args)]
pub struct UnsealArgs {
    /// Name in the configuration
    name: String,
    /// Why: it stands in the log, the audit trail and the status
    #[arg(long, value_name = "TEXT", default_value = "no reason given")]
    reason: String,
    #[command(flatten)]
    service: Service,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let (name, reason, service, seal) = match command {
        Command::Seal(SealArgs { name, reason, service }) => (name, reason, service, true),
        Command::Unseal(UnsealArgs { name, reason, service }) => (name, reason, service, false),
    };
    let (key_manager, reason) = (name.clone(), reason.clone());
    service.ask(&if seal {
        Request::Seal { key_manager, reason }
    } else {
        Request::Unseal { key_manager, reason }
    })
}
