//! What kept a run from more.

use serde::{Deserialize, Serialize};

use super::{Cpu, KeyManager, Seen};

/// What kept a run from more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Neither proxy nor tool: something else has most of the CPU of the machine that they share.
    OtherProcesses,
    /// The HSM, or the number of sessions with it.
    Hsm,
    /// The HSM, while sessions with it are free: its calls take longer the more it is asked.
    HsmUnits,
    /// CPU of the proxy.
    ProxyCpu,
    /// Proxy and tool share a machine whose cores are full.
    Machine,
    /// This tool: its figures are too low for the proxy.
    Client,
    /// The proxy refuses by rule.
    Throttling,
    /// All connections wait for answers all the time.
    Connections,
    /// Nothing that can be seen from here.
    Unknown,
}

/// Sessions, a thread or cores are full from this share of the time on; the rest is lost to
/// measuring and to others on the machine.
const FULL: f64 = 0.9;
/// Of the time that full cores are busy: from this share on neither proxy nor tool can be judged by
/// what came of them.
const OTHERS: f64 = 0.5;
/// While all connections wait for answers, cores are the limit from this share of the time on: more
/// connections would wait for them too.
const NEARLY_FULL: f64 = 0.8;
/// A request may wait for a session this long, microseconds, even where calls are quicker, before
/// the wait counts as the limit.
const SESSION_WAIT_US: f64 = 1_000.0;
/// Requests handed out later than this (p99), microseconds: the tool is not the observer any more.
const LAG_US: u64 = 20_000;

/// What the tool knows of itself.
pub struct Client {
    /// How late requests were handed to connections (p99), microseconds.
    pub lag_p99_us: u64,
    /// Share of the connections that waited for answers, on average.
    pub connections_busy: f64,
    /// Whether the proxy has refused requests for their number.
    pub throttled: bool,
}

impl Bound {
    /// The first that applies: what is in the way of all of them, then from the HSM outwards, since
    /// what lies further out is full only because of what lies further in.
    pub fn judge(seen: &Seen, client: &Client) -> Bound {
        let cores_busy = |share| seen.machine.is_some_and(|machine| machine.busy >= share);
        if cores_busy(FULL) && seen.machine.is_some_and(|machine| machine.others >= OTHERS) {
            Bound::OtherProcesses
        } else if seen.server.key_manager.as_ref().is_some_and(KeyManager::is_full) {
            Bound::Hsm
        } else if seen.server.cpu.as_ref().is_some_and(Cpu::is_full) {
            Bound::ProxyCpu
        } else if cores_busy(FULL) {
            Bound::Machine
        } else if seen.own_busiest.is_some_and(|busiest| busiest >= FULL)
            || client.lag_p99_us > LAG_US
        {
            Bound::Client
        } else if client.throttled {
            Bound::Throttling
        } else if client.connections_busy >= FULL {
            if cores_busy(NEARLY_FULL) { Bound::Machine } else { Bound::Connections }
        } else {
            Bound::Unknown
        }
    }

    /// For a person.
    pub fn text(self) -> &'static str {
        match self {
            Bound::OtherProcesses => {
                "neither proxy nor tool: other processes, or other machines on the same hardware, \
                 have most of the CPU of this machine; stop them, or measure elsewhere"
            }
            Bound::Hsm => {
                "the HSM: its sessions are in use all the time, or requests wait for one longer \
                 than they take"
            }
            Bound::HsmUnits => {
                "the HSM itself: its calls take twice as long as at lower load while sessions are \
                 free; more of them do not help"
            }
            Bound::ProxyCpu => "CPU of the proxy: its busiest thread or all its cores are full",
            Bound::Machine => {
                "CPU of this machine, which proxy and tool share: run the tool elsewhere"
            }
            Bound::Client => "this tool's own CPU: give it more --workers on cores of their own",
            Bound::Throttling => {
                "throttling: the proxy refuses requests before CPU or sessions are used up"
            }
            Bound::Connections => {
                "the number of connections: all wait for answers all the time; try more \
                 --connections"
            }
            Bound::Unknown => {
                "nothing that can be seen from here: the network, or an HSM whose times the proxy \
                 does not tell"
            }
        }
    }
}

impl KeyManager {
    /// Whether the sessions are what requests wait for.
    pub fn is_full(&self) -> bool {
        let open = self.sessions_open as f64;
        open > 0.0
            && (self.sessions_busy >= FULL * open
                || self.queue_mean_us > self.hsm_mean_us.max(SESSION_WAIT_US))
    }
}

impl Cpu {
    fn is_full(&self) -> bool {
        self.busiest_thread >= FULL || self.cores_used >= FULL * self.cores_allowed.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Server;
    use crate::observe::process::Machine;

    fn seen(busiest: f64, sessions_busy: f64, own_busiest: f64, machine: f64) -> Seen {
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
        let server = Server { cpu: Some(cpu), key_manager: Some(key_manager) };
        let machine = Some(Machine { busy: machine, others: 0.1 });
        Seen { server, own_busiest: Some(own_busiest), machine, ..Seen::default() }
    }

    const QUIET: Client = Client { lag_p99_us: 100, connections_busy: 0.2, throttled: false };

    #[test]
    fn what_bounds_a_run() {
        let judge = |seen: Seen, client: Client| Bound::judge(&seen, &client);
        assert_eq!(
            judge(seen(0.97, 15.0, 0.95, 1.0), Client { throttled: true, ..QUIET }),
            Bound::Hsm,
            "the innermost"
        );
        assert_eq!(judge(seen(0.97, 1.0, 0.5, 0.8), QUIET), Bound::ProxyCpu);
        assert_eq!(judge(seen(0.8, 1.0, 0.8, 0.9), QUIET), Bound::Machine);
        assert_eq!(judge(seen(0.8, 1.0, 0.8, 0.89), QUIET), Bound::Unknown);
        assert_eq!(judge(seen(0.4, 1.0, 0.95, 0.8), QUIET), Bound::Client);
        assert_eq!(
            judge(seen(0.4, 1.0, 0.3, 0.4), Client { lag_p99_us: 50_000, ..QUIET }),
            Bound::Client
        );
        assert_eq!(
            judge(
                seen(0.4, 1.0, 0.3, 0.4),
                Client { throttled: true, connections_busy: 1.0, ..QUIET }
            ),
            Bound::Throttling
        );
        assert_eq!(
            judge(seen(0.4, 1.0, 0.3, 0.4), Client { connections_busy: 0.99, ..QUIET }),
            Bound::Connections
        );
        assert_eq!(
            judge(seen(0.4, 1.0, 0.3, 0.79), Client { connections_busy: 0.99, ..QUIET }),
            Bound::Connections
        );
        assert_eq!(
            judge(seen(0.4, 1.0, 0.3, 0.8), Client { connections_busy: 0.99, ..QUIET }),
            Bound::Machine,
            "they wait for the cores"
        );
        assert_eq!(judge(seen(0.4, 1.0, 0.3, 0.4), QUIET), Bound::Unknown);
        assert_eq!(judge(Seen::default(), QUIET), Bound::Unknown);
    }

    #[test]
    fn others_that_have_most_of_the_cpu_are_told_before_everything_else() {
        let beside = |busy, others| {
            Bound::judge(
                &Seen { machine: Some(Machine { busy, others }), ..seen(0.97, 16.0, 0.95, 0.0) },
                &QUIET,
            )
        };
        assert_eq!(beside(0.9, 0.5), Bound::OtherProcesses);
        assert_eq!((beside(0.89, 0.9), beside(1.0, 0.49)), (Bound::Hsm, Bound::Hsm));
    }

    #[test]
    fn sessions_are_the_limit_when_they_are_in_use_or_waited_for() {
        let full = |sessions_busy: f64, queue_mean_us: f64, hsm_mean_us: f64| {
            KeyManager {
                sessions_busy,
                queue_mean_us,
                hsm_mean_us,
                sessions_open: 10,
                ..KeyManager::default()
            }
            .is_full()
        };
        assert!(full(9.0, 0.0, 2000.0) && !full(8.9, 0.0, 2000.0));
        assert!(full(5.0, 2001.0, 2000.0) && !full(5.0, 2000.0, 2000.0));
        assert!(!full(5.0, 900.0, 20.0), "a short wait for quick calls");
        assert!(
            !KeyManager { queue_mean_us: 1e6, ..KeyManager::default() }.is_full(),
            "keys in the proxy have no sessions"
        );
    }
}
