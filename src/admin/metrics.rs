//! `/metrics`: the figures of the service in the Prometheus text format. `docs/operations.md` says
//! what each is for.

use std::sync::atomic::Ordering;
use std::time::{Instant, UNIX_EPOCH};

use time::OffsetDateTime;

use crate::control::state::State;
use crate::key_manager::Health;
use crate::telemetry::metrics::Totals;
use crate::telemetry::prometheus::Exposition;

/// The whole text.
pub fn expose(state: &State) -> String {
    let totals = Totals::of(&state.metrics);
    let mut text = Exposition::default();
    text.metric("xksd_build_info", "gauge", "Version of this xksd.").sample(
        "xksd_build_info",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1,
    );
    text.metric("xksd_uptime_seconds", "gauge", "Time since the start.").sample(
        "xksd_uptime_seconds",
        &[],
        state.started.elapsed().as_secs_f64(),
    );
    text.metric("xksd_ready", "gauge", "1 when /readyz says so.").sample(
        "xksd_ready",
        &[],
        u8::from(state.is_ready()),
    );
    last_reload(&mut text, state);
    certificates(&mut text, state);
    requests(&mut text, &totals);
    connections(&mut text, state, &totals);
    key_managers(&mut text, state);
    audit(&mut text, state);
    blocks(&mut text, state);
    text.metric(
        "xksd_log_lines_dropped_total",
        "counter",
        "Log lines dropped because the writer was behind.",
    )
    .sample("xksd_log_lines_dropped_total", &[], state.log.dropped());
    text.finish()
}

fn blocks(text: &mut Exposition, state: &State) {
    const BLOCKS: &str = "xksd_blocks";
    let now = OffsetDateTime::now_utc().unix_timestamp();
    text.metric(BLOCKS, "gauge", "Keys and key stores that are blocked.").sample(
        BLOCKS,
        &[],
        state.blocks.active(now).len(),
    );
    const UNSAVED: &str = "xksd_blocks_unsaved";
    text.metric(
        UNSAVED,
        "gauge",
        "1 while the last block is not on disk: a restart would lose it.",
    )
    .sample(UNSAVED, &[], u8::from(state.blocks.is_unsaved()));
}

/// Only where there is an audit trail.
fn audit(text: &mut Exposition, state: &State) {
    let Some(trail) = state.audit.trail() else { return };
    for (name, kind, help, value) in [
        (
            "xksd_audit_records",
            "gauge",
            "Records of the audit trail that are on disk.",
            trail.size(),
        ),
        (
            "xksd_audit_records_missed_total",
            "counter",
            "Records that found no place in the audit trail, since the start.",
            trail.missed(),
        ),
        (
            "xksd_audit_writable",
            "gauge",
            "0 while the audit trail cannot be written.",
            u64::from(trail.is_writable()),
        ),
    ] {
        text.metric(name, kind, help).sample(name, &[], value);
    }
}

/// Named as Prometheus names those of its own configuration, which alert rules know.
fn last_reload(text: &mut Exposition, state: &State) {
    let last = state.last_reload.load();
    const SUCCESSFUL: &str = "xksd_config_last_reload_successful";
    text.metric(
        SUCCESSFUL,
        "gauge",
        "0 when the last reload was refused and the configuration before it stays in force.",
    )
    .sample(SUCCESSFUL, &[], u8::from(last.refused.is_none()));
    const AT: &str = "xksd_config_last_reload_success_timestamp_seconds";
    text.metric(
        AT,
        "gauge",
        "When a configuration was taken over last, at the start or by a reload (Unix time).",
    )
    .sample(
        AT,
        &[],
        last.succeeded_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
    );
}

/// By place in the chain: it ends where the first of them does.
fn certificates(text: &mut Exposition, state: &State) {
    const NOT_AFTER: &str = "xksd_tls_certificate_not_after_timestamp_seconds";
    text.metric(
        NOT_AFTER,
        "gauge",
        "When a certificate that clients are shown expires (Unix time); place 1 is the server's \
         own, the others stand above it.",
    );
    for (place, certificate) in (1..).zip(state.tls.load().certificates()) {
        let labels = [("place", &*format!("{place}")), ("subject", &certificate.subject)];
        text.sample(NOT_AFTER, &labels, certificate.not_after.unix_timestamp());
    }
}

fn requests(text: &mut Exposition, totals: &Totals) {
    const REQUESTS: &str = "xksd_requests_total";
    text.metric(
        REQUESTS,
        "counter",
        "Requests answered, by key store, operation and errorName (none: success).",
    );
    for (key, count) in &totals.requests.answered {
        text.sample(
            REQUESTS,
            &[("keystore", &key.key_store), ("operation", key.operation), ("error", key.error)],
            count,
        );
    }
    const UNAUTHENTICATED: &str = "xksd_authentication_failures_total";
    text.metric(UNAUTHENTICATED, "counter", "Requests whose signature was refused, by reason.");
    for (reason, count) in &totals.requests.unauthenticated {
        text.sample(UNAUTHENTICATED, &[("reason", reason)], count);
    }
    const QUOTA: &str = "xksd_quota_exceeded_total";
    text.metric(QUOTA, "counter", "Requests beyond a quota of a key store or of one of its keys.");
    for (key_store, count) in &totals.requests.quota_exceeded {
        text.sample(QUOTA, &[("key_store", key_store)], count);
    }
    const DENIED: &str = "xksd_policy_denials_total";
    text.metric(
        DENIED,
        "counter",
        "Requests that policies denied, or would have in a dry run; policy is empty where none \
         permitted.",
    );
    for (key, count) in &totals.requests.policy_denied {
        let labels = [("key_store", &*key.key_store), ("policy", &key.policy), ("mode", key.mode)];
        text.sample(DENIED, &labels, count);
    }
    for (name, help, pick) in [
        ("xksd_request_duration_seconds", "From a request's first byte to its answer.", 0),
        ("xksd_queue_duration_seconds", "Waiting for a session of the key manager.", 1),
        ("xksd_hsm_duration_seconds", "In the key manager.", 2),
    ] {
        text.metric(name, "histogram", help);
        for (operation, latencies) in &totals.requests.latencies {
            let histogram = [&latencies.total, &latencies.queue, &latencies.hsm][pick];
            text.histogram(name, &[("operation", operation)], histogram);
        }
    }
}

fn connections(text: &mut Exposition, state: &State, totals: &Totals) {
    const OPEN: &str = "xksd_connections_open";
    text.metric(OPEN, "gauge", "Connections open, by shard.");
    for (shard, metrics) in state.metrics.iter().enumerate() {
        text.sample(
            OPEN,
            &[("shard", &shard.to_string())],
            metrics.connections_open.load(Ordering::Relaxed),
        );
    }
    const MAX: &str = "xksd_connections_max";
    text.metric(MAX, "gauge", "Connections that each shard may have open.").sample(
        MAX,
        &[],
        state.connections_a_shard,
    );
    for (name, help, value) in [
        ("xksd_connections_accepted_total", "Connections accepted.", totals.connections_accepted),
        (
            "xksd_connections_refused_total",
            "Connections closed because a shard had its maximum: those that had not \
             authenticated for newer ones, else the newer at accept.",
            totals.connections_refused,
        ),
        (
            "xksd_connections_withdrawn_total",
            "Connections ended at their next request: a reload no longer admits the client.",
            totals.connections_withdrawn,
        ),
        ("xksd_accept_errors_total", "Failures of accept.", totals.accept_errors),
        ("xksd_tls_handshakes_total", "TLS handshakes completed.", totals.handshakes),
        (
            "xksd_tls_handshakes_resumed_total",
            "Of these, resumed sessions.",
            totals.handshakes_resumed,
        ),
    ] {
        text.metric(name, "counter", help).sample(name, &[], value);
    }
    const FAILURES: &str = "xksd_tls_handshake_failures_total";
    text.metric(FAILURES, "counter", "TLS handshakes that failed, by reason.");
    for (reason, count) in &totals.handshake_failures {
        text.sample(FAILURES, &[("reason", reason)], count);
    }
}

fn key_managers(text: &mut Exposition, state: &State) {
    let now = Instant::now();
    const HEALTH: &str = "xksd_key_manager_health";
    text.metric(HEALTH, "gauge", "2 ACTIVE, 1 DEGRADED, 0 UNAVAILABLE.");
    for manager in &state.managers {
        let value = match manager.health(now) {
            Health::Active => 2,
            Health::Degraded => 1,
            Health::Unavailable => 0,
        };
        text.sample(HEALTH, &[("key_manager", &manager.name)], value);
    }
    const RESTART: &str = "xksd_key_manager_restart_needed";
    text.metric(
        RESTART,
        "gauge",
        "1 where only a restart of xksd helps: calls that hang, or another key manager with the \
         same library, forbid to initialise it anew.",
    );
    for manager in &state.managers {
        let stuck =
            manager.probe.load().as_ref().is_some_and(|probe| probe.info.library.stuck.is_some());
        text.sample(RESTART, &[("key_manager", &manager.name)], u64::from(stuck));
    }
    const KEYS: &str = "xksd_key_manager_key_failures";
    text.metric(
        KEYS,
        "gauge",
        "Configured keys that a key manager cannot serve, or holds another key for than a replica \
         does (once of the two).",
    );
    for manager in &state.managers {
        for (why, count) in
            [("cannot_serve", &manager.keys.cannot_serve), ("different", &manager.keys.different)]
        {
            text.sample(
                KEYS,
                &[("key_manager", &manager.name), ("why", why)],
                count.load(Ordering::Relaxed),
            );
        }
    }
    let pools: Vec<_> = state
        .managers
        .iter()
        .filter_map(|manager| Some((manager.name.as_ref(), manager.sessions()?)))
        .collect();
    const QUEUE: &str = "xksd_queue_jobs";
    text.metric(QUEUE, "gauge", "Jobs waiting for a session, by key manager and shard.");
    for (name, stats) in &pools {
        for (shard, jobs) in stats.queued.iter().enumerate() {
            text.sample(QUEUE, &[("key_manager", name), ("shard", &shard.to_string())], jobs);
        }
    }
    const SESSIONS: &str = "xksd_sessions";
    text.metric(SESSIONS, "gauge", "Sessions with the key manager: configured, open, busy, hung.");
    for (name, stats) in &pools {
        for (state, count) in [
            ("configured", stats.lanes_configured),
            ("open", stats.lanes_open),
            ("busy", stats.lanes_busy),
            ("hung", stats.lanes_hung),
        ] {
            text.sample(SESSIONS, &[("key_manager", name), ("state", state)], count);
        }
    }
    for (metric, help, pick) in [
        ("xksd_jobs_total", "Jobs done by the key manager.", 0),
        (
            "xksd_jobs_late_total",
            "Jobs that were past their deadline before a session was free.",
            1,
        ),
        ("xksd_sessions_reopened_total", "Sessions lost and opened anew.", 2),
        ("xksd_sessions_abandoned_total", "Sessions left behind in a call that hangs.", 3),
    ] {
        text.metric(metric, "counter", help);
        for (name, stats) in &pools {
            let value = [
                stats.jobs_total,
                stats.late_total,
                stats.sessions_reopened_total,
                stats.abandoned_total,
            ][pick];
            text.sample(metric, &[("key_manager", name)], value);
        }
    }
}
