//! Two reports side by side.

use std::fmt::Write;

use super::chart::{Axis, Chart, Scale, Series, escape};
use super::curves::{figure_text, latency_axis, load_axis, percentiles};
use super::page::document;
use crate::criteria::TestResult;
use crate::report::Report;
use crate::report::step::one_for_each_rate;
use crate::units::{count, figure, latency, micros};

/// A row: what, A, B, and B as a multiple of A.
struct Row {
    what: String,
    a: String,
    b: String,
    ratio: Option<f64>,
}

fn rows(a: &Report, b: &Report) -> Vec<Row> {
    let ratio = |a: f64, b: f64| (a > 0.0 && !b.is_nan()).then(|| b / a);
    // Not a number where nothing was answered: there is no time then, and no ratio.
    let time = |us: u64| if us == 0 { f64::NAN } else { us as f64 };
    let mut rows = Vec::new();
    let mut text =
        |what: &str, a: String, b: String| rows.push(Row { what: what.into(), a, b, ratio: None });
    text("result", result(a), result(b));
    text("wrong answers", count(a.wrong), count(b.wrong));
    text("errors", count(a.errors), count(b.errors));
    let mut number = |what: &str, a: f64, b: f64, show: &dyn Fn(f64) -> String| {
        rows.push(Row { what: what.into(), a: show(a), b: show(b), ratio: ratio(a, b) });
    };
    number("throughput, requests/s", a.throughput, b.throughput, &figure);
    if let (Some(a), Some(b)) = (capacity(a), capacity(b)) {
        number("capacity, requests/s", a, b, &figure);
    }
    let (la, lb) = (&a.latency, &b.latency);
    for (what, a, b) in [
        ("p50", la.p50, lb.p50),
        ("p90", la.p90, lb.p90),
        ("p99", la.p99, lb.p99),
        ("p99.9", la.p999, lb.p999),
        ("max", la.max, lb.max),
    ] {
        number(what, time(a), time(b), &latency_text);
    }
    let cpu = |report: &Report| report.proxy.cpu.as_ref()?.us_per_request;
    if let (Some(a), Some(b)) = (cpu(a), cpu(b)) {
        number("proxy CPU, µs a request", a, b, &figure);
    }
    if let (Some(a), Some(b)) = (&a.proxy.key_manager, &b.proxy.key_manager) {
        number("wait for a session, mean", a.queue_mean_us, b.queue_mean_us, &mean);
        number("key manager, mean", a.hsm_mean_us, b.hsm_mean_us, &mean);
    }
    number("latest answer", time(a.answers.latest_us), time(b.answers.latest_us), &latency_text);
    if a.tls.handshakes_per_second + b.tls.handshakes_per_second > 0.0 {
        number("handshakes/s", a.tls.handshakes_per_second, b.tls.handshakes_per_second, &figure);
    }
    number(
        "handshake, p50",
        time(a.tls.handshake_p50_us),
        time(b.tls.handshake_p50_us),
        &latency_text,
    );
    rows
}

fn mean(us: f64) -> String {
    micros(us.round() as u64)
}

fn latency_text(us: f64) -> String {
    // Not a number becomes 0, which is no latency.
    latency(us as u64)
}

fn result(report: &Report) -> String {
    match report.result() {
        TestResult::Pass => "pass",
        TestResult::Fail => "fail",
        TestResult::NoCriteria => "no criteria given",
    }
    .into()
}

fn capacity(report: &Report) -> Option<f64> {
    report.capacity.as_ref()?.rate
}

fn load(report: &Report) -> String {
    let search = if report.capacity.is_some() { ", found by a search" } else { "" };
    format!("{}{search}", report.settings.load)
}

/// Settings that differ: what is compared was not asked the same.
pub fn differences(a: &Report, b: &Report) -> Vec<String> {
    let (sa, sb) = (&a.settings, &b.settings);
    let mut found = Vec::new();
    let mut differ = |what: &str, a: String, b: String| {
        if a != b {
            found.push(format!("{what}: {a} against {b}"));
        }
    };
    differ("mix", sa.mix.clone(), sb.mix.clone());
    differ("arrivals", sa.arrivals.clone(), sb.arrivals.clone());
    // What two searches found is the result; how much a run was asked is not.
    if a.capacity.is_none() || b.capacity.is_none() {
        differ("load", load(a), load(b));
    }
    differ("plaintext bytes", sa.plaintext_bytes.clone(), sb.plaintext_bytes.clone());
    differ("AAD bytes", sa.aad_bytes.clone(), sb.aad_bytes.clone());
    differ("CDIV share", sa.cdiv.to_string(), sb.cdiv.to_string());
    differ("connections", sa.connections.to_string(), sb.connections.to_string());
    differ("depth", sa.depth.to_string(), sb.depth.to_string());
    differ("workers", sa.workers.to_string(), sb.workers.to_string());
    differ(
        "keys",
        format!("{}×{}", sa.key_stores, sa.keys),
        format!("{}×{}", sb.key_stores, sb.keys),
    );
    differ("reconnects", sa.reconnect_rate.to_string(), sb.reconnect_rate.to_string());
    let per_connection = |settings: &crate::report::Settings| {
        settings.requests_per_connection.map_or("any".into(), |n| n.to_string())
    };
    differ("requests a connection", per_connection(sa), per_connection(sb));
    differ("resumption", sa.resume.to_string(), sb.resume.to_string());
    differ("idle connections", sa.idle.to_string(), sb.idle.to_string());
    differ("unverified", sa.unverified.to_string(), sb.unverified.to_string());
    differ("TLS", a.tls.protocol.clone(), b.tls.protocol.clone());
    found
}

/// For a terminal.
pub fn text(names: [&str; 2], a: &Report, b: &Report) -> String {
    // The loads are sentences, of any length: no column would hold them.
    let mut text =
        format!("A: {}: {}\nB: {}: {}\n\n", names[0], a.settings.load, names[1], b.settings.load);
    let _ = writeln!(text, "{:<26} {:>16} {:>16} {:>8}", "", "A", "B", "B/A");
    for row in rows(a, b) {
        let ratio = row.ratio.map_or(String::new(), |r| format!("{r:.2}"));
        let _ = writeln!(text, "{:<26} {:>16} {:>16} {ratio:>8}", row.what, row.a, row.b);
    }
    for difference in differences(a, b) {
        let _ = writeln!(text, "not asked the same: {difference}");
    }
    text
}

/// As a page.
pub fn page(names: [&str; 2], a: &Report, b: &Report) -> String {
    let mut body = format!(
        "<h1>A against B</h1>\n<p>A: {}: {}<br/>B: {}: {}</p>\n",
        escape(names[0]),
        escape(&a.settings.load),
        escape(names[1]),
        escape(&b.settings.load)
    );
    for difference in differences(a, b) {
        let _ =
            writeln!(body, "<p class=\"warning\">Not asked the same: {}</p>", escape(&difference));
    }
    body.push_str(
        "<table><tr><th></th><th class=\"n\">A</th><th class=\"n\">B</th><th \
        class=\"n\">B/A</th></tr>\n",
    );
    for row in rows(a, b) {
        let ratio = row.ratio.map_or(String::new(), |r| format!("{r:.2}"));
        let (what, a, b) = (escape(&row.what), escape(&row.a), escape(&row.b));
        let _ = writeln!(
            body,
            "<tr><td>{what}</td><td class=\"n\">{a}</td><td class=\"n\">{b}</td><td \
             class=\"n\">{ratio}</td></tr>"
        );
    }
    body.push_str("</table>\n");
    body.push_str(&percentiles(&[("A", "blue", a), ("B", "orange", b)], a).draw());
    if a.steps.len() > 1 && b.steps.len() > 1 {
        body.push_str(&over_load(a, b, false).draw());
        body.push_str(&over_load(a, b, true).draw());
    }
    document("xksd-load: A against B", &body)
}

fn over_load(a: &Report, b: &Report, latency: bool) -> Chart {
    let line = |name: &str, color, report: &Report| {
        let points = one_for_each_rate(&report.steps)
            .into_iter()
            .map(|s| (s.offered_rate, if latency { s.p99 as f64 } else { s.throughput }));
        Series { name: name.into(), color, dashed: false, points: points.collect() }
    };
    let (title, y) = if latency {
        ("Latency (p99) over offered load", latency_axis())
    } else {
        (
            "Throughput over offered load",
            Axis { label: "requests/s", scale: Scale::Linear, text: figure_text },
        )
    };
    Chart {
        title: title.into(),
        x: load_axis(),
        y,
        series: vec![line("A", "blue", a), line("B", "orange", b)],
        marks: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::present::tests::assert_well_formed;
    use crate::report::capacity::Capacity;
    use crate::report::tests::sample;

    #[test]
    fn a_run_and_a_search_are_not_asked_the_same() {
        let capacity = Capacity {
            rate: Some(16_000.0),
            failed_at: None,
            bottleneck: None,
            sessions_needed: 0,
            sessions_full: false,
            trials: Vec::new(),
        };
        let (run, mut search) = (sample(), Report { capacity: Some(capacity), ..sample() });
        search.settings.load = "16,000 requests/s for 20 s".into();
        let told = ["load: 1,800 requests/s against 16,000 requests/s for 20 s, found by a search"];
        assert_eq!(differences(&run, &search), told);
        assert_eq!(differences(&search, &run).len(), 1);
        // Two of them are: what they found is what is compared.
        let mut faster = search.clone();
        faster.settings.load = "20,000 requests/s for 20 s".into();
        assert!(differences(&search, &faster).is_empty());
    }

    #[test]
    fn ratios_and_differences_are_told() {
        let (a, mut b) = (sample(), sample());
        b.throughput = a.throughput * 2.0;
        b.settings.mix = "encrypt=1".into();
        let text = text(["a.json", "b.json"], &a, &b);
        let line = text.lines().find(|line| line.starts_with("throughput")).unwrap();
        assert!(line.ends_with("2.00"), "{line}");
        assert!(text.contains("not asked the same: mix"), "{text}");
        assert!(differences(&a, &a).is_empty());
        b.settings.load = "500 – 1,000 – 2,000 – 4,000 – 8,000 requests/s for 10 s each".into();
        let told = super::text(["a.json", "b.json"], &a, &b);
        assert!(
            told.starts_with("A: a.json: 1,800 requests/s\nB: b.json: 500 – 1,000 – 2,000"),
            "{told}"
        );
        let rows = told
            .lines()
            .skip_while(|line| !line.is_empty())
            .skip(1)
            .take_while(|line| !line.starts_with("not asked"));
        assert!(
            rows.clone().count() > 10 && rows.clone().all(|row| row.chars().count() == 69),
            "a row that overflows: {told}"
        );
        (b.throughput, b.latency) = (0.0, Default::default());
        let nothing = super::text(["a.json", "b.json"], &a, &b);
        let cells = |start: &str| {
            nothing
                .lines()
                .find(|line| line.starts_with(start))
                .unwrap()
                .split_whitespace()
                .skip(2)
                .collect::<Vec<_>>()
        };
        assert_eq!(cells("throughput")[1..], ["0.00", "0.00"], "{nothing}");
        assert_eq!(cells("p99.9 ")[1..], ["–"], "no time, no ratio: {nothing}");
        let page = page(["<a>", "b"], &a, &b);
        assert_well_formed(page.strip_prefix("<!DOCTYPE html>\n").unwrap());
        assert_eq!(page.matches("<svg").count(), 3);
    }
}
