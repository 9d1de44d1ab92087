//! `xksd audit verify`

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::Source;
use crate::audit::cosignature::CosignerKey;
use crate::audit::report::{Cosigned, PROBLEMS_MAX, Report};
use crate::audit::verify::verify;
use crate::cli::{Failure, print};
use crate::telemetry::log::timestamp;

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
    /// Key of a witness that must have cosigned, as `xksd audit key new --witness` printed it; may
    /// be given several times. With --config, those of audit.witness are meant, too
    #[arg(long, value_name = "KEY")]
    witness: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let opened = args.source.open()?;
    let against = match &args.against {
        Some(file) => Some(kept(file)?),
        None => None,
    };
    let mut witnesses = opened.witnesses.clone();
    for text in &args.witness {
        let wrong = || Failure::Usage(format!("{text} is not a witness's key: name+id+key"));
        witnesses.push(CosignerKey::parse(text).ok_or_else(wrong)?);
    }
    let directory = opened.layout.directory().display();
    let report = verify(&opened.layout, &opened.verifiers(), &witnesses, against.as_deref())
        .map_err(|error| Failure::Failed(format!("cannot read {directory}: {error}")))?;
    print(&if args.json { as_json(&report) } else { as_text(&report) })?;
    match report.problems.len() {
        0 => Ok(()),
        1 => Err(Failure::Failed(format!("{directory}: 1 problem"))),
        PROBLEMS_MAX => {
            Err(Failure::Failed(format!("{directory}: at least {PROBLEMS_MAX} problems")))
        }
        count => Err(Failure::Failed(format!("{directory}: {count} problems"))),
    }
}

/// A checkpoint that was kept elsewhere: who copies one adds line ends, or takes the last.
fn kept(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    Ok(format!("{}\n", text.trim_end()))
}

fn as_json(report: &Report) -> String {
    let one = |Cosigned { name, records, at }: &Cosigned| {
        let at = records.map(|_| time(*at));
        json!({ "witness": name, "records": records, "time": at })
    };
    let cosigned: Vec<_> = report.cosigned.iter().map(one).collect();
    let value = json!({
        "ok": report.problems.is_empty(),
        "records": report.records,
        "records_deleted": report.deleted,
        "records_signed": report.signed,
        "checkpoints": report.checkpoints,
        "cosigned": cosigned,
        "unfinished_bytes": report.unfinished_bytes,
        "problems": report.problems,
    });
    format!("{value}\n")
}

/// Seconds since 1970, for a person.
fn time(at: u64) -> String {
    timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(at.min(u64::from(u32::MAX))))
}

fn as_text(report: &Report) -> String {
    let Report { records, deleted, checkpoints, signed, cosigned, unfinished_bytes, problems } =
        report;
    let mut text: String = problems.iter().map(|problem| format!("WRONG: {problem}\n")).collect();
    text.push_str(&format!("{records} records, {checkpoints} checkpoints\n"));
    for Cosigned { name, records, at } in cosigned {
        if let Some(records) = records {
            let at = time(*at);
            text.push_str(&format!("The witness {name} saw the first {records} at {at}.\n"));
        }
    }
    if *deleted > 0 {
        text.push_str(&format!(
            "The first {deleted} records are not there any more; their hashes are right.\n"
        ));
    }
    if signed < records {
        let (last, them) = match records - signed {
            1 => ("record is".to_owned(), "it"),
            count => (format!("{count} records are"), "them"),
        };
        text.push_str(&format!(
            "The last {last} not signed yet: the service signs {them} within a second, or when it \
             starts again.\n"
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
