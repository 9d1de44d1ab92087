//! What can be seen of the proxy from outside while it is loaded: CPU time of its process, and what xksd's `/metrics` tell.

pub mod metrics;
pub mod process;

use std::net::SocketAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use self::metrics::Metrics;
use self::process::{CpuTimes, Process};
use crate::target::Target;

/// Watches a proxy over a stretch of time.
pub struct Observer {
    process: Option<Process>,
    admin: Option<SocketAddr>,
    before: Option<Sample>,
}

struct Sample {
    at: Instant,
    cpu: Option<CpuTimes>,
    metrics: Option<Metrics>,
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
    /// CPU time for each right answer, microseconds, of all threads; the HSM's library is among them.
    pub us_per_request: f64,
    /// Cores' worth of CPU time used.
    pub cores_used: f64,
    /// Cores it may use.
    pub cores_allowed: usize,
    /// The share of the time that its busiest thread ran.
    pub busiest_thread: f64,
    /// That thread's name.
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
    /// Sessions this load needs, so that each is in use for 70 % of the time.
    pub sessions_needed: u64,
}

/// Share of the time that a session should be in use at most: above it, waits grow out of proportion.
const SESSION_USE: f64 = 0.7;

impl Observer {
    /// Finds what can be watched.
    pub fn new(target: &Target) -> Observer {
        Observer { process: Process::find(target.pid, target.address), admin: target.admin, before: None }
    }

    fn sample(&self) -> Sample {
        Sample {
            at: Instant::now(),
            cpu: self.process.as_ref().and_then(Process::times),
            metrics: self.admin.and_then(|admin| metrics::scrape(admin).ok()),
        }
    }

    /// Memory of the proxy's process now, bytes.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.process.as_ref()?.resident_bytes()
    }

    /// The measured time begins.
    pub fn begin(&mut self) {
        self.before = Some(self.sample());
    }

    /// The measured time is over.
    pub fn end(&mut self, right_answers: impl FnOnce() -> u64) -> Server {
        let after = self.sample();
        let Some(before) = self.before.take() else { return Server::default() };
        let seconds = after.at.saturating_duration_since(before.at).as_secs_f64().max(1e-9);
        let right = right_answers();
        let cpu = self.process.as_ref().zip(before.cpu.zip(after.cpu)).map(|(process, (from, to))| {
            let used = to.total.saturating_sub(from.total).as_secs_f64();
            let (name, busiest) = to.busiest_since(&from);
            Cpu {
                pid: process.pid,
                us_per_request: if right == 0 { 0.0 } else { used * 1e6 / right as f64 },
                cores_used: used / seconds,
                cores_allowed: to.cores,
                busiest_thread: busiest.as_secs_f64() / seconds,
                busiest_thread_name: name,
            }
        });
        let key_manager = before.metrics.zip(after.metrics).and_then(|(from, to)| KeyManager::between(&from, &to, seconds));
        Server { cpu, key_manager }
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
            sessions_needed: if open == 0 { 0 } else { (busy / SESSION_USE).ceil().max(1.0) as u64 },
        })
    }
}

/// What kept a run from more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This tool: its figures are too low for the proxy.
    Client,
    /// CPU of the proxy.
    ProxyCpu,
    /// The HSM, or the number of sessions with it.
    Hsm,
    /// The proxy refuses by rule.
    Throttling,
    /// Nothing that can be seen from here.
    Unknown,
}

impl Bound {
    /// The first that applies, the most certain first.
    pub fn judge(client_busiest: f64, lag_p99_us: u64, throttled: bool, server: &Server) -> Bound {
        let hsm = server.key_manager.as_ref().is_some_and(|k| {
            k.sessions_open > 0 && (k.sessions_busy >= 0.9 * k.sessions_open as f64 || k.queue_mean_us > k.hsm_mean_us.max(1000.0))
        });
        let proxy = server.cpu.as_ref().is_some_and(|c| c.busiest_thread >= 0.9 || c.cores_used >= 0.9 * c.cores_allowed.max(1) as f64);
        // A client that is late is itself the limit, unless the proxy is visibly at its own as well: then both share a machine.
        if hsm {
            Bound::Hsm
        } else if proxy {
            Bound::ProxyCpu
        } else if client_busiest >= 0.95 || lag_p99_us > 20_000 {
            Bound::Client
        } else if throttled {
            Bound::Throttling
        } else {
            Bound::Unknown
        }
    }

    /// For a person.
    pub fn text(self) -> &'static str {
        match self {
            Bound::Client => "this tool's own CPU: give it more --workers on cores of their own",
            Bound::ProxyCpu => "CPU of the proxy: a shard's core is full",
            Bound::Hsm => "the HSM: its sessions are in use all the time, or requests wait for one longer than they take",
            Bound::Throttling => "throttling: the proxy refuses requests before CPU or sessions are used up",
            Bound::Unknown => "nothing that can be seen from here: the network, or an HSM whose times the proxy does not tell",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(busiest: f64, busy: f64, open: u64) -> Server {
        Server {
            cpu: Some(Cpu { busiest_thread: busiest, cores_used: busiest, cores_allowed: 4, ..Cpu::default() }),
            key_manager: Some(KeyManager { sessions_busy: busy, sessions_open: open, hsm_mean_us: 2000.0, ..KeyManager::default() }),
        }
    }

    #[test]
    fn what_bounds_a_run() {
        assert_eq!(Bound::judge(0.5, 100, false, &server(0.97, 1.0, 16)), Bound::ProxyCpu);
        assert_eq!(Bound::judge(0.5, 100, false, &server(0.4, 15.0, 16)), Bound::Hsm);
        assert_eq!(Bound::judge(0.99, 100, false, &server(0.4, 1.0, 16)), Bound::Client);
        assert_eq!(Bound::judge(0.1, 50_000, false, &Server::default()), Bound::Client);
        assert_eq!(Bound::judge(0.1, 100, true, &Server::default()), Bound::Throttling);
        assert_eq!(Bound::judge(0.1, 100, false, &server(0.4, 1.0, 16)), Bound::Unknown);
    }

    #[test]
    fn sessions_follow_littles_law() {
        let at = |count: u32, sum: f64| {
            Metrics::parse(&format!(
                "xksd_hsm_duration_seconds_count{{operation=\"encrypt\"}} {count}\nxksd_hsm_duration_seconds_sum{{operation=\"encrypt\"}} {sum}\n\
                 xksd_queue_duration_seconds_sum 0\nxksd_sessions{{key_manager=\"a\",state=\"open\"}} 16\n\
                 xksd_sessions{{key_manager=\"a\",state=\"busy\"}} 3\n"
            ))
        };
        let figures = KeyManager::between(&at(0, 0.0), &at(20_000, 40.0), 10.0).unwrap();
        assert_eq!((figures.hsm_mean_us, figures.sessions_busy, figures.sessions_open), (2000.0, 4.0, 16));
        assert_eq!(figures.sessions_needed, 6);
        assert_eq!(KeyManager::between(&at(5, 1.0), &at(5, 1.0), 1.0), None);
    }
}
