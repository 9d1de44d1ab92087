//! The report of a run, from what was counted and what was seen.

use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

use super::settings::Run;
use crate::criteria::judge;
use crate::generator::idle::IdleReport;
use crate::generator::stats::{PhaseStats, Stats, whole_us};
use crate::observe::bottleneck::{Bottleneck, GeneratorLoad};
use crate::observe::cpu::us_a_request;
use crate::observe::host::Host;
use crate::observe::observer::{Observation, Observer};
use crate::present::text;
use crate::report::percentiles::Percentiles;
use crate::report::step::{self, Step};
use crate::report::subject::Subject;
use crate::report::{Answers, CallReport, FORMAT, Generator, Point, Report, Settings, Tls};
use crate::units::{Sizes, micros};
use crate::workload::request::Call;

/// Requests handed out later than this (p99) make the figures doubtful, microseconds.
const LAG_DOUBTFUL_US: u64 = 5_000;
/// A second without a right answer is worth a warning from so many requests on that were due.
const UNANSWERED_SECOND_REQUESTS: u64 = 10;

/// What a run has left behind.
pub(super) struct Measured {
    pub(super) started: OffsetDateTime,
    pub(super) stats: Stats,
    pub(super) timeline: Vec<Point>,
    pub(super) observer: Observer,
    pub(super) idle: Option<IdleReport>,
}

/// All that is reported of a run.
pub(super) fn report(run: &Run, measured: &Measured) -> Report {
    let stats = &measured.stats;
    let steps = steps(run, measured);
    let (all, seconds) = whole(run, stats);
    let seen = seen(run, measured, &steps, all.throughput);
    let generator = generator(run, stats, &all, &seen, seconds);
    // Also errors of no single request (a failed connection, a decrypt after the run) must not pass
    // for success.
    let errors = all.errors.max(stats.errors.values().sum());
    let wrong = run.shape.verify.then_some(stats.wrong);
    Report {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        started: utc(measured.started),
        subject: subject(run, stats, &seen),
        settings: settings(run),
        seconds,
        offered: all.offered,
        right: all.right,
        errors,
        errors_by_name: stats.errors.clone(),
        wrong: stats.wrong,
        wrong_examples: stats.wrong_examples.clone(),
        throughput: all.throughput as f64 / seconds.max(1e-9),
        answers: Answers {
            latest_us: if stats.latest.is_zero() { 0 } else { whole_us(stats.latest) },
            none: stats.unanswered,
            unsent: stats.unsent,
            after_end: stats.after_end,
        },
        first_error_unix_ms: stats.error_span.map(|span| unix_ms(span.0)),
        last_error_unix_ms: stats.error_span.map(|span| unix_ms(span.1)),
        latency: Percentiles::of(&all.latency, &run.criteria.slas),
        calls: calls(run, stats),
        bottleneck: step::bottleneck(&steps),
        steps,
        tls: tls(stats, seconds),
        proxy: seen.proxy,
        balancer: seen.balancer,
        warnings: warnings(run, measured, &generator),
        generator,
        timeline: measured.timeline.clone(),
        idle: measured.idle.clone(),
        slas: run.criteria.slas.clone(),
        checks: judge(&run.criteria, &all.latency, errors, wrong),
        capacity: None,
    }
}

/// The measured phases as one, and how long they took, seconds.
fn whole(run: &Run, stats: &Stats) -> (PhaseStats, f64) {
    let (mut all, mut seconds) = (PhaseStats::new(), 0.0);
    for (phase, counted) in run.plan.phases.iter().zip(&stats.phases) {
        if phase.measured {
            all.add(counted);
            seconds += phase.length.as_secs_f64();
        }
    }
    (all, seconds)
}

fn steps(run: &Run, measured: &Measured) -> Vec<Step> {
    let stats = &measured.stats;
    let throttled = stats.errors.keys().any(|name| name.starts_with("Throttling"));
    let phases = run.plan.phases.iter().zip(&stats.phases).filter(|(phase, _)| phase.measured);
    let step = |(at, (phase, counted)): (usize, (&_, &PhaseStats))| {
        let phase: &crate::workload::schedule::Phase = phase;
        let length = phase.length.as_secs_f64();
        let seen = measured.observer.between(at, at + 1, counted.throughput);
        let own = GeneratorLoad {
            lag_p99_us: counted.lag.value_at_quantile(0.99),
            connections_busy: connections_busy(run, counted, length),
            throttled,
        };
        let key_manager = seen.proxy.key_manager.as_ref().filter(|k| k.sessions_open > 0);
        Step {
            hsm_mean_us: key_manager.map(|k| k.hsm_mean_us),
            bottleneck: Some(Bottleneck::judge(&seen, &own)),
            ..Step::of(counted, length, &run.criteria)
        }
    };
    phases.enumerate().map(step).collect()
}

/// What was seen from the first measured phase to the last.
fn seen(run: &Run, measured: &Measured, steps: &[Step], came_in: u64) -> Observation {
    let mut seen = measured.observer.between(0, steps.len(), came_in);
    let sustained = step::by_rate(steps).last().is_some_and(|step| step.is_sustained());
    if let Some(key_manager) = &mut seen.proxy.key_manager
        && !run.plan.closed
        && !sustained
    {
        // What was refused, or still waits, would have needed sessions too.
        key_manager.sessions_needed = None;
    }
    seen
}

fn generator(
    run: &Run,
    stats: &Stats,
    all: &PhaseStats,
    seen: &Observation,
    seconds: f64,
) -> Generator {
    Generator {
        cpu_us_per_request: seen.own_cpu.and_then(|used| us_a_request(used, all.throughput)),
        busiest_worker: seen.own_busiest,
        connections_busy: connections_busy(run, all, seconds),
        lag_p99_us: all.lag.value_at_quantile(0.99),
        lag_max_us: all.lag.max(),
        closing_decrypts: stats.closing_decrypts,
    }
}

fn calls(run: &Run, stats: &Stats) -> Vec<CallReport> {
    Call::ALL
        .iter()
        .zip(&stats.calls)
        .filter(|(_, histogram)| !histogram.is_empty())
        .map(|(call, histogram)| CallReport {
            call: call.name().into(),
            latency: Percentiles::of(histogram, &run.criteria.slas),
        })
        .collect()
}

fn tls(stats: &Stats, seconds: f64) -> Tls {
    Tls {
        protocol: stats.protocol.clone(),
        handshakes: stats.handshakes.len(),
        resumed: stats.resumed,
        handshakes_per_second: stats.measured_handshakes as f64 / seconds.max(1e-9),
        handshake_p50_us: stats.handshakes.value_at_quantile(0.5),
        handshake_p99_us: stats.handshakes.value_at_quantile(0.99),
        handshake_max_us: stats.handshakes.max(),
    }
}

fn warnings(run: &Run, measured: &Measured, generator: &Generator) -> Vec<String> {
    let mut warnings = Vec::new();
    if !run.shape.verify {
        warnings.push(
            "UNVERIFIED: any answer with status 200 counted as right, whatever it says; no \
             ciphertext was decrypted"
                .into(),
        );
    }
    if generator.lag_p99_us > LAG_DOUBTFUL_US {
        warnings.push(format!(
            "this tool was late itself (p99 {}): latencies are too high for the proxy; give it \
             its own cores (--workers, --cores)",
            micros(generator.lag_p99_us)
        ));
    }
    if let Some(idle) = &measured.idle
        && (idle.opened < idle.asked || idle.closed > 0)
    {
        warnings.push(format!("not all idle connections were held: {}", text::idle(idle)));
    }
    let unanswered = |p: &Point| p.right == 0 && p.offered >= UNANSWERED_SECOND_REQUESTS;
    if measured.timeline.iter().any(unanswered) {
        warnings
            .push("there are seconds without any right answer: see the picture over time".into());
    }
    warnings
}

fn subject(run: &Run, stats: &Stats, seen: &Observation) -> Subject {
    Subject {
        described: run.described.clone(),
        identity: stats.identity.clone(),
        balancer: run.target.balancer.as_ref().map(|balancer| balancer.name.clone()),
        proxy_on_this_host: seen.proxy.cpu.is_some(),
        host: Host::own(),
        command: run.command.clone(),
    }
}

fn settings(run: &Run) -> Settings {
    let range = |sizes: Sizes| {
        if sizes.from == sizes.to {
            sizes.from.to_string()
        } else {
            format!("{}..{}", sizes.from, sizes.to)
        }
    };
    Settings {
        target: run.target.host.clone(),
        load: run.load.clone(),
        arrivals: if run.plan.closed {
            "closed loop".into()
        } else {
            format!("{:?}", run.plan.arrivals).to_lowercase()
        },
        mix: run.shape.mix.text(),
        plaintext_bytes: range(run.shape.plaintext),
        aad_bytes: range(run.shape.aad),
        cdiv: run.shape.cdiv,
        key_stores: run.target.keystores.len(),
        keys: run.target.keys.len(),
        connections: run.transport.connections,
        depth: run.transport.depth,
        workers: run.workers,
        timeout_ms: run.transport.timeout.as_millis() as u64,
        reconnect_rate: run.transport.reconnect_rate,
        requests_per_connection: run.transport.requests_per_connection,
        resume: run.transport.resume,
        idle: run.idle,
        max_errors: run.criteria.max_errors,
        unverified: !run.shape.verify,
    }
}

/// The share of what the connections can carry at once that was on its way, on average.
fn connections_busy(run: &Run, phase: &PhaseStats, seconds: f64) -> f64 {
    let at_once = (run.transport.connections * run.transport.depth) as f64;
    (phase.in_flight.as_secs_f64() / (seconds * at_once).max(1e-9)).min(1.0)
}

fn utc(time: OffsetDateTime) -> String {
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    time.format(format).unwrap_or_default()
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
