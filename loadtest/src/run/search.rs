//! The highest rate at which every criterion holds, found by bisection.

use std::sync::Arc;
use std::time::Duration;

use super::execute::execute;
use super::settings::Run;
use crate::criteria::TestResult;
use crate::generator::transport::Failure;
use crate::limits::RATE_MAX;
use crate::observe::key_manager::KeyManager;
use crate::present::progress::Progress;
use crate::report::Report;
use crate::report::capacity::Capacity;
use crate::report::step::{self, Step};
use crate::units::{count, figure, latency};
use crate::workload::schedule::{Arrivals, Plan};

/// Rates that differ by less than this share are tried once.
const SAME_RATE: f64 = 0.01;

/// Where to look.
pub struct Search {
    /// First rate, requests a second.
    pub from: f64,
    /// No rate above this.
    pub to: f64,
    /// The result is at most this share below a rate that failed.
    pub precision: f64,
    /// Measured time of a trial.
    pub trial: Duration,
    /// Measured time of the last one, at the rate that is the result.
    pub confirm: Duration,
    /// Warm-up of each.
    pub warmup: Duration,
}

impl Search {
    /// Whether a rate can be searched for.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        if !(self.from >= 1.0 && self.from <= self.to && self.to <= RATE_MAX) {
            return Err(format!(
                "--from and --to: 1 to {RATE_MAX:.0} requests/s, the first not above the second"
            ));
        }
        if !(0.005..=0.5).contains(&self.precision) {
            return Err("--precision: 0.005 to 0.5".into());
        }
        Ok(())
    }
}

/// One rate, measured: its step, and the report that the step comes from.
pub struct Measured {
    /// At one rate.
    pub step: Step,
    /// All of it.
    pub report: Report,
}

/// Doubles the rate until it fails, then halves the interval; `try_rate` runs one trial for a time.
///
/// # Errors
/// Those of `try_rate`.
pub fn search<E>(
    search: &Search,
    mut try_rate: impl FnMut(f64, Duration) -> Result<Measured, E>,
) -> Result<(Capacity, Option<Report>), E> {
    let mut capacity = Capacity {
        rate: None,
        failed_at: None,
        bottleneck: None,
        sessions_needed: 0,
        sessions_full: false,
        trials: Vec::new(),
    };
    let mut last = None;
    let mut run = |rate: f64, time: Duration, capacity: &mut Capacity| -> Result<bool, E> {
        let trial = try_rate(rate, time)?;
        let passed = trial.step.passed;
        capacity.trials.push(trial.step);
        if passed {
            capacity.rate = Some(capacity.rate.map_or(rate, |best| best.max(rate)));
            let key_manager = trial.report.proxy.key_manager.as_ref();
            capacity.sessions_needed = key_manager.and_then(|k| k.sessions_needed).unwrap_or(0);
            capacity.sessions_full = key_manager.is_some_and(KeyManager::is_full);
            last = Some(trial.report);
        } else if last.is_none() {
            last = Some(trial.report);
        }
        Ok(passed)
    };
    let failed = |rate: f64, capacity: &mut Capacity| {
        capacity.failed_at = Some(rate);
        capacity.bottleneck =
            capacity.trials.last().map(|trial| step::bottleneck_of(trial, &capacity.trials));
    };
    let (mut low, mut high) = (0.0, None);
    let mut rate = search.from.min(search.to);
    loop {
        // One trial may fail for something else on the machine: a rate must fail twice.
        if run(rate, search.trial, &mut capacity)? || run(rate, search.trial, &mut capacity)? {
            low = rate;
        } else {
            high = Some(rate);
            failed(rate, &mut capacity);
        }
        rate = match high {
            None if rate >= search.to => break,
            None => (rate * 2.0).min(search.to),
            // Below this nobody would want to know it more exactly.
            Some(high) if high - low <= (search.precision * high).max(1.0) => break,
            Some(high) => (low + high) / 2.0,
        };
    }
    // A rate that passed for seconds must pass for longer, or it is no capacity.
    capacity.rate = None;
    while low >= 1.0 && !run(low, search.confirm, &mut capacity)? {
        failed(low, &mut capacity);
        // Of the rates below, one that has passed is the next, if it is not further away than one
        // that has not been tried.
        let passed = capacity
            .trials
            .iter()
            .filter(|step| step.passed && step.offered_rate < low)
            .map(|step| step.offered_rate);
        let below = low * (1.0 - search.precision);
        let passed = passed.fold(0.0, f64::max);
        // One that is nearly the same is the same: it has been seen to pass.
        low = if passed >= below * (1.0 - SAME_RATE) { passed } else { below };
    }
    Ok((capacity, last))
}

/// Searches with real runs.
///
/// # Errors
/// When a run could not begin.
pub fn find(
    base: &Run,
    limits: &Search,
    arrivals: Arrivals,
    progress: &mut Progress,
) -> Result<Report, Failure> {
    let found = search(limits, |rate, time| {
        let run = Run {
            plan: Arc::new(Plan::steps(&[rate], time, limits.warmup, arrivals)),
            load: format!("{} requests/s for {} s", figure(rate), time.as_secs_f64()),
            ..base.clone()
        };
        let report = execute(&run, progress)?;
        if report.wrong > 0 {
            return Err(Failure::Wrong(report.wrong_examples.join("; ")));
        }
        let mut step = report.steps.first().cloned().unwrap_or_default();
        // The load as it was meant, so that Poisson arrivals do not blur the table.
        step.offered_rate = rate;
        step.passed &= report.result() == TestResult::Pass;
        let word = if step.passed { "pass" } else { "FAIL" };
        progress.note(&format!(
            "{:>9}/s for {:>2.0} s: {word}  answered {}/s, p50 {}, p99.9 {}, errors {}",
            figure(rate),
            time.as_secs_f64(),
            figure(step.throughput),
            latency(step.p50),
            latency(step.p999),
            count(report.errors)
        ));
        Ok(Measured { step, report })
    })?;
    let (capacity, report) = found;
    let mut report = report.ok_or_else(|| Failure::Setup("no trial was run".into()))?;
    report.bottleneck = capacity.bottleneck.unwrap_or(report.bottleneck);
    let mut steps = capacity.trials.clone();
    steps.sort_by(|a, b| a.offered_rate.total_cmp(&b.offered_rate));
    report.steps = steps;
    report.capacity = Some(capacity);
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::bottleneck::Bottleneck;
    use crate::present::text::capacity as text;
    use crate::report::tests::sample;

    fn limits(from: f64, to: f64) -> Search {
        let second = Duration::from_secs(1);
        Search { from, to, precision: 0.02, trial: second, confirm: second * 3, warmup: second }
    }

    fn against(limits: &Search, mut holds: impl FnMut(f64, Duration) -> bool) -> Capacity {
        let trial = |rate: f64, time| {
            let step = Step {
                offered_rate: rate,
                passed: holds(rate, time),
                bottleneck: Some(Bottleneck::Hsm),
                ..Step::default()
            };
            Ok::<Measured, ()>(Measured { step, report: sample() })
        };
        search(limits, trial).unwrap().0
    }

    #[test]
    fn the_limit_is_found_to_its_precision() {
        for limit in [120.0, 4321.0, 99_000.0] {
            let found = against(&limits(100.0, 1e6), |rate, _| rate <= limit);
            let rate = found.rate.unwrap();
            assert!(rate <= limit && rate >= limit * 0.96, "{limit}: {rate}");
            assert_eq!(found.bottleneck, Some(Bottleneck::Hsm));
            assert!(found.trials.len() < 40);
        }
    }

    #[test]
    fn the_ends_of_the_range_are_told_as_such() {
        let all = against(&limits(100.0, 5000.0), |_, _| true);
        assert_eq!((all.rate, all.failed_at), (Some(5000.0), None));
        assert!(text(&all).contains("no limit found"));
        let none = against(&limits(100.0, 5000.0), |_, _| false);
        assert_eq!(none.rate, None);
        assert!(text(&none).contains("NO CAPACITY"));
    }

    #[test]
    fn one_bad_second_does_not_cost_the_capacity() {
        let mut trials = 0;
        let found = against(&limits(100.0, 1e5), |rate, _| {
            trials += 1;
            trials != 3 && rate <= 10_000.0
        });
        assert!(found.rate.unwrap() > 9_600.0, "{found:?}");
    }

    #[test]
    fn a_trial_that_was_lost_once_is_no_bound() {
        let mut trials = 0;
        let found = against(&limits(100.0, 5000.0), |_, _| {
            trials += 1;
            trials != 2
        });
        assert_eq!((found.rate, found.failed_at, found.bottleneck), (Some(5000.0), None, None));
    }

    #[test]
    fn what_does_not_hold_for_longer_is_not_told() {
        let found = against(&limits(100.0, 1e5), |rate, time| {
            rate <= if time.as_secs() > 1 { 8_000.0 } else { 10_000.0 }
        });
        let rate = found.rate.unwrap();
        assert!(rate <= 8_000.0 && rate > 7_600.0, "{rate}");
    }

    #[test]
    fn a_rate_that_held_is_confirmed_before_a_lower_one() {
        let coarse = Search { precision: 0.3, ..limits(500.0, 200_000.0) };
        let found = against(&coarse, |rate, time| {
            rate <= if time.as_secs() > 1 { 70_000.0 } else { 90_000.0 }
        });
        let confirmed: Vec<f64> =
            found.trials.iter().rev().take(2).map(|step| step.offered_rate).collect();
        assert_eq!(
            (confirmed, found.rate, found.failed_at),
            (vec![64_000.0, 80_000.0], Some(64_000.0), Some(80_000.0))
        );
        // As good as there: tried again before one beside it.
        let near = Search { precision: 0.05, ..limits(1200.0, 1e6) };
        let found =
            against(&near, |rate, time| rate <= if time.as_secs() > 1 { 2405.0 } else { 2560.0 });
        let tried: Vec<f64> = found.trials.iter().map(|step| step.offered_rate).collect();
        assert!(tried.ends_with(&[2550.0, 2400.0]), "{tried:?}");
        // Further away than the precision: nearer ones may pass as well.
        let fine = Search { precision: 0.05, ..coarse };
        let found = against(&fine, |rate, time| {
            rate <= if time.as_secs() > 1 { 84_000.0 } else { 90_000.0 }
        });
        assert_eq!((found.rate, found.failed_at), (Some(88_000.0 * 0.95), Some(88_000.0)));
    }

    #[test]
    fn the_bound_is_that_of_the_rate_that_was_lost() {
        let mut trials = 0;
        let trial = |rate: f64, _| {
            trials += 1;
            // 6,000 is lost in passing, after 8,000 was lost.
            let (passed, bottleneck) = if rate >= 8000.0 {
                (false, Bottleneck::Hsm)
            } else {
                (trials != 6, Bottleneck::Machine)
            };
            Ok::<Measured, ()>(Measured {
                step: Step {
                    offered_rate: rate,
                    passed,
                    bottleneck: Some(bottleneck),
                    ..Step::default()
                },
                report: sample(),
            })
        };
        let found = search(&Search { precision: 0.2, ..limits(1000.0, 1e5) }, trial).unwrap().0;
        assert!(
            found.trials.iter().any(|step| step.offered_rate == 6000.0 && !step.passed),
            "{found:?}"
        );
        assert_eq!(
            (found.rate, found.failed_at, found.bottleneck),
            (Some(7000.0), Some(8000.0), Some(Bottleneck::Hsm))
        );
    }

    #[test]
    fn sessions_that_are_full_are_told_as_too_few() {
        let with = |sessions_busy| {
            let mut report = sample();
            report.proxy.key_manager.as_mut().unwrap().sessions_busy = sessions_busy;
            let trial = |rate: f64, _| {
                Ok::<Measured, ()>(Measured {
                    step: Step { offered_rate: rate, passed: rate < 300.0, ..Step::default() },
                    report: report.clone(),
                })
            };
            text(&search(&limits(100.0, 1000.0), trial).unwrap().0)
        };
        assert!(
            with(14.3).contains("needs 6 HSM sessions")
                && with(14.4).contains("needs at least 6 HSM sessions")
        );
    }

    #[test]
    fn bounds_of_the_search() {
        assert!(limits(100.0, 5000.0).check().is_ok());
        assert!(limits(0.5, 5000.0).check().is_err());
        assert!(limits(100.0, 50.0).check().is_err());
        assert!(limits(100.0, RATE_MAX * 2.0).check().is_err());
        assert!(Search { precision: 0.6, ..limits(1.0, 2.0) }.check().is_err());
    }
}
