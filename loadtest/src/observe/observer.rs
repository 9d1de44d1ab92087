//! The observer: readings of processes, metrics and the machine, and what came of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cpu::Cpu;
use super::key_manager::KeyManager;
use super::metrics::{self, Metrics};
use super::process::{self, CpuTimes, Machine, MachineTimes, Process};
use crate::target::Target;

/// Watches a proxy, the load balancer before it, this tool and the machine over stretches of time.
pub struct Observer {
    proxy: Option<Process>,
    balancer: Option<Process>,
    own: Process,
    admin: Vec<SocketAddr>,
    samples: Vec<Sample>,
}

struct Sample {
    at: Instant,
    proxy: Option<CpuTimes>,
    balancer: Option<CpuTimes>,
    own: Option<CpuTimes>,
    machine: Option<MachineTimes>,
    metrics: Option<Metrics>,
}

/// What was seen of a stretch of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// Of the proxy.
    pub proxy: Proxy,
    /// CPU of the load balancer, where one was named and its process can be seen.
    pub balancer: Option<Cpu>,
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
    /// What its metrics tell, if it is xksd.
    pub key_manager: Option<KeyManager>,
}

impl Observer {
    /// Finds what can be watched.
    ///
    /// # Errors
    /// When a process that was named is not there.
    pub fn new(target: &Target) -> Result<Observer, String> {
        let proxy = match target.proxy_pids.as_slice() {
            [] => target.proxy_listen.and_then(Process::listening_on),
            pids => Some(Process::of(pids)?),
        };
        let balancer = match &target.balancer {
            None => None,
            Some(balancer) => match balancer.pid {
                Some(pid) => Some(Process::of(&[pid])?),
                None => balancer.listen.and_then(Process::listening_on),
            },
        };
        Ok(Observer {
            proxy,
            balancer,
            own: Process::own(),
            admin: target.admin.clone(),
            samples: Vec::new(),
        })
    }

    /// Memory of the proxy's process now, bytes.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.proxy.as_ref()?.resident_bytes()
    }

    /// Takes a sample: a stretch of time ends and another begins.
    pub fn sample(&mut self) {
        self.samples.push(Sample {
            at: Instant::now(),
            proxy: self.proxy.as_ref().and_then(Process::times),
            balancer: self.balancer.as_ref().and_then(Process::times),
            own: self.own.times(),
            machine: self.proxy.as_ref().and_then(|_| process::machine_times()),
            metrics: metrics::scrape_all(&self.admin).ok(),
        });
    }

    /// What was seen from one sample to another, in the order in which they were taken; `came_in`
    /// is how many right answers came in meanwhile.
    pub fn between(&self, from: usize, to: usize, came_in: u64) -> Observation {
        let (Some(before), Some(after)) = (self.samples.get(from), self.samples.get(to)) else {
            return Observation::default();
        };
        let seconds = after.at.saturating_duration_since(before.at).as_secs_f64().max(1e-9);
        let cpu = |process: &Option<Process>, from: &Option<CpuTimes>, to: &Option<CpuTimes>| {
            let times = from.as_ref().zip(to.as_ref())?;
            Some(Cpu::between(process.as_ref()?, times, seconds, came_in))
        };
        let key_manager = before
            .metrics
            .as_ref()
            .zip(after.metrics.as_ref())
            .and_then(|(from, to)| KeyManager::between(from, to, seconds));
        let own = before.own.as_ref().zip(after.own.as_ref());
        Observation {
            proxy: Proxy { cpu: cpu(&self.proxy, &before.proxy, &after.proxy), key_manager },
            balancer: cpu(&self.balancer, &before.balancer, &after.balancer),
            own_cpu: own.map(|(from, to)| to.total.saturating_sub(from.total)),
            own_busiest: own.map(|(from, to)| to.busiest_since(from).1.as_secs_f64() / seconds),
            machine: self.machine(before, after),
        }
    }

    /// What the machine's cores did; `None` where proxy or tool cannot be seen: its time would be
    /// taken for that of others.
    fn machine(&self, before: &Sample, after: &Sample) -> Option<Machine> {
        let used = |from: &Option<CpuTimes>, to: &Option<CpuTimes>| {
            let (from, to) = from.as_ref().zip(to.as_ref())?;
            Some(to.total.saturating_sub(from.total))
        };
        let watched = used(&before.proxy, &after.proxy)?
            + used(&before.own, &after.own)?
            + used(&before.balancer, &after.balancer).unwrap_or_default();
        Some(after.machine?.since(before.machine?, watched))
    }
}
