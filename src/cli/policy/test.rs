//! `xksd policy test`

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use toml::Table;

use super::explain::decision;
use super::request::Described;
use super::{Common, Opened};
use crate::cli::{Failure, print};
use crate::file;
use crate::limits::POLICY_FILE_BYTES_MAX;

/// Test the policies against a file of requests and the decisions that are expected
#[derive(Debug, clap::Args)]
#[command(after_help = "\
CASES is a TOML file. A case has the fields of a line of the log, and what is expected: `expect`,
and where you care which policies decide, their ids in `policy`.

  [defaults]                    # for all cases, each of which can say otherwise
  operation = \"decrypt\"
  key = \"foo\"

  [[case]]
  name = \"S3 may decrypt\"
  principal = \"arn:aws:iam::111122223333:role/app\"
  kmsViaService = \"s3.eu-west-1.amazonaws.com\"
  expect = \"allow\"
  policy = \"services\"

Exit codes: 0 every case is decided as expected; 1 one is not; 2 wrong configuration or usage.

Example:
  xksd policy test cases.toml --config xksd.toml")]
pub struct Args {
    /// File of cases (TOML)
    #[arg(value_name = "CASES")]
    cases: PathBuf,
    #[command(flatten)]
    common: Common,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    defaults: Table,
    #[serde(default)]
    case: Vec<Table>,
}

struct Case {
    name: String,
    /// Whether it is expected to be permitted.
    expect: bool,
    /// Which policies are expected to decide, with commas between them.
    policy: Option<String>,
    request: Described,
}

/// What became of a case.
struct Tested<'a> {
    case: &'a Case,
    passed: bool,
    /// `deny: a policy forbids it (accounts)`
    found: String,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let opened = Opened::load(&args.common.config)?;
    let wrong = |why: String| Failure::Usage(format!("{}: {why}", args.cases.display()));
    let cases = read(&args.cases).map_err(wrong)?;
    let tested: Vec<Tested<'_>> =
        cases.iter().map(|case| test(&opened, case)).collect::<Result<_, _>>()?;
    let failed = tested.iter().filter(|tested| !tested.passed).count();
    print(&match args.common.json {
        true => format!("{}\n", as_json(&tested)),
        false => as_text(&tested, failed),
    })?;
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Failed(format!("{failed} of {} cases failed", tested.len()))),
    }
}

fn read(path: &Path) -> Result<Vec<Case>, String> {
    let content = file::read(path, POLICY_FILE_BYTES_MAX).map_err(|refused| refused.to_string())?;
    let text = std::str::from_utf8(&content.bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
    let File { defaults, case: cases } = toml::from_str(text).map_err(|error| error.to_string())?;
    if cases.is_empty() {
        return Err("there is no [[case]]".to_owned());
    }
    let read = cases.into_iter().enumerate().map(|(place, fields)| {
        let name = fields.get("name").and_then(toml::Value::as_str).map(str::to_owned);
        let name = name.unwrap_or_else(|| format!("case {}", place + 1));
        case(&name, &defaults, fields).map_err(|why| format!("{name}: {why}"))
    });
    read.collect()
}

fn case(name: &str, defaults: &Table, own: Table) -> Result<Case, String> {
    let mut fields = defaults.clone();
    fields.extend(own);
    fields.remove("name");
    let mut take = |key: &str| match fields.remove(key) {
        None => Ok(None),
        Some(toml::Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{key}: a string is expected")),
    };
    let expect = match take("expect")?.as_deref() {
        Some("allow") => true,
        Some("deny") => false,
        _ => return Err("expect: \"allow\" or \"deny\" is expected".to_owned()),
    };
    let policy = take("policy")?;
    if let Some(time @ toml::Value::Datetime(_)) = fields.get_mut("time") {
        *time = toml::Value::String(time.to_string());
    }
    let request = toml::Value::Table(fields).try_into::<Described>();
    let request = request.map_err(|error| error.message().to_owned())?;
    Ok(Case { name: name.to_owned(), expect, policy, request })
}

fn test<'a>(opened: &Opened, case: &'a Case) -> Result<Tested<'a>, Failure> {
    let of = opened.find(case.request.key_store.as_deref())?;
    let regions = &opened.config.server.regions;
    let question = case
        .request
        .question(&of, regions)
        .map_err(|why| Failure::Usage(format!("{}: {why}", case.name)))?;
    let verdict = of.policies.decide(&question);
    let decides = case.policy.as_ref().is_none_or(|expected| **expected == *verdict.policies);
    let passed = verdict.permits() == case.expect && decides;
    let mut found = format!("{}: {}", decision(verdict.permits()), verdict.why());
    if !verdict.policies.is_empty() {
        let _ = write!(found, " ({})", verdict.policies);
    }
    Ok(Tested { case, passed, found })
}

impl Tested<'_> {
    fn expected(&self) -> String {
        let policy = self.case.policy.as_ref().map(|policy| format!(" by {policy}"));
        format!("{}{}", decision(self.case.expect), policy.unwrap_or_default())
    }
}

fn as_text(tested: &[Tested<'_>], failed: usize) -> String {
    let mut text = String::new();
    for one in tested {
        let Tested { case: Case { name, .. }, found, .. } = one;
        let _ = match one.passed {
            true => writeln!(text, "ok      {name}"),
            false => writeln!(text, "FAILED  {name}: expected {}, found {found}", one.expected()),
        };
    }
    let _ = writeln!(text, "{} cases, {failed} failed", tested.len());
    text
}

fn as_json(tested: &[Tested<'_>]) -> Value {
    let cases = tested.iter().map(|one| {
        json!({
            "name": one.case.name,
            "passed": one.passed,
            "expected": one.expected(),
            "found": one.found,
        })
    });
    let passed = tested.iter().all(|one| one.passed);
    json!({"passed": passed, "cases": cases.collect::<Vec<_>>()})
}
