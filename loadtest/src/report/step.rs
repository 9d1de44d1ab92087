//! The steps of a run: whether each was served, what its bottleneck was, and from where on they
//! failed.

use serde::{Deserialize, Serialize};

use crate::criteria::Criteria;
use crate::generator::stats::PhaseStats;
use crate::observe::bottleneck::Bottleneck;

/// A stretch with one rate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Step {
    /// Requests due a second; in a closed loop, requests sent.
    pub offered_rate: f64,
    /// Right answers a second that came in during the step.
    pub throughput: f64,
    pub seconds: f64,
    pub offered: u64,
    pub right: u64,
    pub errors: u64,
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
    /// At the percentile of each of the report's `slas`, in their order, microseconds.
    pub at_slas: Vec<u64>,
    /// Mean time in the HSM, microseconds, if it is known and there are sessions.
    pub hsm_mean_us: Option<f64>,
    /// What kept it from more, where it was at its limit.
    pub bottleneck: Option<Bottleneck>,
    /// Whether it was served in full: answered right, in its time, without more errors than are
    /// accepted.
    pub served: bool,
    /// Whether it was, and within the criteria.
    pub passed: bool,
}

/// From this multiple of its time at lower load on, calls wait within the HSM.
const HSM_SLOWED: f64 = 2.0;
/// Of what was offered, a step must have answered this share to count as served in full.
const SERVED_SHARE: f64 = 0.98;
/// Requests that may be on their way at the end of a step that is served in full, however few it
/// has. They do not fail, or they would be errors; and of a step with 21 requests one is 5 %.
const ON_THEIR_WAY: f64 = 3.0;

/// Whether what was offered was answered right while it was, but for what may be on its way at the
/// end.
fn in_its_time(offered: u64, answered: f64) -> bool {
    offered as f64 - answered <= ((1.0 - SERVED_SHARE) * offered as f64).max(ON_THEIR_WAY)
}

impl Step {
    /// Whether nearly all of its requests were answered right, and in its time; whatever is
    /// accepted of errors and asked of latency.
    pub fn is_sustained(&self) -> bool {
        in_its_time(self.offered, self.throughput * self.seconds)
            && self.right as f64 >= SERVED_SHARE * self.offered as f64
    }

    /// In words.
    pub fn status(&self) -> &'static str {
        match (self.passed, self.served) {
            (true, _) => "pass",
            (false, true) => "too slow",
            (false, false) => "not all served",
        }
    }

    /// Of a phase that took `seconds`.
    pub fn of(phase: &PhaseStats, seconds: f64, criteria: &Criteria) -> Step {
        let at = |quantile| phase.latency.value_at_quantile(quantile);
        let errors_accepted = criteria.max_errors.unwrap_or(0);
        let served = in_its_time(phase.offered, phase.throughput as f64)
            && phase.errors <= errors_accepted
            && phase.right > 0;
        Step {
            offered_rate: phase.offered as f64 / seconds,
            throughput: phase.throughput as f64 / seconds,
            seconds,
            offered: phase.offered,
            right: phase.right,
            errors: phase.errors,
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: phase.latency.max(),
            at_slas: criteria.slas.iter().map(|sla| at(sla.quantile)).collect(),
            hsm_mean_us: None,
            bottleneck: None,
            served,
            passed: served && criteria.slas.iter().all(|sla| at(sla.quantile) <= sla.limit_us),
        }
    }
}

/// Steps by their rate, ascending; the earlier first of those with the same.
pub fn by_rate(steps: &[Step]) -> Vec<&Step> {
    let mut sorted: Vec<&Step> = steps.iter().collect();
    sorted.sort_by(|a, b| a.offered_rate.total_cmp(&b.offered_rate));
    sorted
}

/// One step for each rate, by rate: where a rate was tried several times, the trial that counts,
/// which is the longest; of equally long ones, one that passed before one that failed, and the
/// last.
pub fn one_for_each_rate(steps: &[Step]) -> Vec<&Step> {
    let mut kept: Vec<&Step> = Vec::new();
    let weight = |step: &Step| (step.seconds.round() as u64, step.passed);
    for step in by_rate(steps) {
        match kept.last_mut().filter(|last| last.offered_rate == step.offered_rate) {
            None => kept.push(step),
            Some(last) if weight(step) >= weight(last) => *last = step,
            Some(_) => {}
        }
    }
    kept
}

/// By rate, from where on no step passed. A step that failed below one that passed did so for
/// something else, such as a moment in which the machine was busy. The number of steps where the
/// highest passed.
fn fails_from(sorted: &[&Step]) -> usize {
    sorted.iter().rposition(|step| step.passed).map_or(0, |passed| passed + 1)
}

/// The step that decides what the run came to: the lowest from which on none passed, otherwise the
/// highest.
pub fn deciding(steps: &[Step]) -> Option<&Step> {
    let sorted = by_rate(steps);
    sorted.get(fails_from(&sorted)).or(sorted.last()).copied()
}

/// What bounded the deciding step.
pub fn bottleneck(steps: &[Step]) -> Bottleneck {
    deciding(steps).map_or(Bottleneck::Unknown, |step| bottleneck_of(step, steps))
}

/// What bounded a step, also by comparison with the others: an HSM whose calls take longer the more
/// it is asked is at its limit even while sessions with it are free.
pub fn bottleneck_of(step: &Step, steps: &[Step]) -> Bottleneck {
    let unhurried = steps.iter().filter_map(|step| step.hsm_mean_us).fold(f64::INFINITY, f64::min);
    match step.bottleneck.unwrap_or(Bottleneck::Unknown) {
        Bottleneck::Unknown | Bottleneck::Connections
            if !step.passed && step.hsm_mean_us.is_some_and(|us| us >= HSM_SLOWED * unhurried) =>
        {
            Bottleneck::HsmUnits
        }
        bound => bound,
    }
}

/// The knee: the highest step that passed, where there are higher ones. None where the highest
/// passed, or none did.
pub fn knee(steps: &[Step]) -> Option<&Step> {
    let sorted = by_rate(steps);
    let fails_from = fails_from(&sorted);
    sorted.get(fails_from)?;
    sorted.get(fails_from.checked_sub(1)?).copied()
}

/// Steps that failed although a higher one passed.
pub fn failed_below(steps: &[Step]) -> usize {
    let sorted = by_rate(steps);
    sorted.iter().take(fails_from(&sorted)).filter(|step| !step.passed).count()
}
