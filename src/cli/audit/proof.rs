//! `xksd audit prove` and `xksd audit export`

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::Source;
use crate::audit::proof;
use crate::audit::reader::read_all;
use crate::audit::search::parse;
use crate::audit::tree::leaf_hash;
use crate::cli::{Failure, print, tell};

/// Print the proof that one record is in the trail (C2SP tlog-proof)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The proof holds a checkpoint. With the record, the proof and the verifier key anybody can verify, \
without the trail, that the record was written. The record's line goes to standard error.

Example:
  xksd audit prove --config xksd.toml --kms-request-id 4a5f… > request.tlog-proof")]
pub struct ProveArgs {
    #[command(flatten)]
    source: Source,
    /// The record of this request: the first one, where there are several
    #[arg(long, value_name = "ID", required_unless_present = "index")]
    kms_request_id: Option<String>,
    /// The record with this index, from 0
    #[arg(long, value_name = "N", conflicts_with = "kms_request_id")]
    index: Option<u64>,
}

pub(super) fn prove(args: &ProveArgs) -> Result<(), Failure> {
    let opened = args.source.open()?;
    let (note, checkpoint) = opened.checkpoint()?;
    let mut found = None;
    let wanted = args.kms_request_id.as_deref();
    let fits = |line: &[u8]| parse(line).is_some_and(|record| record.is_of(wanted));
    let read = read_all(&opened.layout, |index, line| {
        if index >= checkpoint.size {
            return ControlFlow::Break(());
        }
        if args.index == Some(index) || wanted.is_some() && fits(line) {
            found = Some((index, line.to_vec()));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    read.map_err(|broken| Failure::Failed(broken.to_string()))?;
    let Some((index, line)) = found else {
        return Err(Failure::Failed(format!(
            "no such record among the {} that the newest checkpoint covers",
            checkpoint.size
        )));
    };
    let proof = proof::prove(&opened.layout, leaf_hash(&line), index, &checkpoint, &note)
        .map_err(|error| Failure::Failed(error.to_string()))?;
    tell(&String::from_utf8_lossy(&line));
    print(&proof)
}

/// Write the trail as files that any C2SP tlog-tiles client can read
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    #[command(flatten)]
    source: Source,
    /// Write checkpoint and tile/… into this directory
    #[arg(long, value_name = "DIR")]
    tiles: PathBuf,
}

pub(super) fn export(args: &ExportArgs) -> Result<(), Failure> {
    let opened = args.source.open()?;
    let (note, checkpoint) = opened.checkpoint()?;
    proof::export_tiles(&opened.layout, &checkpoint, &note, &args.tiles)
        .map_err(|error| Failure::Failed(format!("{}: {error}", args.tiles.display())))?;
    tell(&format!("{} records are in {}", checkpoint.size, args.tiles.display()));
    Ok(())
}
