//! `/status`: the state of the service, for a person in a hurry and for scripts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, UNIX_EPOCH};

use serde::Serialize;

use super::key_manager_status::KeyManagerStatus;
use super::unsealing_status::UnsealingStatus;
use crate::config::{self, Config};
use crate::control::block_shown::BlockShown;
use crate::control::budgets::{Budgets, KeyName, Shown};
use crate::control::last_reload::LastReload;
use crate::control::state::State;
use crate::control::{instance, sharing};
use crate::fleet;
use crate::keystore::{Key, KeyStores, Version};
use crate::telemetry::log::Lost;
use crate::telemetry::metrics::{DenialKey, Latencies, RequestKey, Totals};
use crate::tls;

/// All that is known of the service.
#[derive(Debug, Serialize)]
pub struct Status {
    version: &'static str,
    ready: bool,
    unready_reason: Option<&'static str>,
    draining: bool,
    uptime_seconds: u64,
    config_file: PathBuf,
    config_last_reload: Reload,
    listen: SocketAddr,
    connections_a_shard_max: usize,
    shards: Vec<Shard>,
    key_managers: Vec<KeyManagerStatus>,
    /// Of kind `wrapped`.
    wrapped_key_managers: Vec<UnsealingStatus>,
    key_stores: Vec<KeyStore>,
    requests: Vec<Requests>,
    /// By operation.
    latency_us: BTreeMap<&'static str, Durations>,
    /// By reason.
    authentication_failures: BTreeMap<&'static str, u64>,
    /// By key store.
    quota_exceeded: BTreeMap<Arc<str>, u64>,
    policy_denials: Vec<Denials>,
    tls: Tls,
    blocks: Vec<BlockShown>,
    /// What this instance says of itself to others.
    instance: fleet::Summary,
    /// None without etcd.
    fleet: Option<fleet::status::Status>,
    /// None without one.
    audit: Option<Audit>,
    log: Log,
}

#[derive(Debug, Serialize)]
struct Audit {
    records: u64,
    records_missed: u64,
    writable: bool,
    /// Why it is not: records, or checkpoints only.
    unwritable_reason: Option<String>,
    /// Whether the last checkpoint got there: syslog, and each witness by name.
    checkpoint_sent: BTreeMap<String, bool>,
}

#[derive(Debug, Serialize)]
struct Log {
    lines_behind: u64,
    lines_unwritable: u64,
    /// Why the last line was not written; `None` when it was.
    write_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Reload {
    successful: bool,
    success_timestamp_seconds: f64,
    refused: Option<String>,
    waiting_for_restart: Vec<String>,
    failed: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Shard {
    connections_open: u64,
}

#[derive(Debug, Serialize)]
struct KeyStore {
    path_prefix: String,
    enabled: bool,
    key_managers: Vec<String>,
    access_key_ids: Vec<String>,
    keys: usize,
    /// The mode of its policies.
    policy: Option<&'static str>,
    /// Of every key; a key without versions in the configuration has the version 0.
    key_versions: Vec<KeyVersions>,
}

#[derive(Debug, Serialize)]
struct KeyVersions {
    key: String,
    versions: Vec<KeyVersion>,
}

#[derive(Debug, Serialize)]
struct KeyVersion {
    number: u16,
    label: String,
    state: &'static str,
    /// `None` where it is not counted: the version is destroyed.
    budget: Option<KeyBudget>,
}

/// How much of the invocation budget of a key is used on this instance.
#[derive(Debug, Serialize)]
struct KeyBudget {
    /// How often it has encrypted, at the most.
    used: u64,
    /// How often it may.
    share: u64,
    percent: f64,
    /// Since when it is counted.
    counted_since: String,
    /// Whether that is all since the version was promoted.
    since_promoted: bool,
}

#[derive(Debug, Serialize)]
struct Denials {
    key_store: Arc<str>,
    policy: Arc<str>,
    mode: &'static str,
    count: u64,
}

#[derive(Debug, Serialize)]
struct Requests {
    key_store: Arc<str>,
    operation: &'static str,
    error: &'static str,
    count: u64,
}

#[derive(Debug, Serialize)]
struct Durations {
    total: Percentiles,
    queue: Percentiles,
    hsm: Percentiles,
}

#[derive(Debug, Serialize)]
struct Percentiles {
    count: u64,
    p50: u64,
    p99: u64,
    #[serde(rename = "p99.9")]
    p99_9: u64,
    max: u64,
}

#[derive(Debug, Serialize)]
struct Tls {
    certificates: Vec<Certificate>,
    client_certificates: Option<ClientCertificates>,
    handshakes: u64,
    resumed: u64,
    /// By reason.
    failures: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct Certificate {
    subject: String,
    serial: String,
    not_after: String,
    not_after_timestamp_seconds: i64,
}

#[derive(Debug, Serialize)]
struct ClientCertificates {
    trust_anchors: PathBuf,
    subject_common_names: Vec<String>,
}

impl Status {
    /// As it is now.
    pub fn of(state: &State) -> Status {
        let now = Instant::now();
        let config = state.config.load();
        let Totals { requests, handshake_failures, handshakes, handshakes_resumed, .. } =
            Totals::of(&state.metrics);
        let blocks = state.blocks.in_force();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            ready: state.is_ready(),
            unready_reason: state.why_unready(),
            draining: state.draining.load(Ordering::Acquire),
            uptime_seconds: state.started.elapsed().as_secs(),
            config_file: absolute(&state.config_file),
            config_last_reload: Reload::of(&state.last_reload.load()),
            listen: *state.listening.get().unwrap_or(&config.server.listen),
            connections_a_shard_max: state.connections_a_shard,
            shards: state
                .metrics
                .iter()
                .map(|shard| Shard {
                    connections_open: shard.connections_open.load(Ordering::Relaxed),
                })
                .collect(),
            key_managers: KeyManagerStatus::of_all(state, &config, now),
            wrapped_key_managers: UnsealingStatus::of_all(state, now),
            key_stores: KeyStore::of_all(state, &config),
            requests: requests
                .answered
                .into_iter()
                .map(|(RequestKey { key_store, operation, error }, count)| Requests {
                    key_store,
                    operation,
                    error,
                    count,
                })
                .collect(),
            latency_us: requests
                .latencies
                .iter()
                .map(|(operation, latencies)| (*operation, Durations::of(latencies)))
                .collect(),
            authentication_failures: requests.unauthenticated,
            quota_exceeded: requests.quota_exceeded,
            policy_denials: requests
                .policy_denied
                .into_iter()
                .map(|(DenialKey { key_store, policy, mode }, count)| Denials {
                    key_store,
                    policy,
                    mode,
                    count,
                })
                .collect(),
            tls: Tls {
                certificates: state.tls.load().certificates().iter().map(Certificate::of).collect(),
                client_certificates: config.tls.client.as_ref().map(ClientCertificates::of),
                handshakes,
                resumed: handshakes_resumed,
                failures: handshake_failures,
            },
            blocks: blocks.iter().map(BlockShown::of).collect(),
            instance: instance::summary(state),
            fleet: state.fleet.get().and_then(|fleet| sharing::commands::known(fleet)),
            audit: Audit::of(state),
            log: Log::of(state.log.lost()),
        }
    }

    /// The JSON text, indented.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

impl Audit {
    fn of(state: &State) -> Option<Audit> {
        let trail = state.audit.trail()?;
        let unwritable_reason = trail.why_unwritable();
        Some(Audit {
            records: trail.size(),
            records_missed: trail.missed(),
            writable: unwritable_reason.is_none(),
            unwritable_reason,
            checkpoint_sent: state.audit.sent().into_iter().collect(),
        })
    }
}

impl Log {
    fn of(lost: &Lost) -> Log {
        Log {
            lines_behind: lost.behind(),
            lines_unwritable: lost.unwritable(),
            write_error: lost.error(),
        }
    }
}

impl Reload {
    fn of(last: &LastReload) -> Reload {
        let succeeded_at = last.succeeded_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Reload {
            successful: last.refused.is_none(),
            success_timestamp_seconds: succeeded_at.as_secs_f64(),
            refused: last.refused.clone(),
            waiting_for_restart: last.waiting_for_restart.clone(),
            failed: last.failed.clone(),
        }
    }
}

impl KeyStore {
    fn of_all(state: &State, config: &Config) -> Vec<KeyStore> {
        let served = state.stores.load();
        let of = |store| KeyStore::of(store, config, &served, &state.budgets);
        config.keystores.iter().map(of).collect()
    }

    fn of(
        store: &config::KeyStore,
        config: &Config,
        served: &KeyStores,
        budgets: &Budgets,
    ) -> KeyStore {
        let served = served.by_prefix.get(&store.path_prefix);
        let manager = served.and_then(|served| served.managers.first());
        let show = |version: &Version, managed: bool| {
            budgets.show(&manager?.name, &KeyName::of(&version.key, managed), config)
        };
        let managers = store.key_managers.iter().filter_map(|&i| config.key_managers.get(i));
        KeyStore {
            path_prefix: store.path_prefix.clone(),
            enabled: store.enabled,
            key_managers: managers.map(|manager| manager.name.clone()).collect(),
            access_key_ids: store.credentials.iter().map(|c| c.access_key_id.clone()).collect(),
            keys: store.keys.len(),
            key_versions: store
                .keys
                .iter()
                .filter_map(|key| Some(KeyVersions::of(&key.id, served?.keys.get(&key.id)?, show)))
                .collect(),
            policy: store.policy.as_ref().map(config::Policy::mode_name),
        }
    }
}

impl KeyVersions {
    fn of(id: &str, key: &Key, show: impl Fn(&Version, bool) -> Option<Shown>) -> KeyVersions {
        let one = |version: &Version| KeyVersion {
            number: version.key.version,
            label: version.key.label.to_string(),
            state: version.state.name(),
            budget: show(version, key.is_managed()).map(KeyBudget::of),
        };
        KeyVersions { key: id.to_owned(), versions: key.versions().iter().map(one).collect() }
    }
}

impl KeyBudget {
    fn of(shown: Shown) -> KeyBudget {
        KeyBudget {
            used: shown.used.encryptions,
            share: shown.share,
            // As a person reads it.
            percent: (shown.percent() * 1000.0).round() / 1000.0,
            counted_since: shown.counted_since_shown(),
            since_promoted: shown.used.since_promoted,
        }
    }
}

impl Durations {
    fn of(latencies: &Latencies) -> Durations {
        let percentiles = |histogram: &hdrhistogram::Histogram<u64>| Percentiles {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            p99_9: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        };
        Durations {
            total: percentiles(&latencies.total),
            queue: percentiles(&latencies.queue),
            hsm: percentiles(&latencies.hsm),
        }
    }
}

impl Certificate {
    fn of(certificate: &tls::Certificate) -> Certificate {
        Certificate {
            subject: certificate.subject.clone(),
            serial: certificate.serial.clone(),
            not_after: certificate.not_after_shown(),
            not_after_timestamp_seconds: certificate.not_after.unix_timestamp(),
        }
    }
}

impl ClientCertificates {
    fn of(client: &config::TlsClient) -> ClientCertificates {
        ClientCertificates {
            trust_anchors: client.trust_anchors.clone(),
            subject_common_names: client.subject_common_names.clone(),
        }
    }
}
