use std::process::{Command, Stdio};

use super::page::{Results, page};
use super::text;
use crate::criteria::{Criteria, Sla, TestResult};
use crate::generator::stats::{PhaseStats, latency};
use crate::observe::cpu::Cpu;
use crate::observe::observer::Proxy;
use crate::report::percentiles::Percentiles;
use crate::report::step::{Step, deciding, knee};
use crate::report::tests::sample;
use crate::report::{Answers, Generator, Report, Tls};

#[test]
fn reports_are_read_back_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("r.json");
    let report = sample();
    std::fs::write(&file, report.to_json().unwrap()).unwrap();
    let again = Report::load(&file).unwrap();
    assert_eq!(text::summary(&again), text::summary(&report));
    assert_eq!(
        (&again.steps, &again.timeline, &again.checks, &again.slas),
        (&report.steps, &report.timeline, &report.checks, &report.slas)
    );
    std::fs::write(
        &file,
        serde_json::to_string(&report).unwrap().replacen("\"format\":2", "\"format\":9", 1),
    )
    .unwrap();
    assert!(Report::load(&file).unwrap_err().contains("format 9"));
    std::fs::write(&file, "{}").unwrap();
    assert!(Report::load(&file).is_err());
}

#[test]
fn a_run_without_criteria_does_not_pass() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("r.json");
    let criteria = |sla: &[&str], max_errors| {
        Criteria::new(sla.iter().map(|text| Sla::parse(text).unwrap()).collect(), max_errors)
    };
    for (criteria, errors, wrong, result, told, headline) in [
        (
            criteria(&[], None),
            1234,
            0,
            TestResult::NoCriteria,
            "NO CRITERIA GIVEN, 1,234 errors",
            "NOT JUDGED",
        ),
        (
            criteria(&[], None),
            0,
            0,
            TestResult::NoCriteria,
            "NO CRITERIA GIVEN, no errors",
            "NOT JUDGED",
        ),
        (criteria(&[], None), 0, 1, TestResult::Fail, "FAIL", "FAIL"),
        (criteria(&[], Some(1)), 1, 0, TestResult::Pass, "PASS", "PASS"),
        (criteria(&[], Some(1)), 2, 0, TestResult::Fail, "FAIL", "FAIL"),
        (criteria(&["max=1s"], None), 0, 0, TestResult::Pass, "PASS", "PASS"),
        (criteria(&["max=1s"], None), 1, 0, TestResult::Fail, "FAIL", "FAIL"),
    ] {
        let mut histogram = latency();
        histogram.record(1000).unwrap();
        let checks = crate::criteria::judge(&criteria, &histogram, errors, Some(wrong));
        let report = Report { errors, wrong, checks, slas: criteria.slas, ..sample() };
        assert_eq!(report.result(), result, "{:?}", report.checks);
        let text = text::summary(&report);
        assert!(text.lines().last().unwrap().starts_with(told), "{text}");
        assert!(page(&report, None).contains(&format!(">{headline}</span></h1>")), "{headline}");
        std::fs::write(&file, report.to_json().unwrap()).unwrap();
        let saved: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(saved["result"], serde_json::to_value(result).unwrap());
        assert_eq!(Report::load(&file).unwrap().result(), result);
    }
}

#[test]
fn without_a_right_answer_there_are_no_percentiles() {
    let phase = PhaseStats { offered: 10, errors: 10, ..PhaseStats::new() };
    let criteria = Criteria::new(vec![Sla::parse("p99=1s").unwrap()], None);
    let report = Report {
        latency: Percentiles::of(&phase.latency, &criteria.slas),
        calls: Vec::new(),
        steps: vec![Step::of(&phase, 1.0, &criteria), Step::of(&phase, 1.0, &criteria)],
        answers: Answers::default(),
        tls: Tls::default(),
        checks: crate::criteria::judge(&criteria, &phase.latency, 10, Some(0)),
        slas: criteria.slas,
        ..sample()
    };
    let text = text::summary(&report);
    let cells = |start: &str| {
        text.lines()
            .find(|line| line.starts_with(start))
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    assert_eq!(cells("all"), ["all", "–", "–", "–", "–", "–", "0"]);
    assert_eq!(cells("10.0")[..6], ["10.0", "0.00", "–", "–", "–", "10"]);
    assert_eq!(cells("FAIL  p99")[..3], ["FAIL", "p99", "–"]);
    assert!(text.contains("the latest – after") && text.contains("p50 –, p99 –, max –"), "{text}");
    let page = page(&report, None);
    assert!(page.contains("<td class=\"n\">–</td>") && !page.contains(">0 µs<"), "{page}");
}

#[test]
fn what_was_not_measured_is_not_told_as_zero() {
    let whole = sample();
    let proxy = Proxy {
        cpu: whole.proxy.cpu.clone().map(|cpu| Cpu { us_per_request: None, ..cpu }),
        key_manager: None,
    };
    let report = Report {
        proxy,
        generator: Generator {
            cpu_us_per_request: None,
            busiest_worker: None,
            ..whole.generator.clone()
        },
        ..whole.clone()
    };
    let row = |report: &Report, name: &str| {
        text::machine_rows(report).into_iter().find(|row| row.0 == name).map(|row| row.1)
    };
    assert!(
        row(&report, "proxy CPU")
            .unwrap()
            .starts_with("CPU a request not measured; 0.50 of 2 cores; ")
    );
    assert!(
        row(&report, "this tool")
            .unwrap()
            .starts_with("CPU a request not measured; busiest thread not measured; connections")
    );
    assert_eq!(row(&report, "key manager"), None);
    assert!(
        row(&whole, "this tool").unwrap().starts_with("9.50 µs a request; busiest thread 40 %; ")
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("r.json");
    std::fs::write(&file, report.to_json().unwrap()).unwrap();
    let again = Report::load(&file).unwrap();
    assert_eq!((&again.generator, &again.proxy), (&report.generator, &report.proxy));
    assert!(
        !crate::present::compare::text(["a", "b"], &whole, &again).contains("proxy CPU"),
        "nothing to compare"
    );
}

#[test]
fn a_loss_that_does_not_last_is_no_knee() {
    let told = |passed: &[bool]| {
        // Highest rate first: the order is not that of the rates.
        let step = |(n, passed): (usize, &bool)| Step {
            offered_rate: 100.0 * (n + 1) as f64,
            passed: *passed,
            ..Step::default()
        };
        let report =
            Report { steps: passed.iter().enumerate().map(step).rev().collect(), ..sample() };
        (
            knee(&report.steps).map(|step| step.offered_rate),
            deciding(&report.steps).unwrap().offered_rate,
            text::knee_text(&report),
        )
    };
    let (knee, decided, text) = told(&[true, false, true, true]);
    assert_eq!((knee, decided), (None, 400.0));
    assert_eq!(
        text,
        "no knee: the highest step passed; 1 step below it failed, while higher ones passed"
    );
    let (knee, decided, text) = told(&[true, false, true, false, false]);
    assert_eq!((knee, decided), (Some(300.0), 400.0));
    assert!(
        text.starts_with(
            "knee: 300/s is the highest step that passed; 1 step below it failed, \
            while higher ones passed; limited by "
        ),
        "{text}"
    );
    assert!(
        told(&[true, true, false])
            .2
            .starts_with("knee: 200/s is the highest step that passed; limited by ")
    );
    assert_eq!(told(&[true, true]).2, "no knee: every step passed");
    assert!(told(&[false, false]).2.starts_with("no knee: not a single step passed; limited by "));
}

#[test]
fn sessions_needed_are_told_as_far_as_they_are_known() {
    let told = |sessions_busy, sessions_needed| {
        let mut report = sample();
        let key_manager = report.proxy.key_manager.as_mut().unwrap();
        (key_manager.sessions_busy, key_manager.sessions_needed) = (sessions_busy, sessions_needed);
        text::machine_rows(&report).into_iter().find(|row| row.0 == "HSM sessions").unwrap().1
    };
    assert_eq!(told(14.3, Some(21)), "16 open, 14.3 in use on average; this load needs 21");
    assert_eq!(
        told(14.4, Some(21)),
        "16 open, 14.4 in use on average; this load needs at least 21"
    );
    assert_eq!(
        told(16.0, None),
        "16 open, 16.0 in use on average; this load was not carried: how many it needs is not known"
    );
}

#[test]
fn answers_that_throughput_leaves_out_are_told() {
    let told = |after_end| {
        let report = Report {
            throughput: 1117.0,
            seconds: 6.0,
            answers: Answers { after_end, ..Answers::default() },
            ..sample()
        };
        let line = "1,117/s over 6.0 s, without 1 right answer that came in after its end";
        (text::throughput(&report), page(&report, None).contains(line))
    };
    assert_eq!(told(0), ("1,117/s over 6.0 s".into(), false));
    assert_eq!(
        told(1),
        ("1,117/s over 6.0 s, without 1 right answer that came in after its end".into(), true)
    );
}

/// Python's parser is strict XML: what it takes, no browser has to guess at.
pub(crate) fn assert_well_formed(text: &str) {
    use std::io::Write;
    let script =
        "import sys, xml.dom.minidom; xml.dom.minidom.parseString(sys.stdin.buffer.read())";
    let mut child = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .spawn()
        .expect("python3");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "not well-formed:\n{text}");
}

#[test]
fn the_page_is_well_formed_and_stands_alone() {
    for report in [
        sample(),
        Report {
            timeline: Vec::new(),
            steps: Vec::new(),
            calls: Vec::new(),
            latency: Percentiles::default(),
            ..sample()
        },
    ] {
        let page = page(&report, None);
        assert_well_formed(page.strip_prefix("<!DOCTYPE html>\n").unwrap());
        assert!(!page.contains("<localhost>") && page.contains("&lt;localhost&gt;"));
        for outside in ["<script", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
    let page = page(&sample(), None);
    assert_eq!(page.matches("<svg").count(), 5);
    assert!(page.contains("knee"));
}

#[test]
fn the_axis_of_a_short_run_has_no_label_twice() {
    let report = Report { timeline: sample().timeline[..3].to_vec(), ..sample() };
    let page = page(&report, None);
    let chart = page
        .split("<svg")
        .find(|chart| chart.contains("aria-label=\"Requests each second\""))
        .unwrap();
    let along_x = chart
        .lines()
        .filter(|line| line.contains("class=\"tick x\""))
        .map(|line| line.split(['<', '>']).nth(2).unwrap());
    assert_eq!(along_x.collect::<Vec<_>>(), ["0.0", "0.5", "1.0", "1.5", "2.0"]);
}

#[test]
fn the_text_tells_the_result_and_the_reasons() {
    let text = text::summary(&sample());
    for part in [
        "FAIL",
        "p99.9",
        "ThrottlingException (429)",
        "wrong answers",
        "knee",
        "a warning",
        "HSM sessions",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
}

/// The chart with this title, of a page.
fn chart<'a>(page: &'a str, title: &str) -> &'a str {
    let label = format!("aria-label=\"{title}\"");
    page.split("<svg").find(|chart| chart.contains(&label)).expect(title)
}

#[test]
fn a_limit_is_drawn_in_the_colour_of_the_curve_that_must_stay_below_it() {
    let mut report = sample();
    report.slas = ["p99=9ms", "p95=8ms"].map(|sla| Sla::parse(sla).unwrap()).to_vec();
    report.steps.iter_mut().for_each(|step| step.at_slas = vec![step.p99, step.p99 / 2]);
    report.timeline.iter_mut().for_each(|point| point.at_slas = vec![point.p99, point.p99 / 2]);
    let page = page(&report, None);
    for title in ["Latency over time", "Latency over offered load"] {
        let chart = chart(&page, title);
        // p99 has a curve anyway; p95 gets one because it is judged.
        for (percentile, limit, color) in [("p99", "9.00 ms", "orange"), ("p95", "8.00 ms", "teal")]
        {
            let of = |what: &str| format!("style=\"{what}:var(--{color})\"");
            let curve = chart.lines().filter(|l| l.starts_with("<polyline"));
            assert_eq!(curve.filter(|l| l.contains(&of("stroke"))).count(), 1, "{title} {color}");
            let label = format!("{}>{percentile} at most {limit}<", of("fill"));
            assert!(chart.contains(&label), "{title}: {label}");
            assert!(chart.contains(&format!(">{percentile}</text>")), "{title}: legend");
        }
    }
}

#[test]
fn a_rate_that_was_tried_several_times_makes_no_spike() {
    let mut report = sample();
    report.steps.extend(report.steps.clone());
    let page = page(&report, None);
    for title in ["Throughput over offered load", "Latency over offered load"] {
        for line in chart(&page, title).lines().filter(|line| line.starts_with("<polyline")) {
            let points = line.split('"').nth(1).unwrap().split(' ');
            let x: Vec<&str> = points.map(|point| point.split(',').next().unwrap()).collect();
            assert_eq!(x.len(), 4, "{title}");
            assert!(x.windows(2).all(|pair| pair[0] != pair[1]), "{title}: {x:?}");
        }
    }
    assert_eq!(page.matches("<tr class=\"repeated\">").count(), 4, "the table has all");
}

#[test]
fn the_page_says_what_was_tested_and_how() {
    let results = Results { file: "r.json".into(), sha256: "ab12".into() };
    let page = page(&sample(), Some(&results));
    for part in [
        "<h1>xksd 0.1.0 <span",
        "a: SoftHSM project, SoftHSM v2, token &lt;xks&gt;, library 2.6",
        "<th>load balancer</th><td>127.0.0.1:8444</td>",
        "bench-1, 2 virtual cores, Some CPU @ 3 GHz, 8.0 GiB, Debian GNU/Linux 12, Linux 6.18.0",
        "(proxy and load generator)",
        "2026-01-31 12:00:00 UTC",
        "A. Tester, Example &amp; Co",
        "<th>network</th><td>loopback &lt;only&gt;</td>",
        "<code>xksd-load run --note &#39;network=loopback &lt;only&gt;&#39;</code>",
        "r.json <code>SHA-256 ab12</code>",
        "<th>balancer CPU</th><td>12.0 µs a request",
        "<span>Signature</span>",
        "@media print",
        "prefers-color-scheme: dark",
    ] {
        assert!(page.contains(part), "no {part} in\n{page}");
    }
    let mut unseen = Report { balancer: None, ..sample() };
    assert!(super::page::page(&unseen, None).contains("not seen: no process of 127.0.0.1:8444"));
    unseen.subject.balancer = None;
    assert!(!super::page::page(&unseen, None).contains("balancer"));
}
