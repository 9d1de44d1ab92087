//! What can be seen of the proxy from outside while it is loaded: CPU time of its process, and what
//! xksd's `/metrics` tell.

pub mod bound;
pub mod metrics;
pub mod process;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::metrics::Metrics;
use self::process::{CpuTimes, Machine, MachineTimes, Process};
use crate::target::Target;

/// Watches a proxy, this tool and the machine over stretches of time.
pub struct Observer {
    process: Option<Process>,
    own: Process,
    admin: Option<SocketAddr>,
    marks: Vec<Sample>,
}

struct Sample {
    at: Instant,
    cpu: Option<CpuTimes>,
    own: Option<CpuTimes>,
    machine: Option<MachineTimes>,
    metrics: Option<Metrics>,
}

/// What was seen of a stretch of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Of the proxy.
    pub server: Server,
    /// CPU time of this tool, where it can be read.
    pub own_cpu: Option<Duration>,
    /// The share of the time that the busiest thread of this tool ran, where it can be read.
    pub own_busiest: Option<f64>,
    /// This machine's cores, where the proxy runs on it too.
    pub machine: Option<Machine>,
}

/// Figures of the proxy over the measured time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Its process, where it runs on this machine.
    pub cpu: Option<Cpu>,
    /// What its metrics tell, where it is xksd.
    pub key_manager: Option<KeyManager>,
}

/// CPU use of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Process id.
    pub pid: u32,
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

/// Times of the key manager as xksd tells them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyManager {
    /// Mean wait for a session, microseconds.
    pub queue_mean_us: f64,
    /// Mean time in the key manager, microseconds.
    pub hsm_mean_us: f64,
    /// Sessions in use at once, on average: time in the key manager over time (Little's law).
    pub sessions_busy: f64,
    /// Sessions open; 0 for the key manager inside xksd, which has none.
    pub sessions_open: u64,
    /// Sessions this load needs, so that each is in use for 70 % of the time; more than that where
    /// [`KeyManager::is_full`]. `None` where there are none, and where the load was not carried:
    /// sessions serve what is let through to them, so nobody knows then what it would have taken.
    pub sessions_needed: Option<u64>,
}

/// Share of the time that a session should be in use at most: above it, waits grow out of
/// proportion.
const SESSION_USE: f64 = 0.7;

/// How the names of xksd's shard threads begin.
const SHARD: &str = "xksd-shard";

/// CPU time for each right answer, microseconds; `None` where there is none, or less was used than
/// the kernel's clock tick (10 ms) shows.
pub fn us_a_request(used: Duration, right: u64) -> Option<f64> {
    (right > 0 && !used.is_zero()).then(|| used.as_secs_f64() * 1e6 / right as f64)
}

impl Observer {
    /// Finds what can be watched.
    pub fn new(target: &Target) -> Observer {
        let process = Process::find(target.pid, target.address);
        Observer { process, own: Process::own(), admin: target.admin, marks: Vec::new() }
    }

    /// Memory of the proxy's process now, bytes.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.process.as_ref()?.resident_bytes()
    }

    /// A stretch of time ends and another begins.
    pub fn mark(&mut self) {
        self.marks.push(Sample {
            at: Instant::now(),
            cpu: self.process.as_ref().and_then(Process::times),
            own: self.own.times(),
            machine: self.process.as_ref().and_then(|_| process::machine_times()),
            metrics: self.admin.and_then(|admin| metrics::scrape(admin).ok()),
        });
    }

    /// What was seen from one mark to another, in the order of [`Observer::mark`]; `came_in` is how
    /// many right answers came in meanwhile.
    pub fn between(&self, from: usize, to: usize, came_in: u64) -> Seen {
        let (Some(before), Some(after)) = (self.marks.get(from), self.marks.get(to)) else {
            return Seen::default();
        };
        let seconds = after.at.saturating_duration_since(before.at).as_secs_f64().max(1e-9);
        let proxy = self.process.as_ref().zip(before.cpu.as_ref().zip(after.cpu.as_ref()));
        let proxy_cpu = proxy.map(|(_, (from, to))| to.total.saturating_sub(from.total));
        let cpu = proxy.zip(proxy_cpu).map(|((process, (from, to)), used)| {
            let (name, busiest) = to.busiest_since(from);
            Cpu {
                pid: process.pid,
                us_per_request: us_a_request(used, came_in),
                cores_used: used.as_secs_f64() / seconds,
                cores_allowed: to.cores,
                busiest_thread: busiest.as_secs_f64() / seconds,
                busiest_thread_name: if name.starts_with(SHARD) { SHARD.into() } else { name },
            }
        });
        let key_manager = before
            .metrics
            .as_ref()
            .zip(after.metrics.as_ref())
            .and_then(|(from, to)| KeyManager::between(from, to, seconds));
        let own = before.own.as_ref().zip(after.own.as_ref());
        let own_cpu = own.map(|(from, to)| to.total.saturating_sub(from.total));
        // Without one of the two its time would be taken for that of others.
        let watched = proxy_cpu.zip(own_cpu).map(|(proxy, own)| proxy + own);
        Seen {
            server: Server { cpu, key_manager },
            own_cpu,
            own_busiest: own.map(|(from, to)| to.busiest_since(from).1.as_secs_f64() / seconds),
            machine: before
                .machine
                .zip(after.machine)
                .zip(watched)
                .map(|((from, to), watched)| to.since(from, watched)),
        }
    }
}

impl KeyManager {
    fn between(from: &Metrics, to: &Metrics, seconds: f64) -> Option<KeyManager> {
        let grown = |name: &str| to.sum(name, "") - from.sum(name, "");
        let jobs = grown("xksd_hsm_duration_seconds_count");
        if jobs <= 0.0 {
            return None;
        }
        let hsm = grown("xksd_hsm_duration_seconds_sum");
        let busy = hsm / seconds;
        let open = to.sum("xksd_sessions", "state=\"open\"") as u64;
        Some(KeyManager {
            queue_mean_us: grown("xksd_queue_duration_seconds_sum") / jobs * 1e6,
            hsm_mean_us: hsm / jobs * 1e6,
            sessions_busy: busy,
            sessions_open: open,
            sessions_needed: (open > 0).then(|| (busy / SESSION_USE).ceil().max(1.0) as u64),
        })
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

    #[test]
    fn sessions_follow_littles_law() {
        let at = |count: u32, sum: f64| {
            Metrics::parse(&format!(
                "xksd_hsm_duration_seconds_count{{operation=\"encrypt\"}} \
                 {count}\nxksd_hsm_duration_seconds_sum{{operation=\"encrypt\"}} {sum}\n\
                 xksd_queue_duration_seconds_sum \
                 0\nxksd_sessions{{key_manager=\"a\",state=\"open\"}} 16\n\
                 xksd_sessions{{key_manager=\"a\",state=\"busy\"}} 3\n"
            ))
        };
        let figures = KeyManager::between(&at(0, 0.0), &at(20_000, 40.0), 10.0).unwrap();
        assert_eq!(
            (figures.hsm_mean_us, figures.sessions_busy, figures.sessions_open),
            (2000.0, 4.0, 16)
        );
        assert_eq!(figures.sessions_needed, Some(6));
        assert_eq!(KeyManager::between(&at(5, 1.0), &at(5, 1.0), 1.0), None);
    }
}
