//! What is wrong, of what `/status` says: as the page shows it.

use serde_json::Value;
use time::OffsetDateTime;

use crate::cli::table::{elements, span, word};
use crate::policy::budget::THRESHOLDS_PERCENT;

/// Days before its end from which a certificate is named. AWS alarms below 10.
const CERTIFICATE_DAYS: i64 = 21;

/// A sentence each; empty where all is well.
pub(super) fn problems(status: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(why) = status["unready_reason"].as_str() {
        found.push(format!("not ready: {why}"));
    }
    for block in elements(&status["blocks"]) {
        let key = block["key"].as_str().map_or(String::new(), |key| format!("key {key} of "));
        found.push(format!("blocked: {key}{}", word(&block["key_store"])));
    }
    let reload = &status["config_last_reload"];
    if let Some(why) = reload["refused"].as_str() {
        found.push(format!("the last reload was refused: {why}"));
    }
    for what in elements(&reload["waiting_for_restart"]) {
        found.push(format!("waits for a restart: {}", word(what)));
    }
    key_managers(status, &mut found);
    budgets(status, &mut found);
    certificates(status, &mut found);
    let audit = &status["audit"];
    if audit["writable"] == false {
        let why = word(&audit["unwritable_reason"]);
        found.push(format!("the audit trail cannot be written: {why}"));
    }
    let missed = audit["records_missed"].as_u64().unwrap_or(0);
    if missed > 0 {
        found.push(format!("{missed} records are missing from the audit trail"));
    }
    let log = &status["log"];
    let lost = ["lines_behind", "lines_unwritable"].map(|name| log[name].as_u64().unwrap_or(0));
    if lost.iter().sum::<u64>() > 0 {
        found.push(format!("{} log lines are lost", lost.iter().sum::<u64>()));
    }
    found.iter().map(|text| word(&Value::from(text.as_str()))).collect()
}

fn key_managers(status: &Value, found: &mut Vec<String>) {
    for manager in elements(&status["key_managers"]) {
        let name = word(&manager["name"]);
        if manager["health"] != "ACTIVE" {
            let why = manager["health_reason"].as_str().map_or(String::new(), |w| format!(": {w}"));
            found.push(format!("key manager {name} is {}{why}", word(&manager["health"])));
        }
        if let Some(why) = manager["restart_needed"].as_str() {
            found.push(format!("key manager {name} needs a restart: {why}"));
        }
        for (count, what) in
            [("cannot_serve", "cannot serve"), ("different", "has another key than a replica for")]
        {
            let count = manager["key_failures"][count].as_u64().unwrap_or(0);
            if count > 0 {
                found.push(format!("key manager {name} {what} {count} of its keys"));
            }
        }
    }
    for manager in elements(&status["wrapped_key_managers"]) {
        let name = word(&manager["name"]);
        if manager["state"] != "open" {
            let why = manager["why"].as_str().map_or(String::new(), |why| format!(": {why}"));
            found.push(format!("wrapped key manager {name} is not open{why}"));
        } else if let Some(seconds) = manager["hsm_absent_seconds"].as_u64() {
            let most = span(manager["hsm_absent_max_seconds"].as_u64().unwrap_or(0));
            let away = span(seconds);
            found.push(format!("the HSM of {name} is away for {away}; keys are used up to {most}"));
        }
        let refused = elements(&manager["refused_files"]).len();
        if refused > 0 {
            found.push(format!("wrapped key manager {name} refuses {refused} key files"));
        }
    }
}

fn budgets(status: &Value, found: &mut Vec<String>) {
    for store in elements(&status["key_stores"]) {
        for key in elements(&store["key_versions"]) {
            for version in elements(&key["versions"]) {
                let percent = version["budget"]["percent"].as_f64().unwrap_or(0.0);
                if percent >= f64::from(THRESHOLDS_PERCENT[0]) {
                    let (key, store) = (word(&key["key"]), word(&store["path_prefix"]));
                    found.push(format!(
                        "key {key} of {store} has used {percent:.1} % of its budget"
                    ));
                }
            }
        }
    }
}

fn certificates(status: &Value, found: &mut Vec<String>) {
    for certificate in elements(&status["tls"]["certificates"]) {
        let days = days_left(certificate);
        let subject = word(&certificate["subject"]);
        if days < 0 {
            found.push(format!("certificate {subject} has expired"));
        } else if days < CERTIFICATE_DAYS {
            found.push(format!("certificate {subject} expires in {days} days"));
        }
    }
}

/// Until it is no longer valid.
pub(super) fn days_left(certificate: &Value) -> i64 {
    let end = certificate["not_after_timestamp_seconds"].as_i64().unwrap_or(i64::MAX);
    end.saturating_sub(OffsetDateTime::now_utc().unix_timestamp()).div_euclid(86_400)
}
