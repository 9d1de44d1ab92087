//! `/metrics`: the figures of the service in the Prometheus text format. `telemetry::names` says
//! what each is for.

use std::sync::atomic::Ordering;
use std::time::{Instant, UNIX_EPOCH};

use super::process::Process;
use crate::control::budgets::KeyName;
use crate::control::state::State;
use crate::key_manager::Health;
use crate::limits::BUDGETS_SHOWN_MAX;
use crate::sched::PoolStats;
use crate::telemetry::metrics::Totals;
use crate::telemetry::names::{self, Metric};
use crate::telemetry::prometheus::Exposition;

/// The whole text.
pub fn expose(state: &State) -> String {
    let totals = Totals::of(&state.metrics);
    let mut text = Exposition::default();
    process(&mut text, state);
    requests(&mut text, &totals);
    budgets(&mut text, state);
    blocks(&mut text, state);
    connections(&mut text, state, &totals);
    certificates(&mut text, state);
    key_managers(&mut text, state);
    wrapped_keys(&mut text, state);
    pools(&mut text, state);
    fleet(&mut text, state);
    audit(&mut text, state);
    text.finish()
}

fn fleet(text: &mut Exposition, state: &State) {
    text.metric(&names::FLEET_SIZE).sample(&[], state.fleet_view.size.load(Ordering::Relaxed));
    text.metric(&names::FLEET_SHARES).sample(&[], state.config.load().server.instances);
    // Without etcd there are no samples.
    let Some(joined) = state.fleet.get().and_then(|fleet| fleet.joined()) else { return };
    let connection = joined.members.connection();
    let members = joined.members.all();
    let away = members.iter().filter(|member| !member.present).count();
    text.metric(&names::FLEET_INSTANCES_AWAY).sample(&[], away);
    text.metric(&names::FLEET_CONNECTED).sample(&[], u8::from(connection.connected));
    let age = connection.age.unwrap_or_else(|| state.started.elapsed());
    text.metric(&names::FLEET_AGE).sample(&[], age.as_secs_f64());
    text.metric(&names::FLEET_REFUSED).sample(&[], joined.members.all_refused().len());
    let not_applied = joined.documents.not_applied().len();
    text.metric(&names::FLEET_NOT_APPLIED).sample(&[], not_applied);
}

fn process(text: &mut Exposition, state: &State) {
    text.metric(&names::BUILD_INFO).sample(&[env!("CARGO_PKG_VERSION")], 1);
    text.metric(&names::UPTIME).sample(&[], state.started.elapsed().as_secs_f64());
    text.metric(&names::READY).sample(&[], u8::from(state.is_ready()));
    let last = state.last_reload.load();
    text.metric(&names::RELOAD_SUCCESSFUL).sample(&[], u8::from(last.refused.is_none()));
    let at = last.succeeded_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    text.metric(&names::RELOAD_SUCCEEDED_AT).sample(&[], at.as_secs_f64());
    let mut metric = text.metric(&names::FILE_CHANGES);
    metric.sample(&["taken"], state.watched.taken.load(Ordering::Relaxed));
    metric.sample(&["refused"], state.watched.refused.load(Ordering::Relaxed));
    let reachable = state.control_reachable.load(Ordering::Relaxed);
    text.metric(&names::CONTROL_SOCKET_REACHABLE).sample(&[], u8::from(reachable));
    let lost = state.log.lost();
    let mut metric = text.metric(&names::LOG_LINES_DROPPED);
    metric.sample(&["behind"], lost.behind());
    metric.sample(&["unwritable"], lost.unwritable());
    let mut metric = text.metric(&names::TRACE_SPANS);
    metric.sample(&["exported"], state.spans.exported.load(Ordering::Relaxed));
    metric.sample(&["lost"], state.spans.lost.load(Ordering::Relaxed));
    // Without /proc there are no samples.
    let Some(process) = Process::read() else { return };
    text.metric(&names::PROCESS_CPU).sample(&[], process.cpu_seconds);
    text.metric(&names::PROCESS_MEMORY).sample(&[], process.resident_bytes);
    text.metric(&names::PROCESS_OPEN_FDS).sample(&[], process.open_fds);
    let mut metric = text.metric(&names::PROCESS_MAX_FDS);
    if let Some(max) = process.max_fds {
        metric.sample(&[], max);
    }
    text.metric(&names::PROCESS_START).sample(&[], process.started_seconds);
}

fn requests(text: &mut Exposition, totals: &Totals) {
    let requests = &totals.requests;
    let mut metric = text.metric(&names::REQUESTS);
    for (key, count) in &requests.answered {
        metric.sample(&[&key.key_store, key.operation, key.error], count);
    }
    let mut metric = text.metric(&names::KEY_REQUESTS);
    for (key, count) in &requests.by_key {
        metric.sample(&[&key.key_store, &key.key, key.operation, key.error], count);
    }
    let mut metric = text.metric(&names::AUTHENTICATION_FAILURES);
    for (reason, count) in &requests.unauthenticated {
        metric.sample(&[reason], count);
    }
    text.metric(&names::NEWER_KEY_VERSIONS).sample(&[], totals.newer_key_versions);
    let mut metric = text.metric(&names::QUOTA_EXCEEDED);
    for (key_store, count) in &requests.quota_exceeded {
        metric.sample(&[key_store], count);
    }
    let mut metric = text.metric(&names::POLICY_DENIALS);
    for (key, count) in &requests.policy_denied {
        metric.sample(&[&key.key_store, &key.policy, key.mode], count);
    }
    let mut metric = text.metric(&names::REQUEST_DURATION);
    for (operation, latencies) in &requests.latencies {
        metric.histogram(&[operation], &latencies.total);
    }
    let mut metric = text.metric(&names::QUEUE_DURATION);
    for (operation, latencies) in &requests.latencies {
        metric.histogram(&[operation], &latencies.queue);
    }
    let mut metric = text.metric(&names::HSM_DURATION);
    for (operation, latencies) in &requests.latencies {
        metric.histogram(&[operation], &latencies.hsm);
    }
}

fn budgets(text: &mut Exposition, state: &State) {
    let keys = state.budgets.most_used(&state.config.load());
    let mut metric = text.metric(&names::KEY_BUDGET_USED);
    for key in keys.iter().take(BUDGETS_SHOWN_MAX) {
        let (managers, KeyName { label, version }) = (key.key_managers.join("+"), &key.name);
        let version = version.map_or_else(String::new, |version| version.to_string());
        metric.sample(&[&managers, label, &version], key.percent() / 100.0);
    }
    let most = keys.first().map_or(0.0, |key| key.percent() / 100.0);
    text.metric(&names::KEY_BUDGET_USED_MAX).sample(&[], most);
    text.metric(&names::KEY_BUDGETS_UNSAVED).sample(&[], u8::from(state.budgets.is_unsaved()));
}

fn blocks(text: &mut Exposition, state: &State) {
    text.metric(&names::BLOCKS).sample(&[], state.blocks.in_force().len());
    text.metric(&names::BLOCKS_UNSAVED).sample(&[], u8::from(state.blocks.is_unsaved()));
}

fn connections(text: &mut Exposition, state: &State, totals: &Totals) {
    let mut metric = text.metric(&names::CONNECTIONS_OPEN);
    for (shard, metrics) in state.metrics.iter().enumerate() {
        let open = metrics.connections_open.load(Ordering::Relaxed);
        metric.sample(&[&shard.to_string()], open);
    }
    text.metric(&names::CONNECTIONS_MAX).sample(&[], state.connections_a_shard);
    for (metric, value) in [
        (&names::CONNECTIONS_ACCEPTED, totals.connections_accepted),
        (&names::CONNECTIONS_REFUSED, totals.connections_refused),
        (&names::CONNECTIONS_WITHDRAWN, totals.connections_withdrawn),
        (&names::ACCEPT_ERRORS, totals.accept_errors),
        (&names::HANDSHAKES, totals.handshakes),
        (&names::HANDSHAKES_RESUMED, totals.handshakes_resumed),
    ] {
        text.metric(metric).sample(&[], value);
    }
    let mut metric = text.metric(&names::HANDSHAKE_FAILURES);
    for (reason, count) in &totals.handshake_failures {
        metric.sample(&[reason], count);
    }
}

/// By place in the chain: it ends where the first of them does.
fn certificates(text: &mut Exposition, state: &State) {
    let mut metric = text.metric(&names::CERTIFICATE_NOT_AFTER);
    for (place, certificate) in (1..).zip(state.tls.load().certificates()) {
        let labels = [&*format!("{place}"), &certificate.subject];
        metric.sample(&labels, certificate.not_after.unix_timestamp());
    }
}

fn key_managers(text: &mut Exposition, state: &State) {
    let (now, managers) = (Instant::now(), state.managers.load());
    let mut metric = text.metric(&names::KEY_MANAGER_HEALTH);
    for manager in managers.iter() {
        let value = match manager.health(now) {
            Health::Active => 2,
            Health::Degraded => 1,
            Health::Unavailable => 0,
        };
        metric.sample(&[&manager.name], value);
    }
    let mut metric = text.metric(&names::RESTART_NEEDED);
    for manager in managers.iter() {
        let stuck =
            manager.probe.load().as_ref().is_some_and(|probe| probe.info.library.stuck.is_some());
        metric.sample(&[&manager.name], u64::from(stuck));
    }
    let mut metric = text.metric(&names::KEY_FAILURES);
    for manager in managers.iter() {
        for (why, count) in
            [("cannot_serve", &manager.keys.cannot_serve), ("different", &manager.keys.different)]
        {
            metric.sample(&[&manager.name, why], count.load(Ordering::Relaxed));
        }
    }
}

/// Of key managers whose keys an HSM opens.
fn wrapped_keys(text: &mut Exposition, state: &State) {
    let (now, wrapped) = (Instant::now(), state.unsealing.load());
    let mut metric = text.metric(&names::KEYS_OPEN);
    for unsealing in wrapped.iter() {
        metric.sample(&[&unsealing.name], u8::from(unsealing.closed().is_none()));
    }
    let mut metric = text.metric(&names::HSM_ABSENT);
    for unsealing in wrapped.iter() {
        let absent = unsealing.absence(now).map_or(0.0, |(time, _)| time.as_secs_f64());
        metric.sample(&[&unsealing.name], absent);
    }
    let mut metric = text.metric(&names::KEY_FILES);
    for unsealing in wrapped.iter() {
        let table = unsealing.keys.table();
        metric.sample(&[&unsealing.name, "open"], table.keys().count());
        metric.sample(&[&unsealing.name, "refused"], table.refused().count());
    }
    let mut metric = text.metric(&names::KEY_FILE_EPOCHS);
    for unsealing in wrapped.iter() {
        let table = unsealing.keys.table();
        let epochs = table.keys().map(|(_, key)| key.epoch.number);
        let epochs = epochs.fold(0, u64::saturating_add);
        metric.sample(&[&unsealing.name], epochs);
    }
}

/// Of key managers that have sessions.
fn pools(text: &mut Exposition, state: &State) {
    let managers = state.managers.load();
    let pools: Vec<(&str, PoolStats)> =
        managers.iter().filter_map(|manager| Some((&*manager.name, manager.sessions()?))).collect();
    let mut metric = text.metric(&names::SESSIONS);
    for (name, stats) in &pools {
        for (state, count) in [
            ("configured", stats.lanes_configured),
            ("open", stats.lanes_open),
            ("busy", stats.lanes_busy),
            ("hung", stats.lanes_hung),
        ] {
            metric.sample(&[name, state], count);
        }
    }
    let mut metric = text.metric(&names::QUEUED);
    for (name, stats) in &pools {
        for (shard, jobs) in stats.queued.iter().enumerate() {
            metric.sample(&[name, &shard.to_string()], jobs);
        }
    }
    let mut metric = text.metric(&names::JOBS_REFUSED);
    for (name, stats) in &pools {
        for (reason, count) in [
            ("queue_full", stats.refused_queue_full_total),
            ("deadline_unreachable", stats.refused_deadline_unreachable_total),
            ("no_session", stats.refused_no_session_total),
        ] {
            metric.sample(&[name, reason], count);
        }
    }
    let mut metric = text.metric(&names::SERVICE_TIME);
    for (name, stats) in &pools {
        // Nothing before the first job.
        if let Some(time) = stats.service_time_ewma {
            metric.sample(&[name], time.as_secs_f64());
        }
    }
    type Count = fn(&PoolStats) -> u64;
    let counters: [(&Metric, Count); 5] = [
        (&names::JOBS, |stats| stats.jobs_total),
        (&names::JOBS_LATE, |stats| stats.late_total),
        (&names::JOBS_CANCELLED, |stats| stats.cancelled_total),
        (&names::SESSIONS_REOPENED, |stats| stats.sessions_reopened_total),
        (&names::SESSIONS_ABANDONED, |stats| stats.abandoned_total),
    ];
    for (metric, of) in counters {
        let mut metric = text.metric(metric);
        for (name, stats) in &pools {
            metric.sample(&[name], of(stats));
        }
    }
}

/// Only where there is an audit trail.
fn audit(text: &mut Exposition, state: &State) {
    let Some(trail) = state.audit.trail() else { return };
    text.metric(&names::AUDIT_RECORDS).sample(&[], trail.size());
    text.metric(&names::AUDIT_RECORDS_MISSED).sample(&[], trail.missed());
    text.metric(&names::AUDIT_WRITABLE).sample(&[], u8::from(trail.why_unwritable().is_none()));
    let mut metric = text.metric(&names::AUDIT_CHECKPOINT_SENT);
    for (to, sent) in state.audit.sent() {
        metric.sample(&[&to], u8::from(sent));
    }
}
