//! `xksd serve`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Failure;
use crate::admin;
use crate::control::lifecycle::{self, Failure as ServeFailure};
use crate::control::state::State;

/// Serve AWS KMS
#[derive(Debug, clap::Args)]
#[command(after_help = "\
SIGTERM stops: readiness off, serving on for server.shutdown_delay_ms until load balancers have
seen it, then listeners closed, requests in flight answered, sessions closed. SIGINT (Ctrl-C) is the
same without the delay. A second signal ends at once, with exit code 1.
SIGHUP reads the configuration again: key stores, credentials, keys, regions, budget and TLS change
without a restart.

The log goes to standard error: JSON, or text on a terminal.
Exit codes: 0 stopped as asked, 1 failed, 2 wrong configuration.")]
pub struct Args {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    serve(&args.config, |_| ())
}

/// Serves until a signal says stop. `serving` is called once, when requests are answered; a key
/// manager may still be opening.
pub(super) fn serve(config: &Path, serving: impl FnOnce(&Arc<State>)) -> Result<(), Failure> {
    lifecycle::serve(config, admin::HOOKS, serving).map_err(|failure| match failure {
        ServeFailure::Configuration(invalid) => invalid.into(),
        ServeFailure::Other(why) => Failure::Failed(format!("xksd: {why}")),
    })
}
