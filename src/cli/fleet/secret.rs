//! `xksd fleet secret`: makes the secret that all instances of a fleet share.

use std::path::PathBuf;

use crate::cli::credential::random_base64;
use crate::cli::{Failure, files, tell};

/// Make the secret of a fleet
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    New(NewArgs),
}

/// Make the secret that seals what the instances write to etcd
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Bring the file to every instance, as fleet.secret of its configuration. Who has it and can write \
to etcd can change blocks, policies and credentials.

Example:
  xksd fleet secret new --write-secret /etc/xksd/secrets/fleet")]
pub struct NewArgs {
    /// Write the secret to this new file, mode 0600; its directory is made, mode 0700, where it is
    /// missing
    #[arg(long, value_name = "FILE")]
    write_secret: PathBuf,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let Command::New(NewArgs { write_secret }) = command;
    let secret = random_base64()?;
    files::create_private_parent(write_secret)?;
    files::create(write_secret, files::PRIVATE, secret.as_bytes())?;
    tell(&format!(
        "The secret is in {}, mode 0600: the same file belongs to every instance. If the service \
         runs as another user: chown root:xksd, chmod 0640.",
        write_secret.display()
    ));
    Ok(())
}
