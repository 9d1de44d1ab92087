//! `/status`: the state of the service as JSON, for a person in a hurry and for scripts.

use std::sync::atomic::Ordering;
use std::time::{Instant, UNIX_EPOCH};

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::api::response::health_status;
use crate::config::Config;
use crate::control::commands;
use crate::control::state::State;
use crate::key_manager::ProbeKey;
use crate::keystore::KeyManager;
use crate::telemetry::metrics::{Latencies, Totals};
use crate::tls::Certificate;

/// The JSON text, indented.
pub fn json(state: &State) -> String {
    let mut text = serde_json::to_string_pretty(&value(state)).unwrap_or_default();
    text.push('\n');
    text
}

/// All that is known of the service.
pub fn value(state: &State) -> Value {
    let now = Instant::now();
    let totals = Totals::of(&state.metrics);
    let config = state.config.load();
    let reload = state.last_reload.load();
    let requests: Vec<Value> = totals
        .requests
        .answered
        .iter()
        .map(|(key, count)| json!({"keystore": &*key.key_store, "operation": key.operation, "error": key.error, "count": count}))
        .collect();
    let latencies: serde_json::Map<String, Value> = totals
        .requests
        .latencies
        .iter()
        .map(|(operation, latencies)| (operation.to_string(), percentiles(latencies)))
        .collect();
    let stores: Vec<Value> = config
        .keystores
        .iter()
        .map(|store| {
            json!({
                "path_prefix": store.path_prefix,
                "enabled": store.enabled,
                "key_managers": store.key_managers.iter().filter_map(|&i| config.key_managers.get(i)).map(|m| &m.name).collect::<Vec<_>>(),
                "access_key_ids": store.credentials.iter().map(|c| &c.access_key_id).collect::<Vec<_>>(),
                "keys": store.keys.len(),
            })
        })
        .collect();
    let shards: Vec<Value> = state
        .metrics
        .iter()
        .map(
            |metrics| json!({"connections_open": metrics.connections_open.load(Ordering::Relaxed)}),
        )
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": state.is_ready(),
        "draining": state.draining.load(Ordering::Acquire),
        "uptime_seconds": state.started.elapsed().as_secs(),
        "config_file": std::path::absolute(&state.config_file).as_ref().unwrap_or(&state.config_file),
        "config_last_reload": {
            "successful": reload.refused.is_none(),
            "success_timestamp_seconds": reload.succeeded_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            "refused": reload.refused,
            "waiting_for_restart": reload.waiting_for_restart,
        },
        "listen": state.listening.get().unwrap_or(&config.server.listen).to_string(),
        "connections_a_shard_max": state.connections_a_shard,
        "shards": shards,
        "key_managers": state.managers.iter().map(|manager| key_manager(manager, &config, now)).collect::<Vec<_>>(),
        "key_stores": stores,
        "requests": requests,
        "latency_us": latencies,
        "authentication_failures": totals.requests.unauthenticated,
        "quota_exceeded": totals.requests.quota_exceeded,
        "tls": {
            "certificates": state.tls.load().certificates().iter().map(certificate).collect::<Vec<_>>(),
            "client_certificates": config.tls.client.as_ref().map(|client| json!({
                "trust_anchors": client.trust_anchors,
                "subject_common_names": client.subject_common_names,
            })),
            "handshakes": totals.handshakes,
            "resumed": totals.handshakes_resumed,
            "failures": totals.handshake_failures,
        },
        "blocks": blocks(state),
        "log_lines_dropped": state.log.dropped(),
    })
}

fn blocks(state: &State) -> Vec<Value> {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    state.blocks.active(now).iter().map(commands::shown).collect()
}

fn percentiles(latencies: &Latencies) -> Value {
    let one = |histogram: &hdrhistogram::Histogram<u64>| {
        json!({
            "count": histogram.len(),
            "p50": histogram.value_at_quantile(0.5),
            "p99": histogram.value_at_quantile(0.99),
            "p99.9": histogram.value_at_quantile(0.999),
            "max": histogram.max(),
        })
    };
    json!({"total": one(&latencies.total), "queue": one(&latencies.queue), "hsm": one(&latencies.hsm)})
}

fn certificate(certificate: &Certificate) -> Value {
    json!({
        "subject": certificate.subject,
        "serial": certificate.serial,
        "not_after": certificate.not_after_shown(),
        "not_after_timestamp_seconds": certificate.not_after.unix_timestamp(),
    })
}

fn age_ms(at: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(at).as_millis() as u64
}

fn key_manager(manager: &KeyManager, config: &Config, now: Instant) -> Value {
    let health = manager.health(now);
    let mut value = json!({"name": &*manager.name, "health": health_status(health), "health_reason": manager.health_reason(now)});
    let keys = &manager.keys;
    value["key_failures"] = json!({
        "cannot_serve": keys.cannot_serve.load(Ordering::Relaxed),
        "different": keys.different.load(Ordering::Relaxed),
        "refused": manager
            .refused_keys()
            .iter()
            .map(|key| json!({
                "label": &*key.label,
                "why": key.why,
                "since_ms": age_ms(key.since, now),
            }))
            .collect::<Vec<_>>(),
    });
    // Which token is wanted: of one that was never reached, nothing else is known.
    let mut configured = config.key_managers.iter();
    if let Some(token) = configured
        .find(|configured| configured.name == *manager.name)
        .and_then(|configured| configured.kind.token())
    {
        value["configured_token"] = json!(token.to_string());
    }
    if let Some(probe) = manager.probe.load().as_ref() {
        value["vendor"] = json!(probe.info.vendor);
        value["model"] = json!(probe.info.model);
        value["token"] = json!(probe.info.token);
        value["serial"] = json!(probe.info.serial);
        value["versions"] = json!(probe.info.versions);
        value["probe_age_ms"] = json!(age_ms(probe.at, now));
        value["library_initializations"] = json!(probe.info.library.initializations);
        value["restart_needed"] = json!(probe.info.library.stuck.as_ref().map(|stuck| &stuck.why));
        match &probe.result {
            Ok((time, key)) => {
                value["probe_us"] = json!(time.as_micros() as u64);
                value["probe_key"] = json!(match key {
                    ProbeKey::Own => "own",
                    ProbeKey::InUse => "in use",
                    ProbeKey::None => "none",
                });
            }
            Err(why) => value["probe_error"] = json!(why),
        }
    }
    if let Some(stats) = manager.sessions() {
        value["sessions"] = json!({
            "configured": stats.lanes_configured,
            "open": stats.lanes_open,
            "busy": stats.lanes_busy,
            "hung": stats.lanes_hung,
            "reopened": stats.sessions_reopened_total,
            "abandoned": stats.abandoned_total,
        });
        value["queued"] = json!(stats.queued);
        value["last_fault"] = json!(stats.last_fault);
        value["last_fault_age_ms"] = json!(stats.last_fault_at.map(|at| age_ms(at, now)));
    }
    value
}
