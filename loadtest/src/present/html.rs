//! The report as one page that can be mailed: no file beside it, no script.

use std::fmt::Write;

use super::svg::{Axis, Chart, Mark, Scale, Series, escape};
use super::text;
use crate::criteria::TestResult;
use crate::report::capacity::Capacity;
use crate::report::step::{Step, by_rate, knee};
use crate::report::{Point, Report};
use crate::units::{count, counted, figure, latency, micros};

pub(crate) const BLUE: &str = "#2471a3";
pub(crate) const ORANGE: &str = "#d68910";
pub(crate) const GREEN: &str = "#1e8449";
pub(crate) const RED: &str = "#c0392b";
pub(crate) const GREY: &str = "#999999";

pub(crate) const STYLE: &str = "\
body{font:15px/1.45 sans-serif;color:#222;max-width:920px;margin:2em auto;padding:0 1em}\
h1{font-size:1.5em;margin-bottom:.2em}h2{font-size:1.15em;margin-top:1.8em}\
table{border-collapse:collapse;margin:.6em 0}td,th{padding:.2em .8em .2em \
0;text-align:left;vertical-align:top}\
td.n,th.n{text-align:right}tr+tr td{border-top:1px solid \
#eee}svg{width:100%;height:auto;margin:.6em 0}\
.pass{color:#1e8449;font-weight:bold}.fail{color:#c0392b;font-weight:bold}.note{color:#666}.warning{background:#fdf2d0;padding:.4em .8em}";

pub(crate) fn us(value: f64) -> String {
    micros(value.round() as u64)
}

/// The same for an axis: the unit changes with the value, and the decimals with it.
pub(crate) fn us_text(value: f64, _: usize) -> String {
    us(value)
}

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut body = String::new();
    let (class, result) = match report.result() {
        TestResult::Pass => ("pass", "PASS".into()),
        TestResult::Fail => ("fail", "FAIL".into()),
        TestResult::NoCriteria => ("note", format!("no criteria given, {}", text::errors(report))),
    };
    let _ = writeln!(
        body,
        "<h1>{}: <span class=\"{class}\">{result}</span></h1>\n<p class=\"note\">{}, {} UTC, \
         xksd-load {}</p>",
        escape(&report.settings.target),
        escape(&report.settings.load),
        escape(report.started.trim_end_matches('Z')),
        escape(&report.version)
    );
    for warning in &report.warnings {
        let _ = writeln!(body, "<p class=\"warning\">{}</p>", escape(warning));
    }
    checks(report, &mut body);
    if let Some(capacity) = &report.capacity {
        body.push_str(&capacity_html(capacity));
    }
    body.push_str("<h2>Latency</h2>\n");
    latency_table(report, &mut body);
    body.push_str(&percentile_chart(&[("all calls", BLUE, report)], report).draw());
    body.push_str(
        "<p class=\"note\">From the moment a request was due until its answer was read \
        and checked; waiting for a free connection is part of it.</p>\n",
    );
    body.push_str("<h2>Over time</h2>\n");
    body.push_str(&over_time(report).draw());
    body.push_str(&rate_over_time(report).draw());
    if report.steps.len() > 1 {
        body.push_str("<h2>Over offered load</h2>\n");
        if report.capacity.is_none() {
            let _ = writeln!(body, "<p>{}.</p>", escape(&text::knee_text(report)));
        }
        body.push_str(&throughput_chart(report).draw());
        body.push_str(&latency_over_load(report).draw());
        steps_table(&report.steps, &mut body);
    }
    errors(report, &mut body);
    machine(report, &mut body);
    document(&format!("xksd-load: {}", report.settings.target), &body)
}

pub(crate) fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" \
         content=\"width=device-width\"/>\
         <title>{}</title><style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n",
        escape(title)
    )
}

fn checks(report: &Report, body: &mut String) {
    body.push_str(
        "<table><tr><th></th><th>what</th><th class=\"n\">measured</th><th>at most</th></tr>\n",
    );
    for check in &report.checks {
        let (class, word) = if check.passed { ("pass", "pass") } else { ("fail", "FAIL") };
        let _ = writeln!(
            body,
            "<tr><td class=\"{class}\">{word}</td><td>{}</td><td \
             class=\"n\">{}</td><td>{}</td></tr>",
            escape(&check.what),
            escape(&check.value),
            escape(&check.limit)
        );
    }
    let _ = writeln!(
        body,
        "</table>\n<p>{} requests were due, {} were answered right, {} were not: {}.</p>",
        count(report.offered),
        count(report.right),
        count(report.offered.saturating_sub(report.right)),
        text::throughput(report)
    );
    let _ = writeln!(body, "<p>Answers: {}.</p>", escape(&text::answers(report)));
    for what in &report.wrong_examples {
        let _ = writeln!(body, "<p class=\"fail\">Wrong answer: {}</p>", escape(what));
    }
}

fn latency_table(report: &Report, body: &mut String) {
    body.push_str("<table><tr><th></th>");
    for name in ["p50", "p90", "p99", "p99.9", "p99.99", "max", "answers"] {
        let _ = write!(body, "<th class=\"n\">{name}</th>");
    }
    body.push_str("</tr>\n");
    let all = std::iter::once(("all calls", &report.latency))
        .chain(report.calls.iter().map(|c| (c.call.as_str(), &c.latency)));
    for (name, p) in all {
        let _ = write!(body, "<tr><td>{}</td>", escape(name));
        for time in [p.p50, p.p90, p.p99, p.p999, p.p9999, p.max] {
            let _ = write!(body, "<td class=\"n\">{}</td>", latency(time));
        }
        let _ = writeln!(body, "<td class=\"n\">{}</td></tr>", count(p.count));
    }
    body.push_str("</table>\n");
}

fn latency_axis() -> Axis {
    Axis { label: "latency (logarithmic)", scale: Scale::Log, text: us_text }
}

fn sla_marks(report: &Report) -> Vec<Mark> {
    report
        .slas
        .iter()
        .map(|sla| {
            Mark::Horizontal(
                sla.limit_us as f64,
                format!("{} at most {}", sla.name, micros(sla.limit_us)),
            )
        })
        .collect()
}

/// Percentile curves of one report or of several.
pub(crate) fn percentile_chart(
    curves: &[(&str, &'static str, &Report)],
    marks_of: &Report,
) -> Chart {
    let series = curves
        .iter()
        .map(|(name, color, report)| Series {
            name: (*name).to_owned(),
            color,
            dashed: false,
            points: report
                .latency
                .curve
                .iter()
                .map(|(quantile, us)| (*quantile, *us as f64))
                .collect(),
        })
        .collect();
    Chart {
        title: "Latency by percentile".into(),
        x: Axis {
            label: "share of the requests that were faster (each nine the same length)",
            scale: Scale::Nines,
            text: |quantile, _| {
                let percent = format!("{:.5}", quantile * 100.0);
                format!("{} %", percent.trim_end_matches('0').trim_end_matches('.'))
            },
        },
        y: latency_axis(),
        series,
        marks: sla_marks(marks_of),
    }
}

fn seconds_axis() -> Axis {
    Axis {
        label: "seconds since the start (warm-up included)",
        scale: Scale::Linear,
        text: |v, decimals| format!("{v:.decimals$}"),
    }
}

fn over_time(report: &Report) -> Chart {
    let line = |name: &str, color, value: fn(&Point) -> u64| Series {
        name: name.into(),
        color,
        dashed: false,
        points: report
            .timeline
            .iter()
            .filter(|p| p.right > 0)
            .map(|p| (p.second as f64, value(p) as f64))
            .collect(),
    };
    let series = vec![
        line("max", GREY, |p| p.max),
        line("p99", ORANGE, |p| p.p99),
        line("p50", BLUE, |p| p.p50),
    ];
    Chart {
        title: "Latency over time".into(),
        x: seconds_axis(),
        y: latency_axis(),
        series,
        marks: sla_marks(report),
    }
}

fn rate_over_time(report: &Report) -> Chart {
    let line = |name: &str, color, dashed, value: fn(&Point) -> u64| Series {
        name: name.into(),
        color,
        dashed,
        points: report.timeline.iter().map(|p| (p.second as f64, value(p) as f64)).collect(),
    };
    let series = vec![
        line("answered right", GREEN, false, |p| p.right),
        line("errors", RED, false, |p| p.errors),
        line("offered", GREY, true, |p| p.offered),
    ];
    Chart {
        title: "Requests each second".into(),
        x: seconds_axis(),
        y: Axis { label: "requests/s", scale: Scale::Linear, text: figure_text },
        series,
        marks: Vec::new(),
    }
}

pub(crate) fn figure_text(value: f64, decimals: usize) -> String {
    if decimals == 0 { count(value.round() as u64) } else { format!("{value:.decimals$}") }
}

pub(crate) fn load_axis() -> Axis {
    Axis { label: "offered load, requests/s", scale: Scale::Linear, text: figure_text }
}

fn knee_mark(report: &Report) -> Vec<Mark> {
    if let Some(capacity) = &report.capacity {
        return capacity
            .rate
            .map(|rate| Mark::Vertical(rate, format!("capacity: {}/s", figure(rate))))
            .into_iter()
            .collect();
    }
    knee(&report.steps)
        .map(|step| {
            Mark::Vertical(step.offered_rate, format!("knee: {}/s", figure(step.offered_rate)))
        })
        .into_iter()
        .collect()
}

fn throughput_chart(report: &Report) -> Chart {
    let steps = by_rate(&report.steps);
    let line = |name: &str, color, dashed, value: fn(&Step) -> f64| Series {
        name: name.into(),
        color,
        dashed,
        points: steps.iter().map(|s| (s.offered_rate, value(s))).collect(),
    };
    let series = vec![
        line("answered right", GREEN, false, |s| s.throughput),
        line("errors", RED, false, |s| s.errors as f64 / s.seconds.max(1e-9)),
        line("offered", GREY, true, |s| s.offered_rate),
    ];
    Chart {
        title: "Throughput over offered load".into(),
        x: load_axis(),
        y: Axis { label: "requests/s", scale: Scale::Linear, text: figure_text },
        series,
        marks: knee_mark(report),
    }
}

fn latency_over_load(report: &Report) -> Chart {
    let steps = by_rate(&report.steps);
    let line = |name: &str, color, value: fn(&Step) -> u64| Series {
        name: name.into(),
        color,
        dashed: false,
        points: steps
            .iter()
            .filter(|s| s.right > 0)
            .map(|s| (s.offered_rate, value(s) as f64))
            .collect(),
    };
    let series = vec![
        line("p99.9", GREY, |s| s.p999),
        line("p99", ORANGE, |s| s.p99),
        line("p50", BLUE, |s| s.p50),
    ];
    let mut marks = sla_marks(report);
    marks.extend(knee_mark(report));
    Chart {
        title: "Latency over offered load".into(),
        x: load_axis(),
        y: latency_axis(),
        series,
        marks,
    }
}

pub(crate) fn steps_table(steps: &[Step], body: &mut String) {
    body.push_str("<table><tr>");
    for name in ["offered/s", "answered/s", "p50", "p99", "p99.9", "max", "errors"] {
        let _ = write!(body, "<th class=\"n\">{name}</th>");
    }
    body.push_str("<th></th></tr>\n");
    for step in steps {
        let (class, word) = (if step.passed { "pass" } else { "fail" }, step.status());
        body.push_str("<tr>");
        let times = [step.p50, step.p99, step.p999, step.max].map(latency);
        let cells = [figure(step.offered_rate), figure(step.throughput)]
            .into_iter()
            .chain(times)
            .chain([count(step.errors)]);
        for cell in cells {
            let _ = write!(body, "<td class=\"n\">{cell}</td>");
        }
        let _ = writeln!(body, "<td class=\"{class}\">{word}</td></tr>");
    }
    body.push_str("</table>\n");
}

fn errors(report: &Report, body: &mut String) {
    if report.errors_by_name.is_empty() {
        return;
    }
    let _ = writeln!(
        body,
        "<h2>Errors</h2>\n<p>Times of errors{}.</p>\n<table>",
        escape(&text::error_span(report))
    );
    for (name, n) in &report.errors_by_name {
        let _ =
            writeln!(body, "<tr><td class=\"n\">{}</td><td>{}</td></tr>", count(*n), escape(name));
    }
    body.push_str("</table>\n");
}

fn machine(report: &Report, body: &mut String) {
    let s = &report.settings;
    let run = [
        ("arrivals", s.arrivals.clone()),
        ("mix", s.mix.clone()),
        (
            "plaintext, AAD",
            format!(
                "{} and {} bytes, CDIV asked for in {:.0} % of encrypts",
                s.plaintext_bytes,
                s.aad_bytes,
                s.cdiv * 100.0
            ),
        ),
        ("keys", format!("{} in each of {}", s.keys, counted(s.key_stores as u64, "key store"))),
        (
            "connections",
            format!(
                "{} with at most {} in flight, {}",
                s.connections,
                counted(s.depth as u64, "request"),
                counted(s.workers as u64, "worker")
            ),
        ),
        ("time-out", format!("{} ms", s.timeout_ms)),
        ("TLS", text::tls(report)),
    ];
    body.push_str("<h2>Proxy, HSM and this tool</h2>\n<table>\n");
    for (name, value) in text::machine_rows(report).into_iter().chain(run) {
        let _ = writeln!(body, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(&value));
    }
    body.push_str("</table>\n");
}

fn capacity_html(capacity: &Capacity) -> String {
    let text = text::capacity(capacity);
    let lines: Vec<String> = text.lines().map(escape).collect();
    format!(
        "<h2>Capacity</h2>\n<p>{}</p>\n<p class=\"note\">The figures below are those of the last \
         trial that passed.</p>\n",
        lines.join("<br/>\n")
    )
}
