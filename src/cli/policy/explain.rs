//! `xksd policy explain`

use std::fmt::Write;

use serde_json::{Value, json};

use super::request::Described;
use super::{Common, Opened};
use crate::cli::{Failure, print};
use crate::policy::cedar::{Considered, Explanation, Outcome};

/// Tell how a request would be decided, and what each policy says to it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 it was explained, whatever the decision; 2 wrong configuration or usage.

Example:
  xksd policy explain --config xksd.toml --operation decrypt --key foo \\
      --principal arn:aws:iam::111122223333:role/app \\
      --kms-via-service s3.eu-west-1.amazonaws.com")]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    request: Described,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let opened = Opened::load(&args.common.config)?;
    let of = opened.find(args.request.key_store.as_deref())?;
    let regions = &opened.config.server.regions;
    let question = args.request.question(&of, regions).map_err(Failure::Usage)?;
    let explanation = of.policies.explain(&question);
    let text = match args.common.json {
        true => format!("{}\n", as_json(&explanation)),
        false => as_text(&explanation),
    };
    print(&text)
}

/// `allow` or `deny`, as Cedar says.
pub(super) fn decision(permits: bool) -> &'static str {
    if permits { "allow" } else { "deny" }
}

fn as_text(explanation: &Explanation) -> String {
    let verdict = &explanation.verdict;
    let mut text = format!("{}: {}", decision(verdict.permits()), verdict.why());
    if !verdict.policies.is_empty() {
        let _ = write!(text, " ({})", verdict.policies);
    }
    text.push('\n');
    for one in &explanation.considered {
        let _ = writeln!(text, "  {} {}: {}", effect(one), one.id, outcome(&one.outcome));
    }
    text
}

fn effect(one: &Considered) -> &'static str {
    if one.forbids { "forbid" } else { "permit" }
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Matches => "matches".to_owned(),
        Outcome::DoesNotMatch => "does not match".to_owned(),
        Outcome::Elsewhere => "is for other keys or operations".to_owned(),
        Outcome::Fails(why) => format!("fails: {why}"),
    }
}

fn as_json(explanation: &Explanation) -> Value {
    let verdict = &explanation.verdict;
    let considered = explanation.considered.iter().map(|one| {
        let (name, why) = match &one.outcome {
            Outcome::Matches => ("matches", None),
            Outcome::DoesNotMatch => ("does-not-match", None),
            Outcome::Elsewhere => ("elsewhere", None),
            Outcome::Fails(why) => ("fails", Some(why)),
        };
        json!({"id": one.id, "effect": effect(one), "outcome": name, "error": why})
    });
    json!({
        "decision": decision(verdict.permits()),
        "reason": verdict.why(),
        "policies": verdict.ids().collect::<Vec<_>>(),
        "considered": considered.collect::<Vec<_>>(),
    })
}
