//! One frame, from what `/status` and `/history` say. Knows nothing of terminals but their size.

use serde_json::Value;

use super::problems::{days_left, problems};
use crate::cli::table::{elements, span, table, word};

/// Of what is written on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Characters a line.
    pub(super) columns: usize,
    /// Lines.
    pub(super) rows: usize,
}

/// Lowest to highest.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Keys that are shown, those first that have used most of their budget.
const KEYS_MAX: usize = 10;

/// The lines; `before` is the status of the look before, for what happened since.
pub(super) fn frame(
    status: &Value,
    before: Option<&Value>,
    history: &Value,
    size: Size,
) -> Vec<String> {
    let mut lines = vec![head(status), String::new()];
    match &problems(status)[..] {
        [] => lines.push("Wrong: nothing".to_owned()),
        problems => lines.extend(problems.iter().map(|problem| format!("WRONG: {problem}"))),
    }
    let tables = [
        recent(history, size.columns),
        key_managers(status),
        key_stores(status, before),
        keys(status),
        certificates(status),
    ];
    for table in tables.iter().filter(|table| !table.is_empty()) {
        lines.push(String::new());
        lines.extend_from_slice(table);
    }
    lines.truncate(size.rows);
    let short = |line: String| line.chars().take(size.columns).collect();
    lines.into_iter().map(short).collect()
}

fn head(status: &Value) -> String {
    let ready = match (&status["draining"], &status["ready"]) {
        (Value::Bool(true), _) => "STOPPING",
        (_, Value::Bool(true)) => "ready",
        _ => "NOT READY",
    };
    let open = elements(&status["shards"]).iter().filter_map(|s| s["connections_open"].as_u64());
    format!(
        "xksd {}, {ready}, up {}, on {}, {} connections",
        word(&status["version"]),
        span(status["uptime_seconds"].as_u64().unwrap_or(0)),
        word(&status["listen"]),
        open.sum::<u64>(),
    )
}

/// The last sample in figures, and the last hour as bars.
fn recent(history: &Value, columns: usize) -> Vec<String> {
    let samples = elements(&history["samples"]);
    let Some(last) = samples.last() else {
        return vec!["Requests: no sample yet, there is one every ten seconds".to_owned()];
    };
    let seconds = |sample: &Value| sample["seconds"].as_f64().filter(|s| *s > 0.0).unwrap_or(1.0);
    let rate = |sample: &Value, of: &[&str]| {
        let count: f64 = of.iter().filter_map(|name| sample[*name].as_f64()).sum();
        count / seconds(sample)
    };
    let ms = |name: &str| match last[name].as_f64() {
        Some(us) => format!("{:.1} ms", us / 1e3),
        None => "-".to_owned(),
    };
    let row = [
        format!("{:.1}", rate(last, &["successes"])),
        format!("{:.1}", rate(last, &["retryable_errors"])),
        format!("{:.1}", rate(last, &["other_errors"])),
        ms("p50_us"),
        ms("p99_us"),
        ms("p99_9_us"),
        word(&last["queued"]),
    ];
    let head = ["good/s", "retryable/s", "other/s", "p50", "p99", "p99.9", "queued"];
    let mut lines = table(head, &[row]);
    let all = ["successes", "retryable_errors", "other_errors"];
    let rates: Vec<f64> = samples.iter().map(|sample| rate(sample, &all)).collect();
    let highest = rates.iter().copied().fold(0.0, f64::max);
    let room = columns.saturating_sub(40).max(10);
    lines.push(format!("{}  up to {highest:.1}/s in the last hour", bars(&rates, room)));
    lines
}

/// So many at the most, each the highest of its part.
fn bars(values: &[f64], most: usize) -> String {
    let highest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let part = values.len().div_ceil(most).max(1);
    let bar = |part: &[f64]| {
        let share = part.iter().copied().fold(0.0, f64::max) / highest;
        BARS[((share * BARS.len() as f64).ceil() as usize).clamp(1, BARS.len()) - 1]
    };
    values.chunks(part).map(bar).collect()
}

fn key_managers(status: &Value) -> Vec<String> {
    let row = |manager: &Value| {
        let sessions = &manager["sessions"];
        let queued = elements(&manager["queued"]).iter().filter_map(Value::as_u64).sum::<u64>();
        let of_sessions = |name: &str| word(&sessions[name]);
        let queued = if sessions.is_object() { queued.to_string() } else { "-".to_owned() };
        [
            word(&manager["name"]),
            word(&manager["health"]),
            of_sessions("busy"),
            of_sessions("open"),
            of_sessions("configured"),
            queued,
        ]
    };
    let rows: Vec<_> = elements(&status["key_managers"]).iter().map(row).collect();
    table(["key manager", "health", "busy", "open", "sessions", "queued"], &rows)
}

/// Answers since the start, and a second since the look before.
fn key_stores(status: &Value, before: Option<&Value>) -> Vec<String> {
    let answers = |status: &Value, store: &Value, is_good: bool| -> u64 {
        let requests = elements(&status["requests"]).iter();
        let of_store = requests.filter(|request| request["key_store"] == *store);
        let wanted = of_store.filter(|request| (request["error"] == "none") == is_good);
        wanted.filter_map(|request| request["count"].as_u64()).sum()
    };
    let uptime = |status: &Value| status["uptime_seconds"].as_u64().unwrap_or(0);
    let rate = |store: &Value| {
        let before = before.filter(|before| uptime(status) > uptime(before))?;
        let count = |status| answers(status, store, true) + answers(status, store, false);
        // Fewer than before: it was started again.
        let since = count(status).checked_sub(count(before))?;
        Some(since as f64 / (uptime(status) - uptime(before)) as f64)
    };
    let row = |store: &Value| {
        let prefix = &store["path_prefix"];
        [
            word(prefix),
            if store["enabled"] == false { "disabled" } else { "enabled" }.to_owned(),
            word(&store["keys"]),
            rate(prefix).map_or("-".to_owned(), |rate| format!("{rate:.1}")),
            answers(status, prefix, true).to_string(),
            answers(status, prefix, false).to_string(),
        ]
    };
    let rows: Vec<_> = elements(&status["key_stores"]).iter().map(row).collect();
    table(["key store", "state", "keys", "/s", "good", "errors"], &rows)
}

/// Primary versions.
fn keys(status: &Value) -> Vec<String> {
    let mut rows = Vec::new();
    for store in elements(&status["key_stores"]) {
        for key in elements(&store["key_versions"]) {
            let primary = |version: &&Value| version["state"] == "primary";
            let versions = elements(&key["versions"]);
            let Some(version) = versions.iter().find(primary) else { continue };
            let percent = version["budget"]["percent"].as_f64();
            let used = percent.map_or("-".to_owned(), |percent| format!("{percent:.2} %"));
            let (number, count) = (word(&version["number"]), versions.len().to_string());
            let row = [word(&store["path_prefix"]), word(&key["key"]), number, count, used];
            rows.push((percent.unwrap_or(0.0), row));
        }
    }
    rows.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let more = rows.len().saturating_sub(KEYS_MAX);
    rows.truncate(KEYS_MAX);
    let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
    let mut lines = table(["key store", "key", "primary", "versions", "budget used"], &rows);
    if more > 0 {
        lines.push(format!("and {more} more keys"));
    }
    lines
}

fn certificates(status: &Value) -> Vec<String> {
    let row = |certificate: &Value| {
        [word(&certificate["subject"]), format!("{} days", days_left(certificate))]
    };
    let rows: Vec<_> = elements(&status["tls"]["certificates"]).iter().map(row).collect();
    table(["certificate", "valid for"], &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SIZE: Size = Size { columns: 100, rows: 60 };

    fn status(count: u64, uptime: u64) -> Value {
        json!({
            "version": "1", "ready": true, "draining": false, "uptime_seconds": uptime,
            "listen": "127.0.0.1:443", "shards": [{ "connections_open": 3 }],
            "key_managers": [{ "name": "hsm\u{1b}[2J", "health": "ACTIVE", "queued": [1, 2],
                "sessions": { "busy": 1, "open": 2, "configured": 4 } }],
            "key_stores": [{ "path_prefix": "/a", "enabled": true, "keys": 1, "key_versions": [
                { "key": "foo", "versions": [
                    { "number": 0, "state": "decrypt_only" },
                    { "number": 1, "state": "primary", "budget": { "percent": 75.25 } },
                ] },
            ] }],
            "requests": [
                { "key_store": "/a", "error": "none", "count": count },
                { "key_store": "/a", "error": "ThrottlingException", "count": 5 },
            ],
        })
    }

    #[test]
    fn a_frame_says_what_is_wrong_what_happens_and_fits() {
        let history = json!({ "samples": [
            { "seconds": 10.0, "successes": 50, "retryable_errors": 5, "other_errors": 0,
              "p50_us": 1200, "p99_us": 3400, "p99_9_us": null, "queued": 3 },
        ] });
        let before = status(100, 10);
        let lines = frame(&status(300, 20), Some(&before), &history, SIZE);
        let has = |words: &[&str]| {
            let found = lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
            assert!(found, "{words:?} in {lines:#?}");
        };
        has(&["xksd 1", "ready", "3 connections"]);
        has(&["WRONG", "foo of /a", "75.2"]);
        has(&["5.0", "0.5", "1.2 ms", "3.4 ms"]);
        has(&["█", "5.5/s"]);
        has(&["hsm\u{fffd}[2J", "ACTIVE", "1", "2", "4", "3"]);
        has(&["/a", "enabled", "20.0", "300", "5"]);
        assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "{lines:#?}");
        let small = frame(&status(1, 1), None, &history, Size { columns: 20, rows: 5 });
        assert!(small.len() == 5 && small.iter().all(|line| line.chars().count() <= 20));
        assert!(frame(&json!({}), None, &json!({}), SIZE)[0].contains("NOT READY"));
    }

    #[test]
    fn bars_stand_for_the_highest_of_their_part() {
        assert_eq!(bars(&[0.0, 8.0, 4.0, 1.0], 4), "▁█▄▁");
        assert_eq!(bars(&[0.0, 8.0, 4.0, 1.0], 2), "█▄");
        assert_eq!(bars(&[], 4), "");
    }
}
