//! The observer: readings of processes, metrics and the machine, and what came of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cpu::{Cpu, us_a_request};
use super::key_manager::KeyManager;
use super::metrics::{self, Metrics};
use super::process::{self, CpuTimes, Machine, MachineTimes, Process};
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
pub struct Observation {
    /// Of the proxy.
    pub proxy: Proxy,
    /// CPU time of this tool, where it can be read.
    pub own_cpu: Option<Duration>,
    /// The share of the time that the busiest thread of this tool ran, where it can be read.
    pub own_busiest: Option<f64>,
    /// This machine's cores, where the proxy runs on it too.
    pub machine: Option<Machine>,
}

/// Figures of the proxy over the measured time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Proxy {
    /// Its process, where it runs on this machine.
    pub cpu: Option<Cpu>,
    /// What its metrics tell, where it is xksd.
    pub key_manager: Option<KeyManager>,
}

/// How the names of xksd's shard threads begin.
const SHARD: &str = "xksd-shard";

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
    pub fn between(&self, from: usize, to: usize, came_in: u64) -> Observation {
        let (Some(before), Some(after)) = (self.marks.get(from), self.marks.get(to)) else {
            return Observation::default();
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
        Observation {
            proxy: Proxy { cpu, key_manager },
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
