use std::process::{Command, Stdio};

use super::*;
use crate::sla::Promise;
use crate::stats::{PhaseStats, latency, record};

/// A report with something in every part.
pub(crate) fn sample() -> Report {
    let mut histogram = latency();
    for n in 0..10_000_u64 {
        record(
            &mut histogram,
            std::time::Duration::from_micros(200 + n % 100 + if n % 200 == 0 { 20_000 } else { 0 }),
        );
    }
    let step = |rate: f64, throughput: f64, p99: u64, held| Step {
        offered_rate: rate,
        throughput,
        seconds: 10.0,
        offered: (rate * 10.0) as u64,
        right: (throughput * 10.0) as u64,
        errors: ((rate - throughput) * 10.0) as u64,
        p50: p99 / 3,
        p99,
        p999: p99 * 2,
        max: p99 * 4,
        hsm_mean_us: Some(2000.0),
        bound: Some(Bound::Hsm),
        served: held,
        held,
    };
    let point = |second: u64| Point {
        second,
        offered: 1800,
        right: 1790,
        errors: second % 3,
        p50: 220,
        p99: 900 + second * 100,
        p999: 2000,
        max: 9000,
    };
    Report {
        format: FORMAT,
        version: "0.1.0".into(),
        started: "2026-01-31T12:00:00Z".into(),
        settings: Settings {
            target: "<localhost> & \"friends\"".into(),
            load: "1,800 requests/s".into(),
            ..Settings::default()
        },
        seconds: 40.0,
        offered: 10_000,
        right: 9_990,
        errors: 10,
        errors_by_name: [("ThrottlingException (429)".to_owned(), 10)].into(),
        wrong: 1,
        wrong_told: vec!["decrypt <gave> back another".into()],
        throughput: 1799.0,
        latency: Percentiles::of(&histogram),
        answers: Answers { latest_us: 1_203_000, none: 3, unsent: 1, after_end: 2 },
        first_error_unix_ms: Some(1_769_860_800_250),
        last_error_unix_ms: Some(1_769_860_812_750),
        calls: vec![CallReport { call: "encrypt".into(), latency: Percentiles::of(&histogram) }],
        steps: vec![
            step(500.0, 500.0, 600, true),
            step(1000.0, 1000.0, 900, true),
            step(2000.0, 1990.0, 4000, true),
            step(4000.0, 2600.0, 900_000, false),
        ],
        timeline: (0..40).map(point).collect(),
        tls: Tls {
            protocol: "TLSv1_3 TLS13_AES_256_GCM_SHA384".into(),
            handshakes: 64,
            ..Tls::default()
        },
        client: Client {
            cpu_us_per_request: Some(9.5),
            busiest_worker: Some(0.4),
            ..Client::default()
        },
        server: Server {
            cpu: Some(crate::observe::Cpu {
                pid: 1,
                us_per_request: Some(20.0),
                cores_used: 0.5,
                cores_allowed: 2,
                busiest_thread: 0.4,
                busiest_thread_name: "xksd-shard".into(),
            }),
            key_manager: Some(crate::observe::KeyManager {
                sessions_open: 16,
                sessions_busy: 4.0,
                sessions_needed: Some(6),
                hsm_mean_us: 2000.0,
                queue_mean_us: 10.0,
            }),
        },
        idle: Some(IdleReport {
            asked: 100,
            opened: 99,
            closed: 2,
            refused: Some("connection <refused>".into()),
            memory: Some(crate::idle::Memory {
                before_bytes: 10 << 20,
                after_bytes: 12 << 20,
                bytes_a_connection: 21_183.0,
            }),
        }),
        bound: Bound::Hsm,
        slas: vec![Sla::parse("p99.9=250ms").unwrap()],
        checks: crate::sla::judge(
            &Promise::new(vec![Sla::parse("p99.9=250ms").unwrap()], Some(0)),
            &histogram,
            10,
            Some(1),
        ),
        warnings: vec!["a warning with <angle brackets>".into()],
        capacity: None,
    }
}

#[test]
fn reports_are_read_back_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("r.json");
    let report = sample();
    report.save(&file).unwrap();
    let again = Report::load(&file).unwrap();
    assert_eq!(text::summary(&again), text::summary(&report));
    assert_eq!(
        (&again.steps, &again.timeline, &again.checks, &again.slas),
        (&report.steps, &report.timeline, &report.checks, &report.slas)
    );
    std::fs::write(
        &file,
        serde_json::to_string(&report).unwrap().replacen("\"format\":1", "\"format\":9", 1),
    )
    .unwrap();
    assert!(Report::load(&file).unwrap_err().contains("format 9"));
    std::fs::write(&file, "{}").unwrap();
    assert!(Report::load(&file).is_err());
}

#[test]
fn a_run_without_a_bound_is_not_told_as_held() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("r.json");
    let promise = |sla: &[&str], max_errors| {
        Promise::new(sla.iter().map(|text| Sla::parse(text).unwrap()).collect(), max_errors)
    };
    for (promise, errors, wrong, verdict, told, headline) in [
        (
            promise(&[], None),
            1234,
            0,
            Verdict::NoBound,
            "NO BOUND GIVEN, 1,234 errors",
            "no bound given, 1,234 errors",
        ),
        (
            promise(&[], None),
            0,
            0,
            Verdict::NoBound,
            "NO BOUND GIVEN, no errors",
            "no bound given, no errors",
        ),
        (promise(&[], None), 0, 1, Verdict::NotHeld, "NOT HELD", "not held"),
        (promise(&[], Some(1)), 1, 0, Verdict::Held, "HELD", "held"),
        (promise(&[], Some(1)), 2, 0, Verdict::NotHeld, "NOT HELD", "not held"),
        (promise(&["max=1s"], None), 0, 0, Verdict::Held, "HELD", "held"),
        (promise(&["max=1s"], None), 1, 0, Verdict::NotHeld, "NOT HELD", "not held"),
    ] {
        let mut histogram = latency();
        histogram.record(1000).unwrap();
        let checks = crate::sla::judge(&promise, &histogram, errors, Some(wrong));
        let report = Report { errors, wrong, checks, slas: promise.slas, ..sample() };
        assert_eq!(report.verdict(), verdict, "{:?}", report.checks);
        let text = text::summary(&report);
        assert!(text.lines().last().unwrap().starts_with(told), "{text}");
        assert!(html::page(&report).contains(&format!("{headline}</span></h1>")), "{headline}");
        report.save(&file).unwrap();
        let saved: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(saved["verdict"], serde_json::to_value(verdict).unwrap());
        assert_eq!(Report::load(&file).unwrap().verdict(), verdict);
    }
}

#[test]
fn without_a_right_answer_there_are_no_percentiles() {
    let phase = PhaseStats { offered: 10, errors: 10, ..PhaseStats::new() };
    let promise = Promise::new(vec![Sla::parse("p99=1s").unwrap()], None);
    let report = Report {
        latency: Percentiles::of(&phase.latency),
        calls: Vec::new(),
        steps: vec![Step::of(&phase, 1.0, &promise), Step::of(&phase, 1.0, &promise)],
        answers: Answers::default(),
        tls: Tls::default(),
        checks: crate::sla::judge(&promise, &phase.latency, 10, Some(0)),
        slas: promise.slas,
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
    assert_eq!(cells("NO    p99")[..3], ["NO", "p99", "–"]);
    assert!(text.contains("the latest – after") && text.contains("p50 –, p99 –, max –"), "{text}");
    let page = html::page(&report);
    assert!(page.contains("<td class=\"n\">–</td>") && !page.contains(">0 µs<"), "{page}");
}

#[test]
fn what_was_not_measured_is_not_told_as_zero() {
    let whole = sample();
    let server = Server {
        cpu: whole
            .server
            .cpu
            .clone()
            .map(|cpu| crate::observe::Cpu { us_per_request: None, ..cpu }),
        key_manager: None,
    };
    let report = Report {
        server,
        client: Client { cpu_us_per_request: None, busiest_worker: None, ..whole.client.clone() },
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
    report.save(&file).unwrap();
    let again = Report::load(&file).unwrap();
    assert_eq!((&again.client, &again.server), (&report.client, &report.server));
    assert!(
        !crate::compare::text(["a", "b"], &whole, &again).contains("proxy CPU"),
        "nothing to compare"
    );
}

#[test]
fn the_knee_is_the_highest_step_that_held() {
    let report = sample();
    assert_eq!(knee(&report.steps).unwrap().offered_rate, 2000.0);
    assert_eq!(knee(&report.steps[..3]), None, "never reached");
    assert_eq!(knee(&report.steps[3..]), None, "below the lowest step");
    let decided = |steps| deciding(steps).map(|step| step.offered_rate);
    assert_eq!(
        (decided(&report.steps), decided(&report.steps[..3]), decided(&[])),
        (Some(4000.0), Some(2000.0), None)
    );
}

#[test]
fn a_loss_that_does_not_last_is_no_knee() {
    let told = |held: &[bool]| {
        // Highest rate first: the order is not that of the rates.
        let step = |(n, held): (usize, &bool)| Step {
            offered_rate: 100.0 * (n + 1) as f64,
            held: *held,
            ..Step::default()
        };
        let report =
            Report { steps: held.iter().enumerate().map(step).rev().collect(), ..sample() };
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
        "no knee: the highest step held; 1 step below it did not, while higher ones did"
    );
    let (knee, decided, text) = told(&[true, false, true, false, false]);
    assert_eq!((knee, decided), (Some(300.0), 400.0));
    assert!(
        text.starts_with(
            "knee: 300/s is the highest step that held; 1 step below it did not, \
            while higher ones did; limited by "
        ),
        "{text}"
    );
    assert!(
        told(&[true, true, false])
            .2
            .starts_with("knee: 200/s is the highest step that held; limited by ")
    );
    assert_eq!(told(&[true, true]).2, "no knee: every step held");
    assert!(told(&[false, false]).2.starts_with("no knee: not a single step held; limited by "));
}

#[test]
fn an_hsm_that_slows_down_with_the_load_is_the_limit_while_sessions_are_free() {
    let step = |rate: f64, hsm_mean_us, held, bound| Step {
        offered_rate: rate,
        hsm_mean_us,
        held,
        bound: Some(bound),
        ..Step::default()
    };
    let steps = |slow: f64, last| {
        [step(100.0, Some(2000.0), true, Bound::Unknown), step(900.0, Some(slow), false, last)]
    };
    assert_eq!(bound(&steps(4000.0, Bound::Unknown)), Bound::HsmUnits);
    assert_eq!(bound(&steps(3900.0, Bound::Unknown)), Bound::Unknown);
    assert_eq!(
        bound(&steps(4000.0, Bound::ProxyCpu)),
        Bound::ProxyCpu,
        "what is seen goes before what is concluded"
    );
    assert_eq!(
        bound(&[
            step(1.0, Some(9.0), true, Bound::Unknown),
            step(2.0, Some(90.0), true, Bound::Unknown)
        ]),
        Bound::Unknown,
        "held"
    );
    assert_eq!(bound(&[]), Bound::Unknown);
}

#[test]
fn a_step_must_answer_what_is_offered_within_its_bounds() {
    let promise = |max_errors| Promise::new(vec![Sla::parse("p99=1ms").unwrap()], max_errors);
    let held = |phase: &PhaseStats, max_errors| Step::of(phase, 1.0, &promise(max_errors)).held;
    let mut phase =
        PhaseStats { offered: 1000, right: 1000, throughput: 1000, ..PhaseStats::new() };
    (0..1000).for_each(|_| phase.latency.record(1000).unwrap());
    assert!(held(&phase, None));
    assert!(!held(&PhaseStats { throughput: 979, ..phase.clone() }, None));
    assert!(held(&PhaseStats { throughput: 980, ..phase.clone() }, None));
    // Of few requests some may be on their way at the end.
    let few = |offered, throughput| {
        Step::of(&PhaseStats { offered, throughput, ..phase.clone() }, 1.0, &promise(None)).served
    };
    assert!(few(21, 18) && !few(21, 17));
    assert!(few(151, 148) && !few(151, 147), "3 are 2 % of 150");
    assert!(
        !Step::of(&PhaseStats { offered: 2, ..PhaseStats::new() }, 1.0, &Promise::default()).served,
        "nothing was answered"
    );
    let failing = |errors| PhaseStats { errors, ..phase.clone() };
    assert!(!held(&failing(1), None) && !held(&failing(1), Some(0)));
    assert!(held(&failing(3), Some(3)) && !held(&failing(4), Some(3)));
    assert!(!Step::of(&failing(1), 1.0, &Promise::default()).served, "nobody accepted one");
    (0..20).for_each(|_| phase.latency.record(2000).unwrap());
    let late = Step::of(&phase, 1.0, &promise(None));
    assert!(!late.held && late.served);
}

#[test]
fn sessions_needed_are_told_as_far_as_they_are_known() {
    let told = |sessions_busy, sessions_needed| {
        let mut report = sample();
        let key_manager = report.server.key_manager.as_mut().unwrap();
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
fn a_load_is_carried_that_is_answered_right_in_its_time() {
    let carried = |offered: u64, right, throughput: u64| {
        let phase =
            PhaseStats { offered, right, throughput, errors: offered - right, ..PhaseStats::new() };
        Step::of(&phase, 3.0, &Promise::default()).is_carried()
    };
    assert!(carried(1000, 1000, 981) && !carried(1000, 1000, 979), "right, and late");
    assert!(carried(1000, 981, 981) && !carried(1000, 979, 990), "refused");
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
        (text::throughput(&report), html::page(&report).contains(line))
    };
    assert_eq!(told(0), ("1,117/s over 6.0 s".into(), false));
    assert_eq!(
        told(1),
        ("1,117/s over 6.0 s, without 1 right answer that came in after its end".into(), true)
    );
}

#[test]
fn the_curve_goes_as_far_as_there_are_requests() {
    let percentiles = Percentiles::of(&{
        let mut histogram = latency();
        (1..=1000).for_each(|us| histogram.record(us).unwrap());
        histogram
    });
    assert!(percentiles.curve.is_sorted());
    let (quantile, us) = *percentiles.curve.last().unwrap();
    assert!((quantile - 0.999).abs() < 1e-9 && us >= 999, "{quantile} {us}");
    assert!(Percentiles::of(&latency()).curve.is_empty());
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
        let page = html::page(&report);
        assert_well_formed(page.strip_prefix("<!DOCTYPE html>\n").unwrap());
        assert!(!page.contains("<localhost>") && page.contains("&lt;localhost&gt;"));
        for outside in ["<script", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
    let page = html::page(&sample());
    assert_eq!(page.matches("<svg").count(), 5);
    assert!(page.contains("knee"));
}

#[test]
fn the_axis_of_a_short_run_has_no_label_twice() {
    let report = Report { timeline: sample().timeline[..3].to_vec(), ..sample() };
    let page = html::page(&report);
    let chart = page
        .split("<svg")
        .find(|chart| chart.contains("aria-label=\"Requests each second\""))
        .unwrap();
    let along_x = chart
        .lines()
        .filter(|line| line.contains("text-anchor=\"middle\" fill=\"#555\""))
        .map(|line| line.split(['<', '>']).nth(2).unwrap());
    assert_eq!(along_x.collect::<Vec<_>>(), ["0.0", "0.5", "1.0", "1.5", "2.0"]);
}

#[test]
fn the_text_tells_the_verdict_and_the_reasons() {
    let text = text::summary(&sample());
    for part in [
        "NOT HELD",
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
