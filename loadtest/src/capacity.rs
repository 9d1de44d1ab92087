//! The highest rate that holds what was promised, found by bisection.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::RATE_MAX;
use crate::live::Live;
use crate::observe::KeyManager;
use crate::observe::bound::Bound;
use crate::report::svg::escape;
use crate::report::{self, Report, Step};
use crate::run::Run;
use crate::schedule::Plan;
use crate::sla::Verdict;
use crate::units::{count, counted, figure, latency};
use crate::worker::Failure;

/// What was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Capacity {
    /// The highest rate that held, and held again for the longer time; `None`: not even the lowest
    /// did.
    pub rate: Option<f64>,
    /// The lowest rate that did not hold; `None`: all up to the upper limit did.
    pub lost_at: Option<f64>,
    /// What kept it from more, at the lowest rate that did not hold.
    pub bound: Option<Bound>,
    /// HSM sessions that the found rate needs; 0 where they cannot be seen.
    pub sessions_needed: u64,
    /// Whether they were what requests waited for, so that it needs more than that.
    #[serde(default)]
    pub sessions_full: bool,
    /// Every trial, in the order in which they were run.
    pub trials: Vec<Step>,
}

/// Where to look.
pub struct Search {
    /// First rate, requests a second.
    pub from: f64,
    /// No rate above this.
    pub to: f64,
    /// The result is at most this share below a rate that did not hold.
    pub precision: f64,
    /// Measured time of a trial.
    pub trial: Duration,
    /// Measured time of the last one, at the rate that is told.
    pub confirm: Duration,
    /// Warm-up of each.
    pub warmup: Duration,
}

/// A trial: its step, and the report it comes from.
pub struct Trial {
    /// At one rate.
    pub step: Step,
    /// All of it.
    pub report: Report,
}

/// Doubles the rate until it is lost, then halves the interval; `try_rate` runs one trial for a
/// time.
///
/// # Errors
/// Those of `try_rate`.
pub fn search<E>(
    search: &Search,
    mut try_rate: impl FnMut(f64, Duration) -> Result<Trial, E>,
) -> Result<(Capacity, Option<Report>), E> {
    let mut capacity = Capacity {
        rate: None,
        lost_at: None,
        bound: None,
        sessions_needed: 0,
        sessions_full: false,
        trials: Vec::new(),
    };
    let mut last = None;
    let mut run = |rate: f64, time: Duration, capacity: &mut Capacity| -> Result<bool, E> {
        let trial = try_rate(rate, time)?;
        let held = trial.step.held;
        capacity.trials.push(trial.step);
        if held {
            capacity.rate = Some(capacity.rate.map_or(rate, |best| best.max(rate)));
            let key_manager = trial.report.server.key_manager.as_ref();
            capacity.sessions_needed = key_manager.and_then(|k| k.sessions_needed).unwrap_or(0);
            capacity.sessions_full = key_manager.is_some_and(KeyManager::is_full);
            last = Some(trial.report);
        } else if last.is_none() {
            last = Some(trial.report);
        }
        Ok(held)
    };
    let lose = |rate: f64, capacity: &mut Capacity| {
        capacity.lost_at = Some(rate);
        capacity.bound =
            capacity.trials.last().map(|lost| report::bound_of(lost, &capacity.trials));
    };
    let (mut low, mut high) = (0.0, None);
    let mut rate = search.from.min(search.to);
    loop {
        // A single trial may be lost to something else on the machine: it must be lost twice.
        if run(rate, search.trial, &mut capacity)? || run(rate, search.trial, &mut capacity)? {
            low = rate;
        } else {
            high = Some(rate);
            lose(rate, &mut capacity);
        }
        rate = match high {
            None if rate >= search.to => break,
            None => (rate * 2.0).min(search.to),
            // Below this nobody would want to know it more exactly.
            Some(high) if high - low <= (search.precision * high).max(1.0) => break,
            Some(high) => (low + high) / 2.0,
        };
    }
    // What held for seconds must hold for longer, or the rate is not told.
    capacity.rate = None;
    while low >= 1.0 && !run(low, search.confirm, &mut capacity)? {
        lose(low, &mut capacity);
        // Of the rates below, one that has held is the next, if it is not further away than one
        // that has not been tried.
        let held = capacity
            .trials
            .iter()
            .filter(|step| step.held && step.offered_rate < low)
            .map(|step| step.offered_rate);
        low = held.fold(low * (1.0 - search.precision), f64::max);
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
    arrivals: crate::schedule::Arrivals,
    live: &mut Live,
) -> Result<Report, Failure> {
    let found = search(limits, |rate, time| {
        let run = Run {
            plan: Arc::new(Plan::steps(&[rate], time, limits.warmup, arrivals)),
            load: format!("{} requests/s for {} s", figure(rate), time.as_secs_f64()),
            ..base.clone()
        };
        let report = run.execute(live)?;
        if report.wrong > 0 {
            return Err(Failure::Wrong(report.wrong_told.join("; ")));
        }
        let mut step = report.steps.first().cloned().unwrap_or_default();
        // The load as it was meant, so that Poisson arrivals do not blur the table.
        step.offered_rate = rate;
        step.held &= report.verdict() == Verdict::Held;
        let word = if step.held { "held" } else { "not held" };
        live.note(&format!(
            "{:>9}/s for {:>2.0} s: {word:<8}  answered {}/s, p50 {}, p99.9 {}, errors {}",
            figure(rate),
            time.as_secs_f64(),
            figure(step.throughput),
            latency(step.p50),
            latency(step.p999),
            count(report.errors)
        ));
        Ok(Trial { step, report })
    })?;
    let (capacity, report) = found;
    let mut report = report.ok_or_else(|| Failure::Setup("no trial was run".into()))?;
    report.bound = capacity.bound.unwrap_or(report.bound);
    let mut steps = capacity.trials.clone();
    steps.sort_by(|a, b| a.offered_rate.total_cmp(&b.offered_rate));
    report.steps = steps;
    report.capacity = Some(capacity);
    Ok(report)
}

/// In a few lines.
pub fn text(capacity: &Capacity) -> String {
    let mut text = String::new();
    match capacity.rate {
        Some(rate) => drop(writeln!(text, "CAPACITY {} requests/s", figure(rate))),
        None => text.push_str("NO CAPACITY: not even the lowest rate held\n"),
    }
    match (capacity.lost_at, capacity.bound) {
        (Some(_), Some(bound)) => drop(writeln!(text, "bounded by {}", bound.text())),
        _ => text.push_str("not bounded: everything up to the upper limit (--to) held\n"),
    }
    if capacity.rate.is_some() && capacity.sessions_needed > 0 {
        let _ = writeln!(
            text,
            "needs {}{}, each in use for 70 % of the time",
            if capacity.sessions_full { "at least " } else { "" },
            counted(capacity.sessions_needed, "HSM session")
        );
    }
    text
}

/// The same for the page.
pub fn html(capacity: &Capacity) -> String {
    let lines: Vec<String> = text(capacity).lines().map(escape).collect();
    format!(
        "<h2>Capacity</h2>\n<p>{}</p>\n<p class=\"note\">The figures below are those of the last \
         trial that held.</p>\n",
        lines.join("<br/>\n")
    )
}

/// Whether a rate can be searched for.
///
/// # Errors
/// A sentence.
pub fn check(search: &Search) -> Result<(), String> {
    if !(search.from >= 1.0 && search.from <= search.to && search.to <= RATE_MAX) {
        return Err(format!(
            "--from and --to: 1 to {RATE_MAX:.0} requests/s, the first not above the second"
        ));
    }
    if !(0.005..=0.5).contains(&search.precision) {
        return Err("--precision: 0.005 to 0.5".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    fn limits(from: f64, to: f64) -> Search {
        let second = Duration::from_secs(1);
        Search { from, to, precision: 0.02, trial: second, confirm: second * 3, warmup: second }
    }

    fn against(limits: &Search, mut holds: impl FnMut(f64, Duration) -> bool) -> Capacity {
        let trial = |rate: f64, time| {
            let step = Step {
                offered_rate: rate,
                held: holds(rate, time),
                bound: Some(Bound::Hsm),
                ..Step::default()
            };
            Ok::<Trial, ()>(Trial { step, report: sample() })
        };
        search(limits, trial).unwrap().0
    }

    #[test]
    fn the_limit_is_found_to_its_precision() {
        for limit in [120.0, 4321.0, 99_000.0] {
            let found = against(&limits(100.0, 1e6), |rate, _| rate <= limit);
            let rate = found.rate.unwrap();
            assert!(rate <= limit && rate >= limit * 0.96, "{limit}: {rate}");
            assert_eq!(found.bound, Some(Bound::Hsm));
            assert!(found.trials.len() < 40);
        }
    }

    #[test]
    fn the_ends_of_the_range_are_told_as_such() {
        let all = against(&limits(100.0, 5000.0), |_, _| true);
        assert_eq!((all.rate, all.lost_at), (Some(5000.0), None));
        assert!(text(&all).contains("not bounded"));
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
        assert_eq!((found.rate, found.lost_at, found.bound), (Some(5000.0), None, None));
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
            (confirmed, found.rate, found.lost_at),
            (vec![64_000.0, 80_000.0], Some(64_000.0), Some(80_000.0))
        );
        // Further away than the precision: nearer ones may hold as well.
        let fine = Search { precision: 0.05, ..coarse };
        let found = against(&fine, |rate, time| {
            rate <= if time.as_secs() > 1 { 84_000.0 } else { 90_000.0 }
        });
        assert_eq!((found.rate, found.lost_at), (Some(88_000.0 * 0.95), Some(88_000.0)));
    }

    #[test]
    fn the_bound_is_that_of_the_rate_that_was_lost() {
        let mut trials = 0;
        let trial = |rate: f64, _| {
            trials += 1;
            // 6,000 is lost in passing, after 8,000 was lost.
            let (held, bound) =
                if rate >= 8000.0 { (false, Bound::Hsm) } else { (trials != 6, Bound::Machine) };
            Ok::<Trial, ()>(Trial {
                step: Step { offered_rate: rate, held, bound: Some(bound), ..Step::default() },
                report: sample(),
            })
        };
        let found = search(&Search { precision: 0.2, ..limits(1000.0, 1e5) }, trial).unwrap().0;
        assert!(
            found.trials.iter().any(|step| step.offered_rate == 6000.0 && !step.held),
            "{found:?}"
        );
        assert_eq!(
            (found.rate, found.lost_at, found.bound),
            (Some(7000.0), Some(8000.0), Some(Bound::Hsm))
        );
    }

    #[test]
    fn sessions_that_are_full_are_told_as_too_few() {
        let with = |sessions_busy| {
            let mut report = sample();
            report.server.key_manager.as_mut().unwrap().sessions_busy = sessions_busy;
            let trial = |rate: f64, _| {
                Ok::<Trial, ()>(Trial {
                    step: Step { offered_rate: rate, held: rate < 300.0, ..Step::default() },
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
        assert!(check(&limits(100.0, 5000.0)).is_ok());
        assert!(check(&limits(0.5, 5000.0)).is_err());
        assert!(check(&limits(100.0, 50.0)).is_err());
        assert!(check(&limits(100.0, RATE_MAX * 2.0)).is_err());
        assert!(check(&Search { precision: 0.6, ..limits(1.0, 2.0) }).is_err());
    }
}
