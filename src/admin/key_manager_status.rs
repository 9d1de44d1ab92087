//! What `/status` shows of a key manager.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde::Serialize;

use crate::api::response::health_status;
use crate::config::Config;
use crate::control::state::State;
use crate::key_manager::{ProbeKey, RefusedKey};
use crate::keystore::{self, KeyManager};
use crate::sched::PoolStats;

/// One key manager, as it is now.
#[derive(Debug, Serialize)]
pub struct KeyManagerStatus {
    name: Arc<str>,
    health: &'static str,
    health_reason: Option<String>,
    key_failures: KeyFailures,
    /// Which token is wanted: of one that was never reached, nothing else is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    configured_token: Option<String>,
    #[serde(flatten)]
    probe: Option<Probe>,
    #[serde(flatten)]
    pool: Option<Pool>,
}

#[derive(Debug, Serialize)]
struct KeyFailures {
    cannot_serve: usize,
    different: usize,
    refused: Vec<Refused>,
}

#[derive(Debug, Serialize)]
struct Refused {
    label: Arc<str>,
    why: String,
    since_ms: u64,
}

/// What the last probe found.
#[derive(Debug, Serialize)]
struct Probe {
    vendor: String,
    model: String,
    token: String,
    serial: String,
    versions: String,
    probe_age_ms: u64,
    library_initializations: u64,
    restart_needed: Option<String>,
    #[serde(flatten)]
    result: ProbeResult,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum ProbeResult {
    Passed { probe_us: u64, probe_key: &'static str },
    Failed { probe_error: String },
}

/// Of a key manager that has sessions.
#[derive(Debug, Serialize)]
struct Pool {
    sessions: Sessions,
    queued: Vec<usize>,
    last_fault: Option<String>,
    last_fault_age_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Sessions {
    configured: usize,
    open: usize,
    busy: usize,
    hung: usize,
    reopened: u64,
    abandoned: u64,
}

fn age_ms(at: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(at).as_millis() as u64
}

impl KeyManagerStatus {
    pub(super) fn of_all(state: &State, config: &Config, now: Instant) -> Vec<Self> {
        state.managers.load().iter().map(|manager| Self::of(manager, config, now)).collect()
    }

    fn of(manager: &KeyManager, config: &Config, now: Instant) -> Self {
        let mut configured = config.key_managers.iter();
        let configured = configured.find(|configured| configured.name == *manager.name);
        let refused = manager.refused_keys();
        Self {
            name: manager.name.clone(),
            health: health_status(manager.health(now)),
            health_reason: manager.health_reason(now),
            key_failures: KeyFailures {
                cannot_serve: manager.keys.cannot_serve.load(Ordering::Relaxed),
                different: manager.keys.different.load(Ordering::Relaxed),
                refused: refused.into_iter().map(|key| Refused::of(key, now)).collect(),
            },
            configured_token: configured
                .and_then(|configured| configured.kind.token())
                .map(|token| token.to_string()),
            probe: manager.probe.load().as_deref().map(|probe| Probe::of(probe, now)),
            pool: manager.sessions().map(|stats| Pool::of(stats, now)),
        }
    }
}

impl Refused {
    fn of(key: RefusedKey, now: Instant) -> Refused {
        Refused { label: key.label, why: key.why, since_ms: age_ms(key.since, now) }
    }
}

impl Probe {
    fn of(probe: &keystore::Probe, now: Instant) -> Probe {
        let info = probe.info.clone();
        Probe {
            vendor: info.vendor,
            model: info.model,
            token: info.token,
            serial: info.serial,
            versions: info.versions,
            probe_age_ms: age_ms(probe.at, now),
            library_initializations: info.library.initializations,
            restart_needed: info.library.stuck.map(|stuck| stuck.why),
            result: match &probe.result {
                Ok((time, key)) => ProbeResult::Passed {
                    probe_us: time.as_micros() as u64,
                    probe_key: match key {
                        ProbeKey::Own => "own",
                        ProbeKey::InUse => "in use",
                        ProbeKey::None => "none",
                    },
                },
                Err(why) => ProbeResult::Failed { probe_error: why.clone() },
            },
        }
    }
}

impl Pool {
    fn of(stats: PoolStats, now: Instant) -> Pool {
        Pool {
            sessions: Sessions {
                configured: stats.lanes_configured,
                open: stats.lanes_open,
                busy: stats.lanes_busy,
                hung: stats.lanes_hung,
                reopened: stats.sessions_reopened_total,
                abandoned: stats.abandoned_total,
            },
            queued: stats.queued,
            last_fault: stats.last_fault,
            last_fault_age_ms: stats.last_fault_at.map(|at| age_ms(at, now)),
        }
    }
}
