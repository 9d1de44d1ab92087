//! CPU time of a process over a stretch of time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::FULL;
use super::process::{CpuTimes, Process};

/// CPU use of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Name of the process.
    pub name: String,
    /// Process ids: of a parent and its workers, or of several servers behind a load balancer.
    pub pids: Vec<u32>,
    /// CPU time for each right answer, microseconds, of all threads; the HSM's library is among
    /// them. `None` where it could not be measured.
    pub us_per_request: Option<f64>,
    /// Cores' worth of CPU time used.
    pub cores_used: f64,
    /// Cores it may use.
    pub cores_allowed: usize,
    /// The share of the time that its busiest thread ran.
    pub busiest_thread: f64,
    /// That thread's name; of xksd's shards without the number, which is the executor's and not
    /// that of the shard in xksd's log.
    pub busiest_thread_name: String,
}

/// CPU time for each right answer, microseconds; `None` if there is none, or less was used than
/// the kernel's clock tick (10 ms) shows.
pub fn us_a_request(used: Duration, right: u64) -> Option<f64> {
    (right > 0 && !used.is_zero()).then(|| used.as_secs_f64() * 1e6 / right as f64)
}

/// How the names of xksd's shard threads begin.
const SHARD: &str = "xksd-shard";

impl Cpu {
    /// From two readings, `seconds` apart; `came_in` is how many right answers came in meanwhile.
    pub(super) fn between(
        process: &Process,
        (from, to): (&CpuTimes, &CpuTimes),
        seconds: f64,
        came_in: u64,
    ) -> Cpu {
        let used = to.total.saturating_sub(from.total);
        let (thread, busiest) = to.busiest_since(from);
        Cpu {
            name: process.name(),
            pids: process.pids().to_vec(),
            us_per_request: us_a_request(used, came_in),
            cores_used: used.as_secs_f64() / seconds,
            cores_allowed: to.cores,
            busiest_thread: busiest.as_secs_f64() / seconds,
            busiest_thread_name: if thread.starts_with(SHARD) { SHARD.into() } else { thread },
        }
    }

    /// Whether a thread, or all the cores that it may use, were busy all the time.
    pub fn is_full(&self) -> bool {
        self.busiest_thread >= FULL || self.cores_used >= FULL * self.cores_allowed.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_answers_or_time_there_is_no_cpu_a_request() {
        let second = Duration::from_secs(1);
        assert_eq!(us_a_request(second, 1000), Some(1000.0));
        assert_eq!((us_a_request(second, 0), us_a_request(Duration::ZERO, 1000)), (None, None));
    }
}
