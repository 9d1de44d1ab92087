//! What kept a run from more.

use serde::{Deserialize, Serialize};

use super::FULL;
use super::cpu::Cpu;
use super::key_manager::KeyManager;
use super::observer::Observation;

/// What kept a run from more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bottleneck {
    /// Neither proxy nor tool: something else has most of the CPU of the machine that they share.
    OtherProcesses,
    /// The HSM, or the number of sessions with it.
    Hsm,
    /// The HSM, while sessions with it are free: its calls take longer the more it is asked.
    HsmUnits,
    /// CPU of the proxy.
    ProxyCpu,
    /// CPU of the load balancer before it.
    BalancerCpu,
    /// Proxy and tool share a machine whose cores are full.
    Machine,
    /// This tool: its figures are too low for the proxy.
    Generator,
    /// The proxy refuses by rule.
    Throttling,
    /// All connections wait for answers all the time.
    Connections,
    /// Nothing that can be seen from here.
    Unknown,
}

/// Of the time that full cores are busy: from this share on neither proxy nor tool can be judged by
/// what came of them.
const OTHERS: f64 = 0.5;
/// While all connections wait for answers, cores are the limit from this share of the time on: more
/// connections would wait for them too.
const NEARLY_FULL: f64 = 0.8;
/// Requests handed out later than this (p99), microseconds: the tool is not the observer any more.
const LAG_US: u64 = 20_000;

/// What the load generator knows of itself.
pub struct GeneratorLoad {
    /// How late requests were handed to connections (p99), microseconds.
    pub lag_p99_us: u64,
    /// Share of the connections that waited for answers, on average.
    pub connections_busy: f64,
    /// Whether the proxy has refused requests for their number.
    pub throttled: bool,
}

impl Bottleneck {
    /// The first that applies: what is in the way of all of them, then from the HSM outwards, since
    /// what lies further out is full only because of what lies further in.
    pub fn judge(seen: &Observation, generator: &GeneratorLoad) -> Bottleneck {
        let cores_busy = |share| seen.machine.is_some_and(|machine| machine.busy >= share);
        if cores_busy(FULL) && seen.machine.is_some_and(|machine| machine.others >= OTHERS) {
            Bottleneck::OtherProcesses
        } else if seen.proxy.key_manager.as_ref().is_some_and(KeyManager::is_full) {
            Bottleneck::Hsm
        } else if seen.proxy.cpu.as_ref().is_some_and(Cpu::is_full) {
            Bottleneck::ProxyCpu
        } else if seen.balancer.as_ref().is_some_and(Cpu::is_full) {
            Bottleneck::BalancerCpu
        } else if cores_busy(FULL) {
            Bottleneck::Machine
        } else if seen.own_busiest.is_some_and(|busiest| busiest >= FULL)
            || generator.lag_p99_us > LAG_US
        {
            Bottleneck::Generator
        } else if generator.throttled {
            Bottleneck::Throttling
        } else if generator.connections_busy >= FULL {
            if cores_busy(NEARLY_FULL) { Bottleneck::Machine } else { Bottleneck::Connections }
        } else {
            Bottleneck::Unknown
        }
    }

    /// In a few words, behind "limited by".
    pub fn name(self) -> &'static str {
        match self {
            Bottleneck::OtherProcesses => "other processes on this machine",
            Bottleneck::Hsm => "the HSM's sessions",
            Bottleneck::HsmUnits => "the HSM itself",
            Bottleneck::ProxyCpu => "CPU of the proxy",
            Bottleneck::BalancerCpu => "CPU of the load balancer",
            Bottleneck::Machine => "CPU of the machine that proxy and load generator share",
            Bottleneck::Generator => "the load generator",
            Bottleneck::Throttling => "throttling by the proxy",
            Bottleneck::Connections => "the number of connections",
            Bottleneck::Unknown => "nothing that can be seen from the load generator",
        }
    }

    /// The same with its reason, and what to do.
    pub fn text(self) -> &'static str {
        match self {
            Bottleneck::OtherProcesses => {
                "neither proxy nor tool: other processes, or other machines on the same hardware, \
                 have most of the CPU of this machine; stop them, or measure elsewhere"
            }
            Bottleneck::Hsm => {
                "the HSM: its sessions are in use all the time, or requests wait for one longer \
                 than they take"
            }
            Bottleneck::HsmUnits => {
                "the HSM itself: its calls take twice as long as at lower load while sessions are \
                 free; more of them do not help"
            }
            Bottleneck::ProxyCpu => {
                "CPU of the proxy: its busiest thread or all its cores are full"
            }
            Bottleneck::BalancerCpu => {
                "CPU of the load balancer: its busiest thread or all its cores are full"
            }
            Bottleneck::Machine => {
                "CPU of this machine, which proxy and tool share: run the tool elsewhere"
            }
            Bottleneck::Generator => {
                "this tool's own CPU: give it more --workers on their own cores"
            }
            Bottleneck::Throttling => {
                "throttling: the proxy refuses requests before CPU or sessions are used up"
            }
            Bottleneck::Connections => {
                "the number of connections: all wait for answers all the time; try more \
                 --connections"
            }
            Bottleneck::Unknown => {
                "nothing that can be seen from here: the network, or an HSM whose times the proxy \
                 does not report"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::observer::Proxy;
    use crate::observe::process::Machine;

    fn seen(busiest: f64, sessions_busy: f64, own_busiest: f64, machine: f64) -> Observation {
        let cpu = Cpu {
            busiest_thread: busiest,
            cores_used: busiest,
            cores_allowed: 4,
            ..Cpu::default()
        };
        let key_manager = KeyManager {
            sessions_busy,
            sessions_open: 16,
            hsm_mean_us: 2000.0,
            ..KeyManager::default()
        };
        let proxy = Proxy { cpu: Some(cpu), key_manager: Some(key_manager) };
        let machine = Some(Machine { busy: machine, others: 0.1 });
        Observation { proxy, own_busiest: Some(own_busiest), machine, ..Observation::default() }
    }

    const QUIET: GeneratorLoad =
        GeneratorLoad { lag_p99_us: 100, connections_busy: 0.2, throttled: false };

    #[test]
    fn what_bounds_a_run() {
        let judge =
            |seen: Observation, generator: GeneratorLoad| Bottleneck::judge(&seen, &generator);
        assert_eq!(
            judge(seen(0.97, 15.0, 0.95, 1.0), GeneratorLoad { throttled: true, ..QUIET }),
            Bottleneck::Hsm,
            "the innermost"
        );
        assert_eq!(judge(seen(0.97, 1.0, 0.5, 0.8), QUIET), Bottleneck::ProxyCpu);
        let balancer = Some(Cpu { busiest_thread: 0.97, cores_allowed: 4, ..Cpu::default() });
        assert_eq!(
            judge(Observation { balancer, ..seen(0.8, 1.0, 0.95, 0.9) }, QUIET),
            Bottleneck::BalancerCpu
        );
        assert_eq!(judge(seen(0.8, 1.0, 0.8, 0.9), QUIET), Bottleneck::Machine);
        assert_eq!(judge(seen(0.8, 1.0, 0.8, 0.89), QUIET), Bottleneck::Unknown);
        assert_eq!(judge(seen(0.4, 1.0, 0.95, 0.8), QUIET), Bottleneck::Generator);
        assert_eq!(
            judge(seen(0.4, 1.0, 0.3, 0.4), GeneratorLoad { lag_p99_us: 50_000, ..QUIET }),
            Bottleneck::Generator
        );
        assert_eq!(
            judge(
                seen(0.4, 1.0, 0.3, 0.4),
                GeneratorLoad { throttled: true, connections_busy: 1.0, ..QUIET }
            ),
            Bottleneck::Throttling
        );
        assert_eq!(
            judge(seen(0.4, 1.0, 0.3, 0.4), GeneratorLoad { connections_busy: 0.99, ..QUIET }),
            Bottleneck::Connections
        );
        assert_eq!(
            judge(seen(0.4, 1.0, 0.3, 0.79), GeneratorLoad { connections_busy: 0.99, ..QUIET }),
            Bottleneck::Connections
        );
        assert_eq!(
            judge(seen(0.4, 1.0, 0.3, 0.8), GeneratorLoad { connections_busy: 0.99, ..QUIET }),
            Bottleneck::Machine,
            "they wait for the cores"
        );
        assert_eq!(judge(seen(0.4, 1.0, 0.3, 0.4), QUIET), Bottleneck::Unknown);
        assert_eq!(judge(Observation::default(), QUIET), Bottleneck::Unknown);
    }

    #[test]
    fn others_that_have_most_of_the_cpu_are_told_before_everything_else() {
        let beside = |busy, others| {
            Bottleneck::judge(
                &Observation {
                    machine: Some(Machine { busy, others }),
                    ..seen(0.97, 16.0, 0.95, 0.0)
                },
                &QUIET,
            )
        };
        assert_eq!(beside(0.9, 0.5), Bottleneck::OtherProcesses);
        assert_eq!((beside(0.89, 0.9), beside(1.0, 0.49)), (Bottleneck::Hsm, Bottleneck::Hsm));
    }
}
