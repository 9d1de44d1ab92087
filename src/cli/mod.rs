//! The command line: one file a command.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong configuration or usage (also clap's own for wrong usage).

mod audit;
mod block;
mod check;
mod credential;
mod demo;
mod files;
mod fleet;
mod instance;
mod key;
mod key_manager;
mod keys;
mod keystore;
mod policy;
pub mod probe;
mod serve;
mod service;
mod table;
mod top;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::Invalid;

/// Version, and the commit it is built from.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILT_FROM"), ")");

/// AWS KMS External Key Store (XKS) proxy: answers AWS KMS from your own HSM
#[derive(Debug, Parser)]
#[command(name = "xksd", version = VERSION, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "\
To try it without an HSM:
  xksd demo

To set it up:
  xksd credential new --write-secret secrets/key-store-1
  xksd check --config xksd.toml
  xksd keys --config xksd.toml
  xksd keystore export --config xksd.toml --prefix /example
  xksd serve --config xksd.toml
  xksd probe --config xksd.toml

To run it:
  xksd status --config xksd.toml
  xksd top --config xksd.toml
  xksd reload --config xksd.toml
  xksd block --config xksd.toml --key-store /example --reason \"incident 4711\"

Exit codes: 0 done, 1 failed, 2 wrong configuration or usage.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Check(check::Args),
    Demo(demo::Args),
    Probe(probe::Args),
    Keys(keys::Args),
    #[command(subcommand)]
    Key(key::Command),
    #[command(subcommand)]
    KeyManager(key_manager::Command),
    #[command(subcommand)]
    Credential(credential::Command),
    #[command(subcommand)]
    Keystore(keystore::Command),
    #[command(subcommand)]
    Policy(policy::Command),
    #[command(subcommand)]
    Audit(audit::Command),
    Block(block::BlockArgs),
    Unblock(block::UnblockArgs),
    Blocks(block::BlocksArgs),
    #[command(subcommand)]
    Fleet(fleet::Command),
    Reload(service::ReloadArgs),
    Status(service::StatusArgs),
    Top(top::Args),
}

/// A line on standard error is waited for so long.
const TELL_TIME: Duration = Duration::from_secs(1);

/// Does what the command line says.
pub fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Serve(args) => finish(serve::run(&args)),
        Command::Check(args) => finish(check::run(&args)),
        Command::Demo(args) => finish(demo::run(&args)),
        Command::Probe(args) => finish(probe::run(&args)),
        Command::Keys(args) => finish(keys::run(&args)),
        Command::Key(command) => finish(key::run(&command)),
        Command::KeyManager(command) => finish(key_manager::run(&command)),
        Command::Credential(command) => finish(credential::run(&command)),
        Command::Keystore(command) => finish(keystore::run(&command)),
        Command::Policy(command) => finish(policy::run(&command)),
        Command::Audit(command) => finish(audit::run(&command)),
        Command::Block(args) => finish(block::block(&args)),
        Command::Unblock(args) => finish(block::unblock(&args)),
        Command::Blocks(args) => finish(block::blocks(&args)),
        Command::Fleet(command) => finish(fleet::run(&command)),
        Command::Reload(args) => finish(service::reload(&args)),
        Command::Status(args) => finish(service::status(&args)),
        Command::Top(args) => finish(top::run(&args)),
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
enum Failure {
    /// Exit code 1.
    Failed(String),
    /// Wrong configuration or usage: exit code 2.
    Usage(String),
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        let count = match invalid.problems.len() {
            1 => "1 problem".to_owned(),
            count => format!("{count} problems"),
        };
        Self::Usage(format!("{invalid}\n{count} in {}", invalid.file.display()))
    }
}

/// Tells a failure on standard error and gives the command's exit code.
fn finish(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => {
            tell(&message);
            ExitCode::FAILURE
        }
        Err(Failure::Usage(message)) => {
            tell(&message);
            ExitCode::from(2)
        }
    }
}

/// A line for the person at the terminal, on standard error.
fn tell(message: &str) {
    let line = format!("{message}\n");
    let (done, told) = std::sync::mpsc::sync_channel(1);
    // On another thread: where nobody reads a pipe that is full, also the log's writer may be
    // waiting in standard error, for ever, and the process must end all the same.
    let write = move || {
        // When standard error is closed, there is nobody to tell that either.
        let _ = io::stderr().write_all(line.as_bytes());
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(write).is_ok() {
        let _ = told.recv_timeout(TELL_TIME);
    }
}

/// A command's result, on standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Failure::Failed(format!("cannot write to standard output: {e}")))
}
