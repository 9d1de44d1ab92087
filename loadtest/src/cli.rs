//! The command line.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::capacity::{self, Search};
use crate::compare;
use crate::limits::{
    AAD_BYTES_MAX, CONNECTIONS_MAX, DEPTH_MAX, IDLE_CONNECTIONS_MAX, PLAINTEXT_BYTES_MAX, RATE_MAX, RUN_TIME_MAX, STEPS_MAX, WORKERS_MAX,
};
use crate::live::Live;
use crate::report::{Report, html, text};
use crate::run::Run;
use crate::schedule::{Arrivals, Plan};
use crate::sla::{Promise, Sla, Verdict};
use crate::target::{Target, TargetArgs};
use crate::tls::Versions;
use crate::units::{self, Sizes};
use crate::worker::{Failure, Transport};
use crate::workload::{Mix, Shape};

/// Load any XKS proxy the way AWS KMS does, check every answer, and judge its latency
#[derive(Parser, Debug)]
#[command(
    name = "xksd-load",
    version,
    after_help = "\
Exit codes: 0 every bound that was given held, 1 something did not (a bound, a wrong answer, no right answer at all), 2 could not be judged
(usage, connection, credentials). Without --sla and --max-errors no bound is given to `run`: errors are told, and the exit code is 0."
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

/// Offer a load for a time and judge what came of it
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  xksd-load run --config demo/xksd.toml --rate 1800 --duration 60s --sla p99.9=250ms
  xksd-load run --config demo/xksd.toml --steps 1000,2000,4000,8000 --html steps.html
  xksd-load run --config demo/xksd.toml --ramp 100..20000 --duration 60s
  xksd-load run --config demo/xksd.toml --closed --duration 10s
  xksd-load run --target xks.example.com --keystore /prefix:ACCESSKEYID:secret.txt --key my-key --rate 100 --i-own-the-target")]
struct RunArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Constant rate, requests a second [default: 1800, what AWS allows a key store]
    #[arg(long, value_name = "R", group = "load", help_heading = "Load")]
    rate: Option<f64>,
    /// Rates, one after the other
    #[arg(long, value_name = "R,R,…", group = "load", value_delimiter = ',', help_heading = "Load")]
    steps: Vec<f64>,
    /// How long each of the steps takes
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration, help_heading = "Load")]
    step_time: Duration,
    /// A rate that changes evenly over the duration
    #[arg(long, value_name = "FROM..TO", group = "load", help_heading = "Load")]
    ramp: Option<String>,
    /// As fast as it is answered: shows the highest throughput, hides waiting; judge no latency by it
    #[arg(long, group = "load", help_heading = "Load")]
    closed: bool,
    /// Measured time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration, help_heading = "Load")]
    duration: Duration,
    #[command(flatten)]
    common: CommonArgs,
}

/// Find the highest rate that holds the bounds, and what keeps it from more
#[derive(Args, Debug)]
#[command(after_help = "\
A rate holds when 98 % of what is due is answered right while the trial lasts, without an error, and within every --sla;
without --sla, within p99.9=250ms, since KMS gives up a request after 250 ms.

Example:
  xksd-load capacity --config demo/xksd.toml --sla p99.9=35ms --html capacity.html")]
struct CapacityArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// First rate to try, requests a second; it is doubled from there
    #[arg(long, value_name = "R", default_value_t = 500.0, help_heading = "Search")]
    from: f64,
    /// Try no rate above this
    #[arg(long, value_name = "R", default_value_t = 200_000.0, help_heading = "Search")]
    to: f64,
    /// How exactly, as a share of the rate
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, help_heading = "Search")]
    precision: f64,
    /// Measured time of each trial
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::duration, help_heading = "Search")]
    trial: Duration,
    /// Measured time of the last trial, at the rate that is told
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = units::duration, help_heading = "Search")]
    confirm: Duration,
    #[command(flatten)]
    common: CommonArgs,
}

/// Put two reports side by side
#[derive(Args, Debug)]
struct CompareArgs {
    /// A report (--json)
    a: PathBuf,
    /// Another
    b: PathBuf,
    /// Write a page with pictures
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What a run and a search have in common.
#[derive(Args, Debug)]
struct CommonArgs {
    /// Time before it is measured
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = units::duration, help_heading = "Load")]
    warmup: Duration,
    /// How requests follow each other
    #[arg(long, value_enum, default_value = "poisson", help_heading = "Load")]
    arrivals: Arrivals,
    /// Shares of the calls
    #[arg(long, value_name = "MIX", default_value = "encrypt=50,decrypt=50", value_parser = Mix::parse, help_heading = "Requests")]
    mix: Mix,
    /// Plaintexts, bytes, or a range; KMS data keys have 32
    #[arg(long, value_name = "N|N..M", default_value = "32", value_parser = |text: &str| units::sizes(text, PLAINTEXT_BYTES_MAX), help_heading = "Requests")]
    plaintext_bytes: Sizes,
    /// Additional authenticated data (the encryption context), bytes, or a range
    #[arg(long, value_name = "N|N..M", default_value = "64", value_parser = |text: &str| units::sizes(text, AAD_BYTES_MAX), help_heading = "Requests")]
    aad_bytes: Sizes,
    /// Share of encrypts that ask for a ciphertext data integrity value
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, help_heading = "Requests")]
    cdiv: f64,
    /// Sign every request anew with an id of its own, in place of once a second; costs this tool CPU
    #[arg(long, help_heading = "Requests")]
    fresh: bool,
    /// Count any answer with status 200 as right and leave out the requests before and after the run, so that a server with a static
    /// body can be measured. Says nothing of an XKS proxy
    #[arg(long, help_heading = "Requests")]
    unverified: bool,
    /// Connections, over all workers
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Connections")]
    connections: usize,
    /// Requests in flight on one connection
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Connections")]
    depth: usize,
    /// A request without an answer for this long is an error; KMS gives up after 250ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::duration, help_heading = "Connections")]
    timeout: Duration,
    /// TLS versions to offer
    #[arg(long, value_enum, default_value = "any", help_heading = "Connections")]
    tls: Versions,
    /// Close and reopen this many connections a second, with full handshakes
    #[arg(long, value_name = "R", default_value_t = 0.0, help_heading = "Connections")]
    reconnect_rate: f64,
    /// Close and reopen a connection after this many requests; 1: a handshake for each request
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Connections")]
    requests_per_connection: Option<u64>,
    /// Further connections, opened before the load, that do nothing until its end. Not with `capacity`
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Connections")]
    idle: usize,
    /// Resume TLS sessions when reconnecting
    #[arg(long, help_heading = "Connections")]
    resume: bool,
    /// Threads of this tool
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "This tool")]
    workers: usize,
    /// Cores to pin them to
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', help_heading = "This tool")]
    cores: Vec<usize>,
    /// What must hold: p99.9=250ms, p50=5ms, max=1s; may be given several times
    #[arg(long, value_name = "P=TIME", value_parser = Sla::parse, help_heading = "Verdict")]
    sla: Vec<Sla>,
    /// Errors that are accepted [default: 0 where there is a --sla; with neither, `run` tells errors, does not judge them, and exits with 0]
    #[arg(long, value_name = "N", help_heading = "Verdict")]
    max_errors: Option<u64>,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE", help_heading = "Verdict")]
    json: Option<PathBuf>,
    /// Write a page with pictures
    #[arg(long, value_name = "FILE", help_heading = "Verdict")]
    html: Option<PathBuf>,
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
    let report = run.execute(&mut Live::new())?;
    tell(&text::summary(&report));
    args.common.save(&report)?;
    // Without a bound there is nothing to have failed, however much is told.
    Ok(report.verdict() != Verdict::NotHeld)
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
    capacity::check(&search).map_err(Failure::Setup)?;
    if args.common.idle > 0 {
        return Err(Failure::Setup(NO_IDLE_IN_A_SEARCH.into()));
    }
    let longest = args.trial.max(args.confirm);
    let plan = Plan::steps(&[args.from], longest, args.common.warmup, args.common.arrivals);
    bounded(&plan).map_err(Failure::Setup)?;
    let mut run = args.common.run(&args.target, plan, String::new()).map_err(Failure::Setup)?;
    if run.promise.slas.is_empty() {
        // A capacity without a bound would be one that nobody can wait for: KMS gives up after 250 ms.
        run.promise = Promise::new(vec![Sla::parse("p99.9=250ms").map_err(Failure::Setup)?], args.common.max_errors);
    }
    args.common.try_files().map_err(Failure::Setup)?;
    let report = capacity::find(&run, &search, args.common.arrivals, &mut Live::new())?;
    let found = report.capacity.as_ref();
    tell(&format!("{}\n{}", text::summary(&report), found.map(capacity::text).unwrap_or_default()));
    args.common.save(&report)?;
    Ok(found.is_some_and(|c| c.rate.is_some()))
}

/// Opened anew for each trial they would be a storm of handshakes before it, and use up this machine's ports; kept over all trials they would outlive
/// what proxies bear of idle connections.
const NO_IDLE_IN_A_SEARCH: &str = "--idle goes with `run` alone, not with `capacity`, whose many trials outlast idle connections: find the rate first, then try it with `run --rate R --idle N`";

fn side_by_side(args: &CompareArgs) -> Result<bool, String> {
    let (a, b) = (Report::load(&args.a)?, Report::load(&args.b)?);
    let names = [args.a.display().to_string(), args.b.display().to_string()];
    let names = [names[0].as_str(), names[1].as_str()];
    tell(&compare::text(names, &a, &b));
    if let Some(path) = &args.html {
        fs::write(path, compare::page(names, &a, &b)).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(true)
}

fn tell(text: &str) {
    // Whoever closed standard output does not want to read it.
    let _ = io::stdout().write_all(text.as_bytes());
}

fn plan(args: &RunArgs) -> Result<(Plan, String), String> {
    let (warmup, arrivals) = (args.common.warmup, args.common.arrivals);
    let seconds = |time: Duration| time.as_secs_f64();
    let rate = |option: &str, rate: f64| {
        let wrong = || format!("{option} {rate}: a rate is from 1 to {} requests a second", units::figure(RATE_MAX));
        if (1.0..=RATE_MAX).contains(&rate) { Ok(rate) } else { Err(wrong()) }
    };
    let (plan, load) = if args.closed {
        (Plan::closed(args.duration, warmup), format!("closed loop for {} s", seconds(args.duration)))
    } else if !args.steps.is_empty() {
        if args.steps.len() > STEPS_MAX {
            return Err(format!("--steps: at most {STEPS_MAX}"));
        }
        let rates = args.steps.iter().map(|r| rate("--steps", *r)).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = rates.iter().map(|r| units::figure(*r)).collect();
        let load = format!("{} requests/s for {} s each", names.join(" – "), seconds(args.step_time));
        (Plan::steps(&rates, args.step_time, warmup, arrivals), load)
    } else if let Some(ramp) = &args.ramp {
        let wrong = || format!("--ramp {ramp:?}: two rates, as in 100..5000");
        let (from, to) = ramp.split_once("..").ok_or_else(wrong)?;
        let from = rate("--ramp", from.parse().map_err(|_| wrong())?)?;
        let to = rate("--ramp", to.parse().map_err(|_| wrong())?)?;
        let load = format!("{} to {} requests/s over {} s", units::figure(from), units::figure(to), seconds(args.duration));
        (Plan::ramp(from, to, args.duration, warmup, arrivals), load)
    } else {
        let rate = rate("--rate", args.rate.unwrap_or(1800.0))?;
        let load = format!("{} requests/s for {} s", units::figure(rate), seconds(args.duration));
        (Plan::steps(&[rate], args.duration, warmup, arrivals), load)
    };
    bounded(&plan)?;
    Ok((plan, load))
}

fn bounded(plan: &Plan) -> Result<(), String> {
    if plan.length() > RUN_TIME_MAX || !plan.phases.iter().any(|phase| phase.measured) {
        return Err(format!("a run takes more than nothing and at most {} s, warm-up included", RUN_TIME_MAX.as_secs()));
    }
    Ok(())
}

impl CommonArgs {
    fn run(&self, target: &TargetArgs, plan: Plan, load: String) -> Result<Run, String> {
        let within = |name: &str, value: usize, max: usize| {
            if (1..=max).contains(&value) { Ok(()) } else { Err(format!("--{name} {value}: 1 to {max}")) }
        };
        within("connections", self.connections, CONNECTIONS_MAX)?;
        within("depth", self.depth, DEPTH_MAX)?;
        within("workers", self.workers, WORKERS_MAX)?;
        if self.workers > self.connections {
            return Err("--workers: each needs a connection at least".into());
        }
        if self.idle > IDLE_CONNECTIONS_MAX {
            return Err(format!("--idle {}: at most {IDLE_CONNECTIONS_MAX}", self.idle));
        }
        if !(0.0..=1.0).contains(&self.cdiv) {
            return Err(format!("--cdiv {}: 0 to 1", self.cdiv));
        }
        if !(0.0..=100_000.0).contains(&self.reconnect_rate) {
            return Err(format!("--reconnect-rate {}: 0 to 100000", self.reconnect_rate));
        }
        if self.timeout.is_zero() || self.timeout > Duration::from_secs(60) {
            return Err("--timeout: up to 60s".into());
        }
        Ok(Run {
            target: Arc::new(Target::resolve(target)?),
            shape: Shape {
                mix: self.mix,
                plaintext: self.plaintext_bytes,
                aad: self.aad_bytes,
                cdiv: self.cdiv,
                fresh: self.fresh,
                verify: !self.unverified,
            },
            plan: Arc::new(plan),
            transport: Transport {
                connections: self.connections,
                depth: self.depth,
                timeout: self.timeout,
                tls: self.tls,
                reconnect_rate: self.reconnect_rate,
                requests_per_connection: self.requests_per_connection,
                resume: self.resume,
            },
            idle: self.idle,
            workers: self.workers,
            cores: self.cores.clone(),
            promise: Promise::new(self.sla.clone(), self.max_errors),
            load,
        })
    }

    /// Whether the reports can be written: nobody wants to hear of it at the end of a long run. What is in the files stays until then.
    fn try_files(&self) -> Result<(), String> {
        for (option, path) in [("--json", &self.json), ("--html", &self.html)] {
            if let Some(path) = path {
                try_file(path).map_err(|e| match (e.kind(), path.parent()) {
                    (io::ErrorKind::NotFound, Some(dir)) => format!("{option} {}: there is no directory {}", path.display(), dir.display()),
                    _ => format!("{option} {}: cannot be written: {e}", path.display()),
                })?;
            }
        }
        Ok(())
    }

    fn save(&self, report: &Report) -> Result<(), Failure> {
        if let Some(path) = &self.json {
            report.save(path).map_err(Failure::Setup)?;
        }
        if let Some(path) = &self.html {
            fs::write(path, html::page(report)).map_err(|e| Failure::Setup(format!("{}: {e}", path.display())))?;
        }
        Ok(())
    }
}

fn try_file(path: &Path) -> io::Result<()> {
    match path.metadata() {
        // Opening another kind of file (a FIFO, a terminal) may wait for its reader, or tell it that this was all.
        Ok(file) if file.is_file() || file.is_dir() => File::options().write(true).open(path).map(drop),
        Ok(_) => Ok(()),
        // What is not there is made and taken away again: a run that cannot start leaves nothing behind.
        Err(e) if e.kind() == io::ErrorKind::NotFound => match File::create_new(path) {
            // A link to a file that is yet to be made.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.and_then(|_| fs::remove_file(path)),
        },
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_tried_and_left_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("new"), dir.path().join("old"));
        fs::write(&old, "before").unwrap();
        assert!(try_file(&new).is_ok() && !new.exists());
        assert!(try_file(&old).is_ok() && fs::read_to_string(&old).unwrap() == "before");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&new, &link).unwrap();
        assert!(try_file(&link).is_ok() && link.is_symlink() && !new.exists());
        assert!(try_file(Path::new("/dev/null")).is_ok());
        assert_eq!(try_file(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(try_file(&new.join("r.json")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(try_file(&old.join("r.json")).unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }

    fn run_plan(args: &[&str]) -> Result<(Plan, String), String> {
        let all = ["xksd-load", "run", "--config", "x.toml"].iter().chain(args);
        match Cli::try_parse_from(all).map_err(|e| e.to_string())?.command {
            Command::Run(args) => plan(&args),
            _ => Err("not a run".into()),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn loads_are_read() {
        assert_eq!(run_plan(&[]).unwrap().1, "1,800 requests/s for 30 s");
        assert_eq!(run_plan(&["--steps", "100,200", "--step-time", "5s"]).unwrap().0.phases.len(), 3);
        assert_eq!(run_plan(&["--ramp", "100..5000", "--warmup", "0s"]).unwrap().0.phases[0].from, 100.0);
        assert!(run_plan(&["--closed"]).unwrap().0.closed);
    }

    #[test]
    fn loads_are_bounded() {
        assert!(run_plan(&["--duration", "3598s", "--warmup", "2s"]).is_ok());
        for wrong in [
            &["--duration", "3599s", "--warmup", "2s"][..],
            &["--duration", "0s"],
            &["--rate", "0"],
            &["--rate", "NaN"],
            &["--rate", "1e9"],
            &["--ramp", "5"],
            &["--ramp", "0..5"],
            &["--rate", "5", "--closed"],
            &["--steps", "1,x"],
        ] {
            assert!(run_plan(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(run_plan(&["--rate", "0"]).unwrap_err(), "--rate 0: a rate is from 1 to 10,000,000 requests a second");
        assert!(run_plan(&["--rate", "1"]).is_ok() && run_plan(&["--rate", "10000000"]).is_ok());
        assert!(run_plan(&["--rate", "0.99"]).is_err() && run_plan(&["--rate", "10000001"]).is_err());
    }
}
