//! From what was said to what is run: the load as a plan, and every bound of an option.

use std::sync::Arc;
use std::time::Duration;

use super::args::{CommonArgs, RunArgs};
use crate::criteria::Criteria;
use crate::generator::descriptors;
use crate::generator::transport::Transport;
use crate::limits::{
    CONNECTIONS_MAX, DEPTH_MAX, IDLE_CONNECTIONS_MAX, NOTES_MAX, RATE_MAX, RUN_TIME_MAX, STEPS_MAX,
    WORKERS_MAX,
};
use crate::report::subject::{self, Description};
use crate::run::settings::Run;
use crate::target::{Target, TargetArgs};
use crate::units;
use crate::workload::Shape;
use crate::workload::schedule::Plan;

/// The load, and what it is called in the report.
pub(super) fn plan(args: &RunArgs) -> Result<(Plan, String), String> {
    let (warmup, arrivals) = (args.common.warmup, args.common.arrivals);
    let seconds = |time: Duration| time.as_secs_f64();
    let rate = |option: &str, rate: f64| {
        let wrong = || {
            format!(
                "{option} {rate}: a rate is from 1 to {} requests a second",
                units::figure(RATE_MAX)
            )
        };
        if (1.0..=RATE_MAX).contains(&rate) { Ok(rate) } else { Err(wrong()) }
    };
    let (plan, load) = if args.closed {
        (
            Plan::closed(args.duration, warmup),
            format!("closed loop for {} s", seconds(args.duration)),
        )
    } else if !args.steps.is_empty() {
        if args.steps.len() > STEPS_MAX {
            return Err(format!("--steps: at most {STEPS_MAX}"));
        }
        let rates =
            args.steps.iter().map(|r| rate("--steps", *r)).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = rates.iter().map(|r| units::figure(*r)).collect();
        let load =
            format!("{} requests/s for {} s each", names.join(" – "), seconds(args.step_time));
        (Plan::steps(&rates, args.step_time, warmup, arrivals), load)
    } else if let Some(ramp) = &args.ramp {
        let wrong = || format!("--ramp {ramp:?}: two rates, as in 100..5000");
        let (from, to) = ramp.split_once("..").ok_or_else(wrong)?;
        let from = rate("--ramp", from.parse().map_err(|_| wrong())?)?;
        let to = rate("--ramp", to.parse().map_err(|_| wrong())?)?;
        let load = format!(
            "{} to {} requests/s over {} s",
            units::figure(from),
            units::figure(to),
            seconds(args.duration)
        );
        (Plan::ramp(from, to, args.duration, warmup, arrivals), load)
    } else {
        let rate = rate("--rate", args.rate.unwrap_or(1800.0))?;
        let load = format!("{} requests/s for {} s", units::figure(rate), seconds(args.duration));
        (Plan::steps(&[rate], args.duration, warmup, arrivals), load)
    };
    bounded(&plan)?;
    Ok((plan, load))
}

pub(super) fn bounded(plan: &Plan) -> Result<(), String> {
    if plan.length() > RUN_TIME_MAX || !plan.phases.iter().any(|phase| phase.measured) {
        return Err(format!(
            "a run takes more than nothing and at most {} s, warm-up included",
            RUN_TIME_MAX.as_secs()
        ));
    }
    Ok(())
}

impl CommonArgs {
    /// All of a run with this plan.
    pub(super) fn run(&self, target: &TargetArgs, plan: Plan, load: String) -> Result<Run, String> {
        let within = |name: &str, value: usize, max: usize| {
            if (1..=max).contains(&value) {
                Ok(())
            } else {
                Err(format!("--{name} {value}: 1 to {max}"))
            }
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
        descriptors::reserve(self.connections, self.idle, self.workers)?;
        Ok(Run {
            target: Arc::new(Target::resolve(target)?),
            shape: Shape {
                mix: self.mix,
                plaintext: self.plaintext_bytes,
                aad: self.aad_bytes,
                cdiv: self.cdiv,
                fresh: self.fresh || self.principals > 1,
                principals: self.principals,
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
            criteria: Criteria::new(self.sla.clone(), self.max_errors),
            load,
            described: self.described()?,
            command: command(),
        })
    }
}

/// This command, without the way to the program.
fn command() -> String {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default().to_owned();
    subject::command(std::iter::once(name).chain(words))
}

impl CommonArgs {
    fn described(&self) -> Result<Description, String> {
        if self.note.len() > NOTES_MAX {
            return Err(format!("--note: at most {NOTES_MAX} times"));
        }
        Ok(Description {
            proxy: self.proxy.clone(),
            hsm: self.hsm.clone(),
            tested_by: self.tested_by.clone(),
            notes: self.note.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

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
        assert_eq!(
            run_plan(&["--steps", "100,200", "--step-time", "5s"]).unwrap().0.phases.len(),
            3
        );
        assert_eq!(
            run_plan(&["--ramp", "100..5000", "--warmup", "0s"]).unwrap().0.phases[0].from,
            100.0
        );
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
        assert_eq!(
            run_plan(&["--rate", "0"]).unwrap_err(),
            "--rate 0: a rate is from 1 to 10,000,000 requests a second"
        );
        assert!(run_plan(&["--rate", "1"]).is_ok() && run_plan(&["--rate", "10000000"]).is_ok());
        assert!(
            run_plan(&["--rate", "0.99"]).is_err() && run_plan(&["--rate", "10000001"]).is_err()
        );
    }
}
