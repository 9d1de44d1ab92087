//! `xksd fleet`: the other instances of the same service.

mod files;
mod secret;
mod status;

use super::Failure;
use super::service::Service;
use crate::control::commands::Request;
use crate::control::sharing::commands as fleet_commands;

/// See and change all instances of the service together
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Status(StatusArgs),
    Put(files::PutArgs),
    Get(files::GetArgs),
    List(ListArgs),
    Remove(NameArgs),
    Forget(ForgetArgs),
    #[command(subcommand)]
    Secret(secret::Command),
}

/// Show all instances and where they differ
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is not as on most instances is red, and marked with *. Exit code 1 where an instance is not \
there.")]
pub struct StatusArgs {
    #[command(flatten)]
    service: Service,
}

/// List the files of the fleet
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    service: Service,
}

/// Take a file from all instances
#[derive(Debug, clap::Args)]
pub struct NameArgs {
    /// Name of the file
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    service: Service,
}

/// Say that an instance which is away does not come back
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An instance that stops by itself leaves the fleet. One that was killed, or cannot reach etcd, \
stays in it, so that `xksd block --fleet` says that it has not confirmed.")]
pub struct ForgetArgs {
    /// Name of the instance
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    service: Service,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let ask = |service: &Service, request| service.ask(&Request::Fleet(request));
    match command {
        Command::Status(args) => status::run(&args.service),
        Command::Put(args) => files::put(args),
        Command::Get(args) => files::get(args),
        Command::List(args) => ask(&args.service, fleet_commands::Request::List {}),
        Command::Remove(args) => {
            ask(&args.service, fleet_commands::Request::Remove { name: args.name.clone() })
        }
        Command::Forget(args) => {
            ask(&args.service, fleet_commands::Request::Forget { name: args.name.clone() })
        }
        Command::Secret(command) => secret::run(command),
    }
}
