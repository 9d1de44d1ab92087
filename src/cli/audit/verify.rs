//! `xksd audit verify`

use std::path::PathBuf;

use serde_json::json;

use super::Source;
use crate::audit::verify::{Report, verify};
use crate::cli::{Failure, print};

/// Look through the whole trail for anything changed, missing, added or out of order
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Run it with --against and a checkpoint that was kept on another machine: older files brought back \
together with
their older checkpoint look right otherwise. xksd writes each new checkpoint to its log, too.

Exit codes: 0 nothing is wrong; 1 something is; 2 wrong configuration or usage.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// A checkpoint that was kept elsewhere: the trail must contain all that it covers
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let opened = args.source.open()?;
    let against = match &args.against {
        Some(file) => Some(
            std::fs::read_to_string(file)
                .map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?,
        ),
        None => None,
    };
    let directory = opened.layout.directory().display();
    let report = verify(&opened.layout, &opened.verifiers(), against.as_deref())
        .map_err(|error| Failure::Failed(format!("cannot read {directory}: {error}")))?;
    print(&if args.json { as_json(&report) } else { as_text(&report) })?;
    match report.problems.len() {
        0 => Ok(()),
        1 => Err(Failure::Failed(format!("{directory}: 1 problem"))),
        count => Err(Failure::Failed(format!("{directory}: {count} problems"))),
    }
}

fn as_json(report: &Report) -> String {
    let value = json!({
        "ok": report.problems.is_empty(),
        "records": report.records,
        "records_deleted": report.deleted,
        "records_signed": report.signed,
        "checkpoints": report.checkpoints,
        "unfinished_bytes": report.unfinished_bytes,
        "problems": report.problems,
    });
    format!("{value}\n")
}

fn as_text(report: &Report) -> String {
    let Report { records, deleted, checkpoints, signed, unfinished_bytes, problems } = report;
    let mut text: String = problems.iter().map(|problem| format!("WRONG: {problem}\n")).collect();
    text.push_str(&format!("{records} records, {checkpoints} checkpoints\n"));
    if *deleted > 0 {
        text.push_str(&format!(
            "The first {deleted} records are not there any more; their hashes are right.\n"
        ));
    }
    if signed < records {
        text.push_str(&format!(
            "The last {} records are not signed yet: the service signs them within a second, or \
             when it starts again.\n",
            records - signed
        ));
    }
    if *unfinished_bytes > 0 {
        text.push_str(&format!(
            "The last {unfinished_bytes} bytes are a record that is not finished: it is being \
             written, or the machine went down.\n"
        ));
    }
    if problems.is_empty() {
        text.push_str("Nothing is wrong.\n");
    }
    text
}
