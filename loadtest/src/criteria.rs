//! Acceptance criteria: what must hold, and whether it did.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::generator::stats::Latency;
use crate::units;

/// A bound on one percentile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sla {
    /// As it was written: `p99.9`.
    pub name: String,
    /// 0 to 1.
    pub quantile: f64,
    /// Microseconds.
    pub limit_us: u64,
}

impl Sla {
    /// Reads `p99.9=250ms` or `max=1s`.
    ///
    /// # Errors
    /// A sentence that says what is accepted.
    pub fn parse(text: &str) -> Result<Sla, String> {
        let wrong = || {
            format!(
                "{text:?} is no bottleneck: a percentile and a time, as in p99.9=250ms, or max=1s"
            )
        };
        let (name, limit) = text.split_once('=').ok_or_else(wrong)?;
        let quantile = match (name, name.strip_prefix('p')) {
            ("max", _) => 1.0,
            (_, Some(percent)) => {
                let percent = percent
                    .parse::<f64>()
                    .ok()
                    .filter(|p| *p >= 1e-7 && *p <= 100.0)
                    .ok_or_else(wrong)?;
                // 99.9 / 100 is a little more than 0.999, and would ask for one request more than
                // meant.
                (percent * 1e7).round() / 1e9
            }
            _ => return Err(wrong()),
        };
        let limit = units::duration(limit)?;
        if limit.is_zero() || limit > Duration::from_secs(60) {
            return Err(format!("{text:?}: a time up to 60s"));
        }
        Ok(Sla { name: name.to_owned(), quantile, limit_us: limit.as_micros() as u64 })
    }
}

/// What must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Criteria {
    /// Bounds on percentiles.
    pub slas: Vec<Sla>,
    /// Errors that are accepted; `None`: not judged.
    pub max_errors: Option<u64>,
}

impl Criteria {
    /// Who names a latency means it for every request: without a word on errors, none are accepted.
    pub fn new(slas: Vec<Sla>, max_errors: Option<u64>) -> Criteria {
        let max_errors = max_errors.or(if slas.is_empty() { None } else { Some(0) });
        Criteria { slas, max_errors }
    }
}

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TestResult {
    /// Every criterion was met.
    Pass,
    /// A criterion was not met, an answer was wrong, or none was right.
    Fail,
    /// None was given, on latency or on errors: nothing is judged, however many requests failed.
    NoCriteria,
}

/// How the check of `--max-errors` is called.
pub(crate) const ERRORS: &str = "errors";

/// A criterion, and whether it was met.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// `p99.9`, `errors`, `wrong answers`.
    pub what: String,
    /// What it may be at most.
    pub limit: String,
    /// What it was.
    pub value: String,
    /// Whether it was met.
    pub passed: bool,
}

/// Checks every criterion, and what nobody needs to ask for: that no answer is wrong, and that
/// there are answers. `wrong` is `None` where answers were not looked at: then nothing is said of
/// it.
pub fn judge(
    criteria: &Criteria,
    latency: &Latency,
    errors: u64,
    wrong: Option<u64>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(wrong) = wrong {
        checks.push(Check {
            what: "wrong answers".into(),
            limit: "0".into(),
            value: units::count(wrong),
            passed: wrong == 0,
        });
    }
    let answers = if wrong.is_some() { "right answers" } else { "answers (200)" };
    checks.push(Check {
        what: answers.into(),
        limit: "at least 1".into(),
        value: units::count(latency.len()),
        passed: !latency.is_empty(),
    });
    for sla in &criteria.slas {
        let value = latency.value_at_quantile(sla.quantile);
        checks.push(Check {
            what: sla.name.clone(),
            limit: units::micros(sla.limit_us),
            value: units::latency(value),
            passed: !latency.is_empty() && value <= sla.limit_us,
        });
    }
    if let Some(max) = criteria.max_errors {
        checks.push(Check {
            what: ERRORS.into(),
            limit: units::count(max),
            value: units::count(errors),
            passed: errors <= max,
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::stats::latency;

    #[test]
    fn bounds_are_read() {
        let sla = Sla::parse("p99.9=250ms").unwrap();
        assert_eq!(sla.quantile, 0.999);
        assert_eq!((sla.name.as_str(), sla.limit_us), ("p99.9", 250_000));
        assert_eq!(Sla::parse("max=1s").unwrap().quantile, 1.0);
        for wrong in [
            "", "p99", "99=1ms", "p0=1ms", "p101=1ms", "p99=1", "p=1s", "p99=0ms", "p99=61s",
            "pNaN=1s",
        ] {
            assert!(Sla::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_verdict_holds_on_one_side_of_its_bound_only() {
        let mut histogram = latency();
        (0..1000).for_each(|_| histogram.record(1000).unwrap());
        (0..2).for_each(|_| histogram.record(5000).unwrap());
        let held = |slas: &[&str], max_errors, errors, wrong| {
            let criteria =
                Criteria::new(slas.iter().map(|s| Sla::parse(s).unwrap()).collect(), max_errors);
            judge(&criteria, &histogram, errors, Some(wrong)).iter().all(|c| c.passed)
        };
        assert!(held(&[], None, 99, 0));
        assert!(!held(&[], None, 0, 1), "a wrong answer is never accepted");
        assert!(held(&["p99=1ms"], None, 0, 0));
        assert!(!held(&["p99.9=1ms"], None, 0, 0));
        assert!(held(&["p99.9=5.01ms", "max=6ms"], None, 0, 0));
        assert!(!held(&["p50=999us"], None, 0, 0));
        assert!(!held(&["p99=1ms"], None, 1, 0), "no errors where nothing was said of them");
        assert!(held(&["p99=1ms"], Some(1), 1, 0));
        assert!(!held(&[], Some(1), 2, 0));
        assert!(
            !judge(&Criteria::default(), &latency(), 0, Some(0)).iter().all(|c| c.passed),
            "no answers at all"
        );
        let unchecked = judge(&Criteria::default(), &histogram, 0, None);
        assert!(
            unchecked
                .iter()
                .all(|c| c.passed && !c.what.contains("wrong") && !c.what.contains("right")),
            "{unchecked:?}"
        );
    }
}
