//! `xksd fleet put|get`: files that every instance has.

use std::io::Write as _;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::cli::service::Service;
use crate::cli::{Failure, files};
use crate::control::commands::Request;
use crate::control::sharing::commands as fleet_commands;
use crate::file;
use crate::limits::FLEET_FILE_BYTES_MAX;

/// Give a file to all instances
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every instance writes it whole, mode 0600, to fleet/files/NAME in its state directory, from where \
the configuration names it, and reloads. Waits until each has confirmed.

Example:
  xksd fleet put s3-only.cedar policies/s3-only.cedar --config /etc/xksd/xksd.toml
  # [keystore.policy] files = [\"/var/lib/xksd/fleet/files/s3-only.cedar\"]")]
pub struct PutArgs {
    /// Name of the file in the fleet
    #[arg(value_name = "NAME")]
    name: String,
    /// File to upload
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    service: Service,
}

/// Read a file of the fleet
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// Name of the file in the fleet
    #[arg(value_name = "NAME")]
    name: String,
    /// Write it to this new file, mode 0600 [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    service: Service,
}

pub(super) fn put(args: &PutArgs) -> Result<(), Failure> {
    let content = file::read(&args.file, FLEET_FILE_BYTES_MAX)
        .map_err(|why| Failure::Usage(format!("{} {why}", args.file.display())))?;
    let (name, content) = (args.name.clone(), STANDARD.encode(&*content.bytes));
    args.service.ask(&Request::Fleet(fleet_commands::Request::Put { name, content }))
}

pub(super) fn get(args: &GetArgs) -> Result<(), Failure> {
    let name = args.name.clone();
    let request = Request::Fleet(fleet_commands::Request::Get { name });
    let reply = args.service.reply(&request)?;
    if !reply.ok {
        return Err(Failure::Failed(reply.message));
    }
    let content = reply.data["content"].as_str().and_then(|text| STANDARD.decode(text).ok());
    let content = content.ok_or(Failure::Failed("the answer holds no file".to_owned()))?;
    match &args.output {
        Some(path) => files::create(path, files::PRIVATE, &content),
        None => std::io::stdout()
            .lock()
            .write_all(&content)
            .map_err(|e| Failure::Failed(format!("cannot write to standard output: {e}"))),
    }
}
