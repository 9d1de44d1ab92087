//! When each request is due. The times are fixed before the run and do not depend on any answer:
//! that is what makes the loop open.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::RAMP_PARTS;

/// How requests follow each other at a given rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Independent of each other, as many customers' requests are: bursts and gaps.
    Poisson,
    /// At equal distances.
    Uniform,
}

/// A time with one rate, or with one that changes evenly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    /// From the start of the run.
    pub start: Duration,
    /// How long.
    pub length: Duration,
    /// Requests a second at its start; 0 in a closed loop.
    pub from: f64,
    /// And at its end.
    pub to: f64,
    /// False for the warm-up.
    pub measured: bool,
}

impl Phase {
    /// Requests due in it.
    pub fn requests(&self) -> f64 {
        (self.from + self.to) / 2.0 * self.length.as_secs_f64()
    }
}

/// What is offered over a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One after the other without gaps.
    pub phases: Vec<Phase>,
    /// How requests follow each other.
    pub arrivals: Arrivals,
    /// No schedule: each connection sends when it has been answered.
    pub closed: bool,
}

impl Plan {
    /// One rate after the other, each for `each`, after a warm-up at the first of them. A single
    /// one is a constant rate.
    pub fn steps(rates: &[f64], each: Duration, warmup: Duration, arrivals: Arrivals) -> Plan {
        let mut plan = Plan { phases: Vec::new(), arrivals, closed: false };
        let first = rates.first().copied().unwrap_or_default();
        plan.push(first, first, warmup, false);
        for &rate in rates {
            plan.push(rate, rate, each, true);
        }
        plan
    }

    /// A rate that changes evenly, told in parts.
    pub fn ramp(
        from: f64,
        to: f64,
        length: Duration,
        warmup: Duration,
        arrivals: Arrivals,
    ) -> Plan {
        let mut plan = Plan { phases: Vec::new(), arrivals, closed: false };
        plan.push(from, from, warmup, false);
        let at = |part: usize| from + (to - from) * part as f64 / RAMP_PARTS as f64;
        for part in 0..RAMP_PARTS {
            plan.push(at(part), at(part + 1), length / RAMP_PARTS as u32, true);
        }
        plan
    }

    /// As fast as it is answered.
    pub fn closed(length: Duration, warmup: Duration) -> Plan {
        let mut plan = Plan { phases: Vec::new(), arrivals: Arrivals::Uniform, closed: true };
        plan.push(0.0, 0.0, warmup, false);
        plan.push(0.0, 0.0, length, true);
        plan
    }

    fn push(&mut self, from: f64, to: f64, length: Duration, measured: bool) {
        if !length.is_zero() {
            let start = self.length();
            self.phases.push(Phase { start, length, from, to, measured });
        }
    }

    /// All of it.
    pub fn length(&self) -> Duration {
        self.phases.last().map_or(Duration::ZERO, |p| p.start + p.length)
    }

    /// When the warm-up is over.
    pub fn measured_from(&self) -> Duration {
        self.phases.iter().find(|p| p.measured).map_or(Duration::ZERO, |p| p.start)
    }

    /// The phase that a time belongs to; the last one from its start on.
    pub fn phase_at(&self, time: Duration) -> usize {
        self.phases.iter().rposition(|p| p.start <= time).unwrap_or(0)
    }

    /// The due times of one of `workers` workers. All of them together make the plan's rate.
    pub fn due_times(&self, worker: usize, workers: usize, seed: u64) -> DueTimes<'_> {
        let at = match self.arrivals {
            Arrivals::Uniform => worker as f64,
            Arrivals::Poisson => 0.0,
        };
        let mut times = DueTimes {
            plan: self,
            phase: 0,
            before: 0.0,
            at,
            step: workers as f64,
            random: Random::new(
                seed.wrapping_add((worker as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            ),
        };
        if self.arrivals == Arrivals::Poisson {
            times.at = times.gap();
        }
        times
    }
}

/// Due times, ascending, with the index of their phase.
///
/// The n-th request is due when the integral of the rate reaches n: exact at any rate, also while
/// it changes. Poisson arrivals replace the steps of 1 by exponentially distributed ones.
pub struct DueTimes<'a> {
    plan: &'a Plan,
    phase: usize,
    /// Integral of the rate up to the current phase.
    before: f64,
    /// Integral of the rate at the next request.
    at: f64,
    /// How much one worker's requests lie apart, on average.
    step: f64,
    random: Random,
}

impl DueTimes<'_> {
    fn gap(&mut self) -> f64 {
        match self.plan.arrivals {
            Arrivals::Uniform => self.step,
            Arrivals::Poisson => -self.random.open_unit().ln() * self.step,
        }
    }
}

impl Iterator for DueTimes<'_> {
    type Item = (Duration, usize);

    fn next(&mut self) -> Option<(Duration, usize)> {
        if self.plan.closed {
            return None;
        }
        loop {
            let phase = self.plan.phases.get(self.phase)?;
            let wanted = self.at - self.before;
            if wanted >= phase.requests() {
                self.before += phase.requests();
                self.phase += 1;
                continue;
            }
            // from·t + (to-from)/(2·length)·t² = wanted, in the form that is stable where the rate
            // does not change.
            let bend = (phase.to - phase.from) / (2.0 * phase.length.as_secs_f64());
            let root = (phase.from * phase.from + 4.0 * bend * wanted).max(0.0).sqrt();
            let seconds = if wanted > 0.0 { 2.0 * wanted / (phase.from + root) } else { 0.0 };
            let due =
                phase.start + Duration::from_secs_f64(seconds.min(phase.length.as_secs_f64()));
            self.at += self.gap();
            return Some((due, self.phase));
        }
    }
}

/// A small, fast generator (xorshift64*) for what needs no cryptographic randomness: mixes and
/// arrival times.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        // The state must not be 0, and small seeds should not start alike.
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)] // it never ends, so it is no Iterator
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Above 0, at most 1.
    pub fn open_unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Below `n`; 0 where `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn all(plan: &Plan, workers: usize) -> Vec<(Duration, usize)> {
        let mut times: Vec<_> =
            (0..workers).flat_map(|w| plan.due_times(w, workers, 7).collect::<Vec<_>>()).collect();
        times.sort();
        times
    }

    #[test]
    fn a_constant_rate_has_equal_distances_over_any_number_of_workers() {
        let plan = Plan::steps(&[1000.0], S * 2, S, Arrivals::Uniform);
        for workers in [1, 3, 8] {
            let times = all(&plan, workers);
            assert_eq!(times.len(), 3000);
            for (n, (due, phase)) in times.iter().enumerate() {
                assert!((due.as_secs_f64() - n as f64 / 1000.0).abs() < 1e-6, "{n}: {due:?}");
                assert_eq!(*phase, usize::from(n >= 1000));
            }
        }
    }

    #[test]
    fn steps_follow_each_other_with_their_own_rate() {
        let plan = Plan::steps(&[100.0, 300.0], S, Duration::ZERO, Arrivals::Uniform);
        let times = all(&plan, 2);
        assert_eq!(times.iter().filter(|t| t.1 == 0).count(), 100);
        assert_eq!(times.iter().filter(|t| t.1 == 1).count(), 300);
        assert!(times.iter().all(|(due, phase)| plan.phase_at(*due) == *phase));
    }

    #[test]
    fn a_ramp_offers_what_its_rate_sums_up_to() {
        let plan = Plan::ramp(100.0, 900.0, S * 10, Duration::ZERO, Arrivals::Uniform);
        let times = all(&plan, 1);
        assert!((4999..=5001).contains(&times.len()), "{}", times.len());
        // After half the time the rate was 100 to 500: 1,500 requests.
        let half = times.iter().filter(|t| t.0 < S * 5).count();
        assert!((1499..=1501).contains(&half), "{half}");
        assert!(times.is_sorted());
        // Downwards, too.
        let down = all(&Plan::ramp(900.0, 100.0, S * 10, Duration::ZERO, Arrivals::Uniform), 1);
        assert!((4999..=5001).contains(&down.len()), "{}", down.len());
        assert!(down.is_sorted());
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_poisson_arrivals() {
        let plan = Plan::steps(&[10_000.0], S * 10, Duration::ZERO, Arrivals::Poisson);
        let times = all(&plan, 4);
        let n = times.len() as f64;
        // 100,000 expected, standard deviation 316: five of them.
        assert!((n - 100_000.0).abs() < 1_600.0, "{n}");
        let gaps: Vec<f64> = times.windows(2).map(|w| (w[1].0 - w[0].0).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // Exponential gaps: the deviation equals the mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{}", variance.sqrt() / mean);
    }

    #[test]
    fn a_closed_loop_has_no_schedule() {
        let plan = Plan::closed(S, S);
        assert_eq!(plan.due_times(0, 1, 1).count(), 0);
        assert_eq!((plan.length(), plan.measured_from()), (S * 2, S));
    }

    #[test]
    fn random_numbers_stay_in_their_range() {
        let mut random = Random::new(0);
        for _ in 0..10_000 {
            assert!(random.below(7) < 7);
            let unit = random.open_unit();
            assert!(unit > 0.0 && unit <= 1.0);
        }
        assert_eq!(random.below(0), 0);
    }
}
