//! Every metric that xksd shows: its name, its labels, and what it is for. Others depend on these
//! names, so they stand in this file only. `docs/metrics.md` explains each, which a test ensures.
//!
//! Labels have the names that the log and `/status` use for the same thing: `key_store` and
//! `key_manager`.

/// What Prometheus may do with the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process starts again.
    Counter,
    /// As it is now.
    Gauge,
    /// Durations, counted by how long they are at most.
    Histogram,
}

impl Kind {
    /// As the text format spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Ends in its unit, and in `total` where it only grows.
    pub name: &'static str,
    /// What Prometheus may do with it.
    pub kind: Kind,
    /// What each sample is of, in the order in which the values are given.
    pub labels: &'static [&'static str],
    /// What it is, in one sentence.
    pub help: &'static str,
}

/// Declares each metric, and [`ALL`] of them.
macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// All of them, in the order of this file.
        pub const ALL: &[&Metric] = &[$(&$constant),*];
    };
}

metrics! {
    // The process
    BUILD_INFO: Gauge "xksd_build_info" ["version"]
        "Version of this xksd.";
    UPTIME: Gauge "xksd_uptime_seconds" []
        "Time since the start.";
    READY: Gauge "xksd_ready" []
        "1 when /readyz says so.";
    // Named as Prometheus names those of its own configuration, which alert rules know.
    RELOAD_SUCCESSFUL: Gauge "xksd_config_last_reload_successful" []
        "0 when the last reload was refused and the configuration before it stays in force.";
    RELOAD_SUCCEEDED_AT: Gauge "xksd_config_last_reload_success_timestamp_seconds" []
        "When a configuration was taken over last, at the start or by a reload (Unix time).";
    FILE_CHANGES: Counter "xksd_file_changes_total" ["result"]
        "Contents of files that the configuration names, taken over or refused by themselves.";
    CONTROL_SOCKET_REACHABLE: Gauge "xksd_control_socket_reachable" []
        "0 while the control socket is not where xksd block looks for it.";
    TRACE_SPANS: Counter "xksd_trace_spans_total" ["result"]
        "Spans of requests: exported, lost.";
    LOG_LINES_DROPPED: Counter "xksd_log_lines_dropped_total" ["reason"]
        "Log lines lost: behind (they came faster than they could be written), unwritable.";
    // Named as every Prometheus client names them: dashboards for all processes know them.
    PROCESS_CPU: Counter "process_cpu_seconds_total" []
        "Processor time used, of user and kernel.";
    PROCESS_MEMORY: Gauge "process_resident_memory_bytes" []
        "Memory in use.";
    PROCESS_OPEN_FDS: Gauge "process_open_fds" []
        "File descriptors open.";
    PROCESS_MAX_FDS: Gauge "process_max_fds" []
        "File descriptors that the process may have open.";
    PROCESS_START: Gauge "process_start_time_seconds" []
        "When the process started (Unix time).";

    // Requests
    REQUESTS: Counter "xksd_requests_total" ["key_store", "operation", "error"]
        "Requests answered, by key store, operation and errorName (none: success).";
    KEY_REQUESTS: Counter "xksd_key_requests_total" ["key_store", "key", "operation", "error"]
        "The same of each key: of the first 1,000 of the configuration; (other): of all others.";
    AUTHENTICATION_FAILURES: Counter "xksd_authentication_failures_total" ["reason"]
        "Requests whose signature was refused, by reason.";
    NEWER_KEY_VERSIONS: Counter "xksd_newer_key_versions_total" []
        "Decrypts that name a newer version of the key than this instance knows.";
    QUOTA_EXCEEDED: Counter "xksd_quota_exceeded_total" ["key_store"]
        "Requests beyond a quota of a key store or of one of its keys.";
    POLICY_DENIALS: Counter "xksd_policy_denials_total" ["key_store", "policy", "mode"]
        "Requests that policies denied, or would have in a dry run; policy is empty where none \
         permitted.";
    REQUEST_DURATION: Histogram "xksd_request_duration_seconds" ["operation"]
        "From a request's first byte to its answer.";
    QUEUE_DURATION: Histogram "xksd_queue_duration_seconds" ["operation"]
        "Waiting for a session of the key manager.";
    HSM_DURATION: Histogram "xksd_hsm_duration_seconds" ["operation"]
        "In the key manager.";
    KEY_BUDGET_USED: Gauge "xksd_key_budget_used_ratio" ["key_manager", "label", "version"]
        "Part of its invocation budget that a key has used on this instance: of the 100 primary \
         versions that have used most.";
    KEY_BUDGET_USED_MAX: Gauge "xksd_key_budget_used_ratio_max" []
        "The highest of them.";
    KEY_BUDGETS_UNSAVED: Gauge "xksd_key_budgets_unsaved" []
        "1 while the encryptions of keys cannot be saved: a crash would count too few.";
    BLOCKS: Gauge "xksd_blocks" []
        "Keys and key stores that are blocked.";
    BLOCKS_UNSAVED: Gauge "xksd_blocks_unsaved" []
        "1 while the last block is not on disk: a restart would lose it.";

    // Connections
    CONNECTIONS_OPEN: Gauge "xksd_connections_open" ["shard"]
        "Connections open, by shard.";
    CONNECTIONS_MAX: Gauge "xksd_connections_max" []
        "Connections that each shard may have open.";
    CONNECTIONS_ACCEPTED: Counter "xksd_connections_accepted_total" []
        "Connections accepted.";
    CONNECTIONS_REFUSED: Counter "xksd_connections_refused_total" []
        "Connections closed because a shard had its maximum: those that had not authenticated \
         for newer ones, else the newer at accept.";
    CONNECTIONS_WITHDRAWN: Counter "xksd_connections_withdrawn_total" []
        "Connections ended at their next request: a reload no longer admits the client.";
    ACCEPT_ERRORS: Counter "xksd_accept_errors_total" []
        "Failures of accept.";
    HANDSHAKES: Counter "xksd_tls_handshakes_total" []
        "TLS handshakes completed.";
    HANDSHAKES_RESUMED: Counter "xksd_tls_handshakes_resumed_total" []
        "Of these, resumed sessions.";
    HANDSHAKE_FAILURES: Counter "xksd_tls_handshake_failures_total" ["reason"]
        "TLS handshakes that failed, by reason.";
    CERTIFICATE_NOT_AFTER: Gauge "xksd_tls_certificate_not_after_timestamp_seconds"
        ["place", "subject"]
        "When a certificate that clients are shown expires (Unix time); place 1 is the server's \
         own, the others stand above it.";

    // Key managers
    KEY_MANAGER_HEALTH: Gauge "xksd_key_manager_health" ["key_manager"]
        "2 ACTIVE, 1 DEGRADED, 0 UNAVAILABLE.";
    RESTART_NEEDED: Gauge "xksd_key_manager_restart_needed" ["key_manager"]
        "1 where only a restart of xksd helps: calls that hang, or another key manager with the \
         same library, forbid to initialise it again.";
    KEY_FAILURES: Gauge "xksd_key_manager_key_failures" ["key_manager", "why"]
        "Configured keys that a key manager cannot serve, or holds another key for than a \
         replica does (once of the two).";
    KEYS_OPEN: Gauge "xksd_wrapped_keys_open" ["key_manager"]
        "1 while keys that an HSM has wrapped may be used, 0 while none may.";
    HSM_ABSENT: Gauge "xksd_wrapped_hsm_absent_seconds" ["key_manager"]
        "How long the HSM that opened the keys has not answered; 0 while it does.";
    KEY_FILES: Gauge "xksd_wrapped_key_files" ["key_manager", "state"]
        "Key files: open, refused.";
    KEY_FILE_EPOCHS: Gauge "xksd_wrapped_key_file_epochs" ["key_manager"]
        "Sum of the epochs of all key files in use: the same on instances with the same files.";
    SESSIONS: Gauge "xksd_sessions" ["key_manager", "state"]
        "Sessions with the key manager: configured, open, busy, hung.";
    SESSIONS_REOPENED: Counter "xksd_sessions_reopened_total" ["key_manager"]
        "Sessions lost and opened again.";
    SESSIONS_ABANDONED: Counter "xksd_sessions_abandoned_total" ["key_manager"]
        "Sessions left behind in a call that hangs.";
    SERVICE_TIME: Gauge "xksd_service_time_seconds" ["key_manager"]
        "Time of one job on one session, smoothed: by it the scheduler refuses what cannot be \
         done in time.";
    QUEUED: Gauge "xksd_queue_jobs" ["key_manager", "shard"]
        "Jobs waiting for a session, by key manager and shard.";
    JOBS: Counter "xksd_jobs_total" ["key_manager"]
        "Jobs admitted to the queues.";
    JOBS_REFUSED: Counter "xksd_jobs_refused_total" ["key_manager", "reason"]
        "Jobs that were not admitted: queue_full, deadline_unreachable, no_session.";
    JOBS_LATE: Counter "xksd_jobs_late_total" ["key_manager"]
        "Jobs that were past their deadline before a session was free.";
    JOBS_CANCELLED: Counter "xksd_jobs_cancelled_total" ["key_manager"]
        "Jobs that nobody waited for any more before a session was free.";

    // Fleet
    FLEET_SIZE: Gauge "xksd_fleet_size" []
        "Instances of this service, as AWS KMS is answered.";
    FLEET_SHARES: Gauge "xksd_budget_shares" []
        "Instances that share the invocation budgets: server.instances.";
    FLEET_INSTANCES_AWAY: Gauge "xksd_fleet_instances_away" []
        "Instances of the fleet whose lease has run out.";
    FLEET_CONNECTED: Gauge "xksd_fleet_connected" []
        "0 while etcd does not answer.";
    FLEET_AGE: Gauge "xksd_fleet_age_seconds" []
        "How long etcd has not answered.";
    FLEET_REFUSED: Gauge "xksd_fleet_values_refused" []
        "Values in etcd that are older than what is held, or were not sealed by this fleet.";
    FLEET_NOT_APPLIED: Gauge "xksd_fleet_documents_not_applied" []
        "Documents of the fleet that this instance holds and could not put in force or save.";

    // Audit trail, if there is one
    AUDIT_RECORDS: Gauge "xksd_audit_records" []
        "Records of the audit trail that are on disk.";
    AUDIT_RECORDS_MISSED: Counter "xksd_audit_records_missed_total" []
        "Records missing from the audit trail since the start.";
    AUDIT_WRITABLE: Gauge "xksd_audit_writable" []
        "0 while records or checkpoints of the audit trail cannot be written.";
    AUDIT_CHECKPOINT_SENT: Gauge "xksd_audit_checkpoint_sent" ["to"]
        "1 where the last checkpoint got to: syslog, and each witness by name.";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Prometheus and its tools expect names to be.
    #[test]
    fn names_follow_the_rules() {
        let is_word = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        for metric in ALL {
            let name = metric.name;
            let is_ours = name.starts_with("xksd_") || name.starts_with("process_");
            assert!(is_ours && is_word(name), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert!(metric.kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{name}");
            assert!(metric.labels.iter().all(|label| is_word(label)), "{name}");
            assert_eq!(ALL.iter().filter(|other| other.name == name).count(), 1, "{name}");
        }
    }
}
