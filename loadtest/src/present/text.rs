//! The report on a terminal.

use std::fmt::Write;

use crate::criteria::TestResult;
use crate::generator::idle::IdleReport;
use crate::observe::cpu::Cpu;
use crate::report::Report;
use crate::report::capacity::Capacity;
use crate::report::step::{failed_below, knee};
use crate::units::{count, counted, figure, latency, micros};

/// All that a person needs to judge the run.
pub fn summary(report: &Report) -> String {
    let mut text = String::new();
    let settings = &report.settings;
    if settings.unverified {
        text.push_str("\n*** UNVERIFIED: no answer was checked ***\n");
    }
    let _ = writeln!(
        text,
        "\n{}: {}, {} × {}, {}\n",
        settings.target,
        settings.load,
        counted(settings.connections as u64, "connection"),
        settings.depth,
        settings.mix
    );
    for (name, value) in subject_rows(report) {
        let _ = writeln!(text, "{name:<13} {value}");
    }
    text.push('\n');
    totals(report, &mut text);
    latencies(report, &mut text);
    if report.steps.len() > 1 {
        steps(report, &mut text);
    }
    if !report.errors_by_name.is_empty() {
        let _ = writeln!(text, "\nerrors{}", error_span(report));
        for (name, n) in &report.errors_by_name {
            let _ = writeln!(text, "  {:>10}  {name}", count(*n));
        }
    }
    for what in &report.wrong_examples {
        let _ = writeln!(text, "WRONG ANSWER: {what}");
    }
    text.push('\n');
    machine(report, &mut text);
    for warning in &report.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text.push('\n');
    for check in &report.checks {
        let _ = writeln!(
            text,
            "{:<5} {:<14} {:>12}   at most {}",
            if check.passed { "pass" } else { "FAIL" },
            check.what,
            check.value,
            check.limit
        );
    }
    let unverified = if settings.unverified { " (UNVERIFIED: no answer was checked)" } else { "" };
    let result = match report.result() {
        TestResult::Pass => "PASS".into(),
        TestResult::Fail => "FAIL".into(),
        TestResult::NoCriteria => format!(
            "NO CRITERIA GIVEN, {}: --sla and --max-errors say what has to hold",
            errors(report)
        ),
    };
    let _ = writeln!(text, "{}", super::conclusion::conclusion(report));
    let _ = writeln!(text, "{result}{unverified}");
    text.replace("at most at least", "at least")
}

/// What was asked and answered in all.
fn totals(report: &Report, text: &mut String) {
    let rows = [
        (
            "requests",
            format!(
                "{} offered, {} answered right, {} not",
                count(report.offered),
                count(report.right),
                count(report.offered.saturating_sub(report.right))
            ),
        ),
        ("answers", answers(report)),
        ("throughput", throughput(report)),
        ("TLS", tls(report)),
    ];
    for (name, value) in rows {
        let _ = writeln!(text, "{name:<13} {value}");
    }
}

/// A line for each call, and one for all.
fn latencies(report: &Report, text: &mut String) {
    let _ = writeln!(
        text,
        "\n{:<12} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "latency", "p50", "p90", "p99", "p99.9", "max", "count"
    );
    let all = std::iter::once(("all", &report.latency))
        .chain(report.calls.iter().map(|c| (c.call.as_str(), &c.latency)));
    for (name, p) in all {
        let times = [p.p50, p.p90, p.p99, p.p999, p.max].map(latency);
        let _ = write!(text, "{name:<12}");
        for time in &times {
            let _ = write!(text, " {time:>10}");
        }
        let _ = writeln!(text, " {:>10}", count(p.count));
    }
}

/// A line for each rate.
fn steps(report: &Report, text: &mut String) {
    let _ = writeln!(
        text,
        "\n{:<12} {:>12} {:>10} {:>10} {:>10} {:>10}",
        "offered/s", "answered/s", "p50", "p99", "p99.9", "errors"
    );
    for step in &report.steps {
        let [p50, p99, p999] = [step.p50, step.p99, step.p999].map(latency);
        let mark = if step.passed { String::new() } else { format!("  {}", step.status()) };
        let (offered, throughput, errors) =
            (figure(step.offered_rate), figure(step.throughput), count(step.errors));
        let _ = writeln!(
            text,
            "{offered:<12} {throughput:>12} {p50:>10} {p99:>10} {p999:>10} {errors:>10}{mark}"
        );
    }
    if report.capacity.is_none() {
        let _ = writeln!(text, "{}", knee_text(report));
    }
}

/// In a line.
pub fn tls(report: &Report) -> String {
    let tls = &report.tls;
    // None while it measured, unless connections are reopened.
    let rate = if tls.handshakes_per_second > 0.0 {
        format!(", {}/s", figure(tls.handshakes_per_second))
    } else {
        String::new()
    };
    format!(
        "{}, {} ({} resumed){rate}, p50 {}, p99 {}, max {}",
        tls.protocol,
        counted(tls.handshakes, "handshake"),
        count(tls.resumed),
        latency(tls.handshake_p50_us),
        latency(tls.handshake_p99_us),
        latency(tls.handshake_max_us)
    )
}

/// How many errors there were, beside a result that does not judge them.
pub fn errors(report: &Report) -> String {
    if report.errors == 0 { "no errors".into() } else { counted(report.errors, "error") }
}

/// In a line: right answers a second, and how many that leaves out.
pub fn throughput(report: &Report) -> String {
    let mut text = format!("{}/s over {:.1} s", figure(report.throughput), report.seconds);
    if report.answers.after_end > 0 {
        let _ = write!(
            text,
            ", without {} that came in after its end",
            counted(report.answers.after_end, "right answer")
        );
    }
    text
}

/// In a line: what came back at all.
pub fn answers(report: &Report) -> String {
    let answers = &report.answers;
    let mut text = format!(
        "the latest {} after its request was due, errors included",
        latency(answers.latest_us)
    );
    for (n, what) in [(answers.none, "requests never answered"), (answers.unsent, "not sent")] {
        let _ = write!(text, "; {} {what}", count(n));
    }
    text
}

/// Between which times errors were seen.
pub fn error_span(report: &Report) -> String {
    let time = |unix_ms: u64| {
        let time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000)
            .ok()?;
        time.format(time::macros::format_description!(
            "[hour]:[minute]:[second].[subsecond digits:3]"
        ))
        .ok()
    };
    let span =
        report.first_error_unix_ms.and_then(time).zip(report.last_error_unix_ms.and_then(time));
    span.map_or(String::new(), |(first, last)| {
        format!(", the first at {first}, the last at {last} UTC")
    })
}

/// In a line: idle connections, and what they cost.
pub fn idle(idle: &IdleReport) -> String {
    let mut text = format!(
        "{} of {} opened, {} closed by the proxy",
        number(idle.opened),
        number(idle.asked),
        number(idle.closed)
    );
    if let Some(why) = &idle.refused {
        let _ = write!(text, " ({why})");
    }
    if let Some(memory) = &idle.memory {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let _ = write!(
            text,
            "; proxy memory {:.1} MiB before, {:.1} MiB after: {} bytes a connection",
            mebibytes(memory.before_bytes),
            mebibytes(memory.after_bytes),
            memory.bytes_a_connection.round()
        );
    }
    text
}

fn number(n: usize) -> String {
    count(n as u64)
}

/// Where throughput stops following the load.
pub fn knee_text(report: &Report) -> String {
    let below = match failed_below(&report.steps) {
        0 => String::new(),
        n => format!("; {} below it failed, while higher ones passed", counted(n as u64, "step")),
    };
    match knee(&report.steps) {
        Some(step) => {
            format!(
                "knee: {}/s is the highest step that passed{below}; limited by {}",
                figure(step.offered_rate),
                report.bottleneck.text()
            )
        }
        None if !report.steps.iter().any(|s| s.passed) => {
            format!("no knee: not a single step passed; limited by {}", report.bottleneck.text())
        }
        None if below.is_empty() => "no knee: every step passed".into(),
        None => format!("no knee: the highest step passed{below}"),
    }
}

fn cpu_a_request(us: Option<f64>) -> String {
    us.map_or("CPU a request not measured".into(), |us| format!("{} µs a request", figure(us)))
}

/// What was tested, from where and by whom.
pub fn subject_rows(report: &Report) -> Vec<(&'static str, String)> {
    let subject = &report.subject;
    let host = &subject.host;
    let mut rows = Vec::new();
    let proxy = subject.proxy().unwrap_or_else(|| "it does not say what it is".into());
    rows.push(("proxy", format!("{proxy} at {}", report.settings.target)));
    rows.extend(subject.hsms().into_iter().map(|hsm| ("HSM", hsm)));
    if let Some(balancer) = &subject.balancer {
        rows.push(("load balancer", balancer.clone()));
    }
    let memory = host.memory_bytes as f64 / f64::from(1 << 30);
    let parts = [
        host.name.clone(),
        counted(host.cores as u64, if host.is_virtual { "virtual core" } else { "core" }),
        host.cpu.clone(),
        format!("{memory:.1} GiB"),
        host.system.clone(),
        host.kernel.clone(),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let of = if subject.proxy_on_this_host { "proxy and load generator" } else { "load generator" };
    rows.push(("host", format!("{} ({of})", parts.join(", "))));
    let started = report.started.trim_end_matches('Z').replace('T', " ");
    rows.push(("date", format!("{started} UTC")));
    rows.push(("tool", format!("xksd-load {}", report.version)));
    if let Some(tested_by) = &subject.described.tested_by {
        rows.push(("tested by", tested_by.clone()));
    }
    rows
}

fn cpu(cpu: &Cpu) -> String {
    let pids: Vec<String> = cpu.pids.iter().map(u32::to_string).collect();
    format!(
        "{}; {:.2} of {} cores; busiest thread {} {:.0} % ({}, pid {})",
        cpu_a_request(cpu.us_per_request),
        cpu.cores_used,
        cpu.cores_allowed,
        cpu.busiest_thread_name,
        cpu.busiest_thread * 100.0,
        cpu.name,
        pids.join(", ")
    )
}

/// Figures of the proxy, the load balancer, the HSM and this tool.
pub fn machine_rows(report: &Report) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(proxy) = &report.proxy.cpu {
        rows.push(("proxy CPU", cpu(proxy)));
    }
    match (&report.balancer, &report.subject.balancer) {
        (Some(balancer), _) => rows.push(("balancer CPU", cpu(balancer))),
        (None, Some(name)) => {
            rows.push(("balancer CPU", format!("not seen: no process of {name} on this machine")));
        }
        (None, None) => {}
    }
    if let Some(hsm) = &report.proxy.key_manager {
        rows.push((
            "key manager",
            format!(
                "{} a call, after {} in the queue",
                micros(hsm.hsm_mean_us as u64),
                micros(hsm.queue_mean_us as u64)
            ),
        ));
        if hsm.sessions_open > 0 {
            let needed = match hsm.sessions_needed {
                Some(needed) => format!(
                    "this load needs {}{needed}",
                    if hsm.is_full() { "at least " } else { "" }
                ),
                None => "this load was not carried: how many it needs is not known".into(),
            };
            rows.push((
                "HSM sessions",
                format!(
                    "{} open, {:.1} in use on average; {needed}",
                    hsm.sessions_open, hsm.sessions_busy
                ),
            ));
        }
    }
    if let Some(connections) = &report.idle {
        rows.push(("idle", idle(connections)));
    }
    let generator = &report.generator;
    rows.push((
        "this tool",
        format!(
            "{}; busiest thread {}; connections {:.0} % busy; requests handed out late by p99 {}, \
             max {}; {} ciphertexts decrypted after the run",
            cpu_a_request(generator.cpu_us_per_request),
            generator
                .busiest_worker
                .map_or("not measured".into(), |share| format!("{:.0} %", share * 100.0)),
            generator.connections_busy * 100.0,
            micros(generator.lag_p99_us),
            micros(generator.lag_max_us),
            count(generator.closing_decrypts)
        ),
    ));
    rows
}

fn machine(report: &Report, text: &mut String) {
    for (name, value) in machine_rows(report) {
        let _ = writeln!(text, "{name:<13} {value}");
    }
}

/// What a search found, in a few lines.
pub fn capacity(capacity: &Capacity) -> String {
    let found = match capacity.rate {
        Some(rate) => format!("CAPACITY {} requests/s", figure(rate)),
        None => "NO CAPACITY: not even the lowest rate passed".into(),
    };
    let mut text = String::new();
    for line in std::iter::once(found).chain(capacity_reasons(capacity)) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Why it is no more, and what it needs.
pub fn capacity_reasons(capacity: &Capacity) -> Vec<String> {
    let mut reasons = vec![match (capacity.failed_at, capacity.bottleneck) {
        (Some(_), Some(bottleneck)) => format!("limited by {}", bottleneck.text()),
        _ => "no limit found: every rate up to --to passed".into(),
    }];
    if capacity.rate.is_some() && capacity.sessions_needed > 0 {
        reasons.push(format!(
            "needs {}{}, each in use for 70 % of the time",
            if capacity.sessions_full { "at least " } else { "" },
            counted(capacity.sessions_needed, "HSM session")
        ));
    }
    reasons
}
