//! `xksd audit search`

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Source;
use crate::audit::reader::read_all;
use crate::audit::search::{Comparison, Query, parse};
use crate::cli::{Failure, print};

/// They choose records, and would leave all events of an export that they do not fit without one.
const CONDITIONS: [&str; 8] =
    ["kms_request_id", "key_store", "key", "principal", "kind", "outcome", "from", "until"];

/// Print the records that fit all conditions, or compare them with a CloudTrail export
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Records are printed as they stand, a JSON object a line.

Examples:
  xksd audit search --config xksd.toml --kms-request-id 4a5f…
  xksd audit search --config xksd.toml --key foo --from 2026-11-01T00:00:00Z
  xksd audit search --config xksd.toml --cloudtrail export.json \\
    --kms-key-arn arn:aws:kms:eu-central-1:123456789012:key/4a5f…  # in one and not in the other

Exit codes: 0 done; 1 nothing was found, the export and the trail differ, or no KMS key is known;
2 wrong usage.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// The request id that CloudTrail shows
    #[arg(long, value_name = "ID")]
    kms_request_id: Option<String>,
    /// path_prefix of a key store
    #[arg(long, value_name = "PREFIX")]
    key_store: Option<String>,
    /// External key id
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Part of the principal's ARN
    #[arg(long, value_name = "TEXT")]
    principal: Option<String>,
    /// Kind of record: request, denied, unauthenticated, block, unblock, reload, start, stop, …
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// success, or an errorName
    #[arg(long, value_name = "NAME")]
    outcome: Option<String>,
    /// Not before this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<OffsetDateTime>,
    /// Before this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<OffsetDateTime>,
    /// Compare with this CloudTrail export (JSON), over its time: what one has and the other has
    /// not
    #[arg(long, value_name = "FILE", conflicts_with_all = CONDITIONS)]
    cloudtrail: Option<PathBuf>,
    /// ARN of a KMS key in this key store: its uses must be in the trail, even if the trail has no
    /// record of that key; may be given several times
    #[arg(long, value_name = "ARN", requires = "cloudtrail", value_parser = key_arn)]
    kms_key_arn: Vec<String>,
    /// Print the comparison as JSON; records are JSON always
    #[arg(long)]
    json: bool,
}

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "a time is meant as in 2026-11-28T10:00:00Z".to_owned())
}

fn key_arn(text: &str) -> Result<String, String> {
    let is_one = text.starts_with("arn:") && text.contains(":kms:") && text.contains(":key/");
    let wrong = || "a key's ARN is meant, as in arn:aws:kms:REGION:ACCOUNT:key/ID".to_owned();
    is_one.then(|| text.to_owned()).ok_or_else(wrong)
}

impl Args {
    fn query(&self) -> Query {
        Query {
            kms_request_id: self.kms_request_id.clone(),
            key_store: self.key_store.clone(),
            key: self.key.clone(),
            principal: self.principal.clone(),
            kind: self.kind.clone(),
            outcome: self.outcome.clone(),
            from: self.from,
            until: self.until,
        }
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let opened = args.source.open()?;
    let query = args.query();
    let mut comparison = match &args.cloudtrail {
        Some(file) => Some(read_export(file, &args.kms_key_arn)?),
        None => None,
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut found = 0u64;
    let mut written = Ok(());
    let read = read_all(&opened.layout, |_, line| {
        let Some(record) = parse(line).filter(|record| query.fits(record)) else {
            return ControlFlow::Continue(());
        };
        found += 1;
        match &mut comparison {
            Some(comparison) => comparison.look(&record),
            None => written = out.write_all(line).and_then(|()| out.write_all(b"\n")),
        }
        if written.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    written
        .and_then(|()| out.flush())
        .map_err(|error| Failure::Failed(format!("cannot write to standard output: {error}")))?;
    drop(out);
    // The last line may be under way just now: what was found before it is right.
    if let Err(broken) = read
        && !matches!(broken, crate::audit::reader::Broken::Unfinished { .. })
    {
        return Err(Failure::Failed(broken.to_string()));
    }
    let files = opened.layout.record_files().map_err(|e| Failure::Failed(e.to_string()))?;
    if let Some(first @ 1..) = files.first().map(|file| file.first) {
        super::super::tell(&format!("the first {first} records are not there any more"));
    }
    match comparison {
        Some(comparison) => tell(&comparison, args.json),
        None if found == 0 => Err(Failure::Failed("no record fits".to_owned())),
        None => Ok(()),
    }
}

fn read_export(file: &PathBuf, keys: &[String]) -> Result<Comparison, Failure> {
    let wrong = |why: String| Failure::Usage(format!("{}: {why}", file.display()));
    let text = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    Comparison::read(&text, keys)
        .map_err(|error| wrong(format!("this is no CloudTrail export: {error}")))
}

fn tell(comparison: &Comparison, as_json: bool) -> Result<(), Failure> {
    let (both, here, there) =
        (comparison.in_both.len(), &comparison.only_here, comparison.only_there());
    let unknown = comparison.of_unknown_keys();
    if as_json {
        let value = json!({"in_both": both, "only_in_trail": here, "only_in_cloudtrail": there,
            "of_unknown_keys": unknown});
        print(&format!("{value}\n"))?;
    } else {
        let mut text = format!("{} in both.\n", are(both, "request"));
        for line in here {
            text.push_str(&format!("only in this trail: {line}\n"));
        }
        for line in &there {
            text.push_str(&format!("only in CloudTrail: {line}\n"));
        }
        print(&text)?;
    }
    if unknown > 0 {
        let are = are(unknown, "event");
        super::super::tell(&format!(
            "{are} not compared: this trail does not know the KMS key. Name the keys of this key \
             store with --kms-key-arn"
        ));
    }
    if !comparison.knows_a_key() {
        return Err(Failure::Failed(
            "no record has a KMS key, and none is named with --kms-key-arn: uses of keys that are \
             missing in this trail cannot be found"
                .to_owned(),
        ));
    }
    if here.is_empty() && there.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "{} only in this trail, {} only in CloudTrail. CloudTrail delivers events some minutes \
         late; look again before you draw conclusions",
        are(here.len(), "request"),
        there.len()
    )))
}

/// As `1 request is` and `2 requests are`.
fn are(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what} is") } else { format!("{count} {what}s are") }
}
