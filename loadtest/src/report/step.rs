//! The steps of a run: whether each was served, what bounded it, and where the load was lost.

use serde::{Deserialize, Serialize};

use crate::observe::bound::Bound;
use crate::sla::Promise;
use crate::stats::PhaseStats;

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
    /// Mean time in the HSM, microseconds, where it is known and there are sessions.
    pub hsm_mean_us: Option<f64>,
    /// What kept it from more, where it was at its limit.
    pub bound: Option<Bound>,
    /// Whether it was served in full: answered right, in its time, without more errors than are
    /// accepted.
    pub served: bool,
    /// Whether it was, and within the bounds that were asked for.
    pub held: bool,
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
    pub fn is_carried(&self) -> bool {
        in_its_time(self.offered, self.throughput * self.seconds)
            && self.right as f64 >= SERVED_SHARE * self.offered as f64
    }

    /// In words.
    pub fn verdict(&self) -> &'static str {
        match (self.held, self.served) {
            (true, _) => "held",
            (false, true) => "served in full, but late",
            (false, false) => "not served in full",
        }
    }

    /// Of a phase that took `seconds`.
    pub fn of(phase: &PhaseStats, seconds: f64, promise: &Promise) -> Step {
        let at = |quantile| phase.latency.value_at_quantile(quantile);
        let errors_accepted = promise.max_errors.unwrap_or(0);
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
            hsm_mean_us: None,
            bound: None,
            served,
            held: served && promise.slas.iter().all(|sla| at(sla.quantile) <= sla.limit_us),
        }
    }
}

/// Steps by their rate, ascending; the earlier first of those with the same.
pub fn by_rate(steps: &[Step]) -> Vec<&Step> {
    let mut sorted: Vec<&Step> = steps.iter().collect();
    sorted.sort_by(|a, b| a.offered_rate.total_cmp(&b.offered_rate));
    sorted
}

/// By rate, where the load was lost: from here on no step held. A step that was lost below one that
/// held was lost to something else, such as a moment in which the machine was busy. The number of
/// steps where the highest held.
fn lost_from(sorted: &[&Step]) -> usize {
    sorted.iter().rposition(|step| step.held).map_or(0, |held| held + 1)
}

/// The step that decides what the run came to: the lowest from which on none held, otherwise the
/// highest.
pub fn deciding(steps: &[Step]) -> Option<&Step> {
    let sorted = by_rate(steps);
    sorted.get(lost_from(&sorted)).or(sorted.last()).copied()
}

/// What bounded the deciding step.
pub fn bound(steps: &[Step]) -> Bound {
    deciding(steps).map_or(Bound::Unknown, |step| bound_of(step, steps))
}

/// What bounded a step, also by comparison with the others: an HSM whose calls take longer the more
/// it is asked is at its limit even while sessions with it are free.
pub fn bound_of(step: &Step, steps: &[Step]) -> Bound {
    let unhurried = steps.iter().filter_map(|step| step.hsm_mean_us).fold(f64::INFINITY, f64::min);
    match step.bound.unwrap_or(Bound::Unknown) {
        Bound::Unknown | Bound::Connections
            if !step.held && step.hsm_mean_us.is_some_and(|us| us >= HSM_SLOWED * unhurried) =>
        {
            Bound::HsmUnits
        }
        bound => bound,
    }
}

/// The knee: the highest step that held, where there are higher ones. None where the highest held,
/// or none did.
pub fn knee(steps: &[Step]) -> Option<&Step> {
    let sorted = by_rate(steps);
    let lost_from = lost_from(&sorted);
    sorted.get(lost_from)?;
    sorted.get(lost_from.checked_sub(1)?).copied()
}

/// Steps that did not hold although a higher one did.
pub fn lost_in_passing(steps: &[Step]) -> usize {
    let sorted = by_rate(steps);
    sorted.iter().take(lost_from(&sorted)).filter(|step| !step.held).count()
}
