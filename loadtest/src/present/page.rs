//! The report as one page that can be mailed and printed: no file beside it, no script.

use std::fmt::Write;

use super::chart::escape;
use super::conclusion::conclusion;
use super::{curves, text};
use crate::criteria::TestResult;
use crate::report::Report;
use crate::report::capacity::Capacity;
use crate::report::step::{Step, one_for_each_rate};
use crate::units::{count, counted, figure, latency, micros, seconds};

const STYLE: &str = include_str!("style.css");

/// The file that holds the same results for machines.
pub struct Results {
    /// Its name.
    pub file: String,
    /// SHA-256 of it, in hexadecimal: who signs the page signs the file.
    pub sha256: String,
}

/// The whole page.
pub fn page(report: &Report, results: Option<&Results>) -> String {
    let mut body = String::new();
    heading(report, &mut body);
    checks(report, &mut body);
    subject(report, results, &mut body);
    latencies(report, &mut body);
    body.push_str("<h2>Over time</h2>\n");
    body.push_str(&curves::latency_over_time(report).draw());
    body.push_str(&curves::rate_over_time(report).draw());
    if report.steps.len() > 1 {
        over_load(report, &mut body);
    }
    errors(report, &mut body);
    machine(report, &mut body);
    body.push_str(
        "<div class=\"signature\"><span>Name, function</span><span>Place, date</span>\
         <span>Signature</span></div>\n",
    );
    document(&format!("Load test of {}", report.settings.target), &body)
}

pub(super) fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" \
         content=\"width=device-width\"/>\
         <title>{}</title><style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n",
        escape(title)
    )
}

fn heading(report: &Report, body: &mut String) {
    let (class, result) = match report.result() {
        TestResult::Pass => ("pass", "PASS"),
        TestResult::Fail => ("fail", "FAIL"),
        TestResult::NoCriteria => ("note", "NOT JUDGED"),
    };
    let kind = if report.capacity.is_some() { "Capacity test" } else { "Load test" };
    let _ = writeln!(
        body,
        "<p class=\"kicker\">{kind} of an AWS KMS external key store proxy</p>\n<h1>{} \
         <span class=\"badge {class}\">{result}</span></h1>\n<p class=\"conclusion\">{}</p>",
        escape(&report.subject.proxy().unwrap_or_else(|| report.settings.target.clone())),
        escape(&conclusion(report))
    );
    tiles(report, body);
    for warning in &report.warnings {
        let _ = writeln!(body, "<p class=\"warning\">Note: {}</p>", escape(warning));
    }
}

fn tiles(report: &Report, body: &mut String) {
    let failed = report.errors + report.wrong;
    let mut tiles = vec![match &report.capacity {
        Some(capacity) => capacity_tile(capacity),
        None => (
            "Answered right",
            format!("{}/s", figure(report.throughput)),
            format!("for {}", seconds(report.seconds)),
        ),
    }];
    let (name, value, more) = judged_latency(report);
    tiles.push((&name, latency(value), more));
    let latest = latency(report.answers.latest_us);
    tiles.push(("Latest answer", latest, "KMS gives up after 250 ms".into()));
    let of = format!("of {}", counted(report.offered, "request"));
    tiles.push(("Failed or wrong", count(failed), of));
    body.push_str("<div class=\"tiles\">\n");
    for (at, (name, value, more)) in tiles.iter().enumerate() {
        let class = if at == 0 { "tile first" } else { "tile" };
        let _ = writeln!(
            body,
            "<div class=\"{class}\"><span class=\"name\">{}</span><span \
             class=\"value\">{}</span><span class=\"more\">{}</span></div>",
            escape(name),
            escape(value),
            escape(more)
        );
    }
    body.push_str("</div>\n");
}

/// The percentile that is judged, before all others one that is missed; or the one that clients of
/// AWS KMS would feel.
fn judged_latency(report: &Report) -> (String, u64, String) {
    let judged = report.slas.iter().zip(report.latency.at_slas.iter().copied());
    let missed = judged.clone().find(|(sla, us)| *us > sla.limit_us);
    let (name, us, limit) = match missed.or(judged.clone().next()) {
        Some((sla, us)) => (sla.name.as_str(), us, format!("at most {}", micros(sla.limit_us))),
        None => ("p99.9", report.latency.p999, String::new()),
    };
    (format!("Latency, {name}"), us, limit)
}

fn capacity_tile(capacity: &Capacity) -> (&'static str, String, String) {
    let limit = match (capacity.failed_at, capacity.bottleneck) {
        (Some(_), Some(bottleneck)) => format!("limited by {}", bottleneck.name()),
        _ => "no limit found".into(),
    };
    match capacity.rate {
        Some(rate) => ("Capacity", format!("{} requests/s", figure(rate)), limit),
        None => ("Capacity", "none".into(), limit),
    }
}

fn checks(report: &Report, body: &mut String) {
    body.push_str(
        "<h2>Criteria</h2>\n<table class=\"checks\"><thead><tr><th></th><th>what</th>\
         <th class=\"n\">measured</th><th class=\"n\">limit</th></tr></thead><tbody>\n",
    );
    for check in &report.checks {
        let (class, word) = if check.passed { ("pass", "pass") } else { ("fail", "FAIL") };
        let _ = writeln!(
            body,
            "<tr><td class=\"{class}\">{word}</td><td>{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td></tr>",
            escape(&check.what),
            escape(&check.value),
            escape(&check.limit)
        );
    }
    let _ = writeln!(
        body,
        "</tbody></table>\n<p>{} requests were due; {} were answered right, {} not. \
         Throughput: {}. Answers: {}.</p>",
        count(report.offered),
        count(report.right),
        count(report.offered.saturating_sub(report.right)),
        text::throughput(report),
        escape(&text::answers(report))
    );
    for what in &report.wrong_examples {
        let _ = writeln!(body, "<p class=\"fail\">Wrong answer: {}</p>", escape(what));
    }
}

fn subject(report: &Report, results: Option<&Results>, body: &mut String) {
    body.push_str("<h2>What was tested</h2>\n<table class=\"facts\"><tbody>\n");
    for (name, value) in text::subject_rows(report) {
        fact(name, &escape(&value), body);
    }
    for note in &report.subject.described.notes {
        fact(&note.name, &escape(&note.text), body);
    }
    let command = format!("<code>{}</code>", escape(&report.subject.command));
    fact("command", &command, body);
    if let Some(Results { file, sha256 }) = results {
        let value = format!("{} <code>SHA-256 {sha256}</code>", escape(file));
        fact("results file", &value, body);
    }
    body.push_str("</tbody></table>\n");
}

fn fact(name: &str, html: &str, body: &mut String) {
    let _ = writeln!(body, "<tr><th>{}</th><td>{html}</td></tr>", escape(name));
}

fn latencies(report: &Report, body: &mut String) {
    body.push_str("<h2>Latency</h2>\n<div class=\"wide\"><table><thead><tr><th></th>");
    for name in ["p50", "p90", "p99", "p99.9", "p99.99", "max", "answers"] {
        let _ = write!(body, "<th class=\"n\">{name}</th>");
    }
    body.push_str("</tr></thead><tbody>\n");
    let all = std::iter::once(("all calls", &report.latency))
        .chain(report.calls.iter().map(|c| (c.call.as_str(), &c.latency)));
    for (name, p) in all {
        let _ = write!(body, "<tr><td>{}</td>", escape(name));
        for time in [p.p50, p.p90, p.p99, p.p999, p.p9999, p.max] {
            let _ = write!(body, "<td class=\"n\">{}</td>", latency(time));
        }
        let _ = writeln!(body, "<td class=\"n\">{}</td></tr>", count(p.count));
    }
    body.push_str("</tbody></table></div>\n");
    if report.capacity.is_some() {
        body.push_str(
            "<p class=\"note\">Latencies and figures over time are those of the last trial that \
             passed.</p>\n",
        );
    }
    body.push_str(&curves::percentiles(&[("all calls", "blue", report)], report).draw());
    body.push_str(
        "<p class=\"note\">A latency counts from the moment a request was due until its answer was \
         read and checked; waiting for a free connection is part of it.</p>\n",
    );
}

fn over_load(report: &Report, body: &mut String) {
    body.push_str("<h2>Over offered load</h2>\n");
    match &report.capacity {
        None => drop(writeln!(body, "<p>{}.</p>", escape(&text::knee_text(report)))),
        Some(capacity) => {
            let text = text::capacity_reasons(capacity).join("; ");
            let _ = writeln!(body, "<p>The capacity is {}.</p>", escape(&text));
        }
    }
    body.push_str(&curves::throughput_over_load(report).draw());
    body.push_str(&curves::latency_over_load(report).draw());
    steps_table(&report.steps, body);
}

fn steps_table(steps: &[Step], body: &mut String) {
    body.push_str("<div class=\"wide\"><table><thead><tr>");
    for name in ["offered/s", "for", "answered/s", "p50", "p99", "p99.9", "max", "errors"] {
        let _ = write!(body, "<th class=\"n\">{name}</th>");
    }
    body.push_str("<th></th></tr></thead><tbody>\n");
    let drawn = one_for_each_rate(steps);
    for step in steps {
        // A rate that was tried again has one row that counts.
        let counts = drawn.iter().any(|drawn| std::ptr::eq(*drawn, step));
        let row = if counts { "<tr>" } else { "<tr class=\"repeated\">" };
        let class = if step.passed { "pass" } else { "fail" };
        body.push_str(row);
        let times = [step.p50, step.p99, step.p999, step.max].map(latency);
        let cells = [figure(step.offered_rate), seconds(step.seconds), figure(step.throughput)]
            .into_iter()
            .chain(times)
            .chain([count(step.errors)]);
        for cell in cells {
            let _ = write!(body, "<td class=\"n\">{cell}</td>");
        }
        let _ = writeln!(body, "<td class=\"status {class}\">{}</td></tr>", step.status());
    }
    body.push_str("</tbody></table></div>\n");
    if drawn.len() < steps.len() {
        body.push_str(
            "<p class=\"note\">Rates that were tried several times: the pictures show the trial \
             that counts, the longest; the others are grey here.</p>\n",
        );
    }
}

fn errors(report: &Report, body: &mut String) {
    if report.errors_by_name.is_empty() {
        return;
    }
    let _ = writeln!(
        body,
        "<h2>Errors</h2>\n<p>Times of errors{}.</p>\n<table><tbody>",
        escape(&text::error_span(report))
    );
    for (name, n) in &report.errors_by_name {
        let _ =
            writeln!(body, "<tr><td>{}</td><td class=\"n\">{}</td></tr>", escape(name), count(*n));
    }
    body.push_str("</tbody></table>\n");
}

fn machine(report: &Report, body: &mut String) {
    let s = &report.settings;
    let run = [
        ("load", s.load.clone()),
        ("arrivals", s.arrivals.clone()),
        ("mix", s.mix.clone()),
        (
            "plaintext, AAD",
            format!(
                "{} and {} bytes; {:.0} % of encrypts ask for a CDIV",
                s.plaintext_bytes,
                s.aad_bytes,
                s.cdiv * 100.0
            ),
        ),
        (
            "keys",
            format!(
                "{} in each of {}",
                counted(s.keys as u64, "key"),
                counted(s.key_stores as u64, "key store")
            ),
        ),
        (
            "connections",
            format!(
                "{} with at most {} in flight, {}",
                count(s.connections as u64),
                counted(s.depth as u64, "request"),
                counted(s.workers as u64, "worker")
            ),
        ),
        ("time-out", format!("{} ms", count(s.timeout_ms))),
        ("TLS", text::tls(report)),
    ];
    body.push_str("<h2>Resources</h2>\n<table class=\"facts\"><tbody>\n");
    for (name, value) in text::machine_rows(report) {
        fact(name, &escape(&value), body);
    }
    body.push_str("</tbody></table>\n<h2>Load</h2>\n<table class=\"facts\"><tbody>\n");
    for (name, value) in run {
        fact(name, &escape(&value), body);
    }
    body.push_str("</tbody></table>\n");
}
