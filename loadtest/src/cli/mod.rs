//! The command line.

mod args;
mod files;
mod settings;

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::args::{CapacityArgs, CompareArgs, RunArgs};
use self::settings::{bounded, plan};
use crate::criteria::{Criteria, Sla, TestResult};
use crate::generator::transport::Failure;
use crate::generator::uring;
use crate::present::compare;
use crate::present::progress::Progress;
use crate::present::text;
use crate::report::Report;
use crate::run::execute::execute;
use crate::run::search::{self, Search};
use crate::workload::schedule::Plan;

/// Load any XKS proxy the way AWS KMS does, check every answer, and judge its latency
#[derive(Parser, Debug)]
#[command(
    name = "xksd-load",
    version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILT_FROM"), ")"),
    after_help = "\
Exit codes: 0 every bound that was given held, 1 something did not (a bound, a wrong answer, no \
right answer at all), 2 could not be judged
(usage, connection, credentials). Without --sla and --max-errors no bound is given to `run`: errors
are shown, and the exit code is 0."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(Box<RunArgs>),
    Capacity(Box<CapacityArgs>),
    Compare(CompareArgs),
}

/// Runs the command.
pub fn main(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Run(args) => run(&args),
        Command::Capacity(args) => search(&args),
        Command::Compare(args) => side_by_side(&args).map_err(Failure::Setup),
    };
    let complain = |text: &str| drop(writeln!(io::stderr(), "xksd-load: {text}"));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure::Wrong(what)) => {
            complain(&format!("wrong answer: {what}"));
            ExitCode::FAILURE
        }
        Err(Failure::Setup(why)) => {
            complain(&why);
            ExitCode::from(2)
        }
    }
}

fn run(args: &RunArgs) -> Result<bool, Failure> {
    let (plan, load) = plan(args).map_err(Failure::Setup)?;
    let run = args.common.run(&args.target, plan, load).map_err(Failure::Setup)?;
    args.common.try_files().map_err(Failure::Setup)?;
    uring::check().map_err(Failure::Setup)?;
    let report = execute(&run, &mut Progress::new())?;
    tell(&text::summary(&report));
    args.common.save(&report)?;
    // Without a bound nothing can fail, however much is reported.
    Ok(report.result() != TestResult::Fail)
}

fn search(args: &CapacityArgs) -> Result<bool, Failure> {
    let search = Search {
        from: args.from,
        to: args.to,
        precision: args.precision,
        trial: args.trial,
        confirm: args.confirm,
        warmup: args.common.warmup,
    };
    search.check().map_err(Failure::Setup)?;
    if args.common.idle > 0 {
        return Err(Failure::Setup(NO_IDLE_IN_A_SEARCH.into()));
    }
    let longest = args.trial.max(args.confirm);
    let plan = Plan::steps(&[args.from], longest, args.common.warmup, args.common.arrivals);
    bounded(&plan).map_err(Failure::Setup)?;
    let mut run = args.common.run(&args.target, plan, String::new()).map_err(Failure::Setup)?;
    if run.criteria.slas.is_empty() {
        // A capacity without a bound would be one that nobody can wait for: KMS gives up after 250
        // ms.
        run.criteria = Criteria::new(
            vec![Sla::parse("p99.9=250ms").map_err(Failure::Setup)?],
            args.common.max_errors,
        );
    }
    args.common.try_files().map_err(Failure::Setup)?;
    uring::check().map_err(Failure::Setup)?;
    let report = search::find(&run, &search, args.common.arrivals, &mut Progress::new())?;
    let found = report.capacity.as_ref();
    tell(&format!("{}\n{}", text::summary(&report), found.map(text::capacity).unwrap_or_default()));
    args.common.save(&report)?;
    Ok(found.is_some_and(|c| c.rate.is_some()))
}

/// Opened for each trial they would be a storm of handshakes before it, and use up this
/// machine's ports; kept over all trials proxies would close them for being idle.
const NO_IDLE_IN_A_SEARCH: &str = "--idle goes with `run` alone, not with `capacity`, whose many \
    trials outlast idle connections: find the rate first, then try it with `run --rate R --idle N`";

fn side_by_side(args: &CompareArgs) -> Result<bool, String> {
    let (a, b) = (Report::load(&args.a)?, Report::load(&args.b)?);
    let names = [args.a.display().to_string(), args.b.display().to_string()];
    let names = [names[0].as_str(), names[1].as_str()];
    tell(&compare::text(names, &a, &b));
    if let Some(path) = &args.html {
        fs::write(path, compare::page(names, &a, &b))
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(true)
}

fn tell(text: &str) {
    // Whoever closed standard output does not want to read it.
    let _ = io::stdout().write_all(text.as_bytes());
}
