//! The report of a run, from what was counted and what was seen.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Run;
use crate::idle::IdleReport;
use crate::observe::bound::{self, Bound};
use crate::observe::{Observer, us_a_request};
use crate::report;
use crate::report::{
    Answers, CallReport, Client, FORMAT, Percentiles, Point, Report, Settings, Step, Tls, text,
};
use crate::request::Call;
use crate::sla::judge;
use crate::stats::{PhaseStats, Stats, whole_us};

/// Requests handed out later than this (p99) make the figures doubtful, microseconds.
const LAG_DOUBTFUL_US: u64 = 5_000;

impl Run {
    pub(super) fn report(
        &self,
        started: time::OffsetDateTime,
        stats: &Stats,
        timeline: Vec<Point>,
        observer: &Observer,
        idle: Option<IdleReport>,
    ) -> Report {
        let slas = &self.promise.slas;
        let throttled = stats.errors.keys().any(|name| name.starts_with("Throttling"));
        let (mut all, mut seconds) = (PhaseStats::new(), 0.0);
        let mut steps = Vec::new();
        let measured =
            self.plan.phases.iter().zip(&stats.phases).filter(|(phase, _)| phase.measured);
        for (at, (phase, counted)) in measured.enumerate() {
            let length = phase.length.as_secs_f64();
            all.add(counted);
            seconds += length;
            let seen = observer.between(at, at + 1, counted.throughput);
            let own = bound::Client {
                lag_p99_us: counted.lag.value_at_quantile(0.99),
                connections_busy: self.connections_busy(counted, length),
                throttled,
            };
            let key_manager = seen.server.key_manager.as_ref().filter(|k| k.sessions_open > 0);
            steps.push(Step {
                hsm_mean_us: key_manager.map(|k| k.hsm_mean_us),
                bound: Some(Bound::judge(&seen, &own)),
                ..Step::of(counted, length, &self.promise)
            });
        }
        let mut seen = observer.between(0, steps.len(), all.throughput);
        if let Some(key_manager) = &mut seen.server.key_manager
            && !self.plan.closed
            && !report::by_rate(&steps).last().is_some_and(|step| step.is_carried())
        {
            // What was refused, or still waits, would have needed sessions too.
            key_manager.sessions_needed = None;
        }
        // Also errors of no single request (a failed connection, a decrypt after the run) must not
        // pass for success.
        let all_errors = all.errors.max(stats.errors.values().sum());
        let client = Client {
            cpu_us_per_request: seen.own_cpu.and_then(|used| us_a_request(used, all.throughput)),
            busiest_worker: seen.own_busiest,
            connections_busy: self.connections_busy(&all, seconds),
            lag_p99_us: all.lag.value_at_quantile(0.99),
            lag_max_us: all.lag.max(),
            closing_decrypts: stats.closing_decrypts,
        };
        let mut warnings = Vec::new();
        if !self.shape.verify {
            warnings.push(
                "UNVERIFIED: any answer with status 200 counted as right, whatever it \
                says; no ciphertext was decrypted"
                    .into(),
            );
        }
        if client.lag_p99_us > LAG_DOUBTFUL_US {
            warnings.push(format!(
                "this tool was late itself (p99 {}): latencies are too high for the proxy; give it \
                 cores of its own (--workers, --cores)",
                crate::units::micros(client.lag_p99_us)
            ));
        }
        if let Some(idle) = &idle
            && (idle.opened < idle.asked || idle.closed > 0)
        {
            warnings.push(format!("not all idle connections were held: {}", text::idle(idle)));
        }
        let unsteady = timeline.iter().any(|p| p.right == 0 && p.offered >= 10);
        if unsteady {
            warnings.push(
                "there are seconds without any right answer: see the picture over time".into(),
            );
        }
        Report {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            started: started
                .format(time::macros::format_description!(
                    "[year]-[month]-[day]T[hour]:[minute]:[second]Z"
                ))
                .unwrap_or_default(),
            settings: self.settings(),
            seconds,
            offered: all.offered,
            right: all.right,
            errors: all_errors,
            errors_by_name: stats.errors.clone(),
            wrong: stats.wrong,
            wrong_told: stats.wrong_told.clone(),
            throughput: all.throughput as f64 / seconds.max(1e-9),
            answers: Answers {
                latest_us: if stats.latest.is_zero() { 0 } else { whole_us(stats.latest) },
                none: stats.silent,
                unsent: stats.unsent,
                after_end: stats.after_end,
            },
            first_error_unix_ms: stats.error_span.map(|span| unix_ms(span.0)),
            last_error_unix_ms: stats.error_span.map(|span| unix_ms(span.1)),
            latency: Percentiles::of(&all.latency),
            calls: Call::ALL
                .iter()
                .zip(&stats.calls)
                .filter(|(_, histogram)| !histogram.is_empty())
                .map(|(call, histogram)| CallReport {
                    call: call.name().into(),
                    latency: Percentiles::of(histogram),
                })
                .collect(),
            bound: report::bound(&steps),
            steps,
            timeline,
            tls: Tls {
                protocol: stats.protocol.clone(),
                handshakes: stats.handshakes.len(),
                resumed: stats.resumed,
                handshakes_per_second: stats.measured_handshakes as f64 / seconds.max(1e-9),
                handshake_p50_us: stats.handshakes.value_at_quantile(0.5),
                handshake_p99_us: stats.handshakes.value_at_quantile(0.99),
                handshake_max_us: stats.handshakes.max(),
            },
            client,
            server: seen.server,
            idle,
            slas: slas.clone(),
            checks: judge(
                &self.promise,
                &all.latency,
                all_errors,
                self.shape.verify.then_some(stats.wrong),
            ),
            warnings,
            capacity: None,
        }
    }

    fn settings(&self) -> Settings {
        let range = |sizes: crate::units::Sizes| {
            if sizes.from == sizes.to {
                sizes.from.to_string()
            } else {
                format!("{}..{}", sizes.from, sizes.to)
            }
        };
        Settings {
            target: self.target.host.clone(),
            load: self.load.clone(),
            arrivals: if self.plan.closed {
                "closed loop".into()
            } else {
                format!("{:?}", self.plan.arrivals).to_lowercase()
            },
            mix: self.shape.mix.text(),
            plaintext_bytes: range(self.shape.plaintext),
            aad_bytes: range(self.shape.aad),
            cdiv: self.shape.cdiv,
            key_stores: self.target.keystores.len(),
            keys: self.target.keys.len(),
            connections: self.transport.connections,
            depth: self.transport.depth,
            workers: self.workers,
            timeout_ms: self.transport.timeout.as_millis() as u64,
            reconnect_rate: self.transport.reconnect_rate,
            requests_per_connection: self.transport.requests_per_connection,
            resume: self.transport.resume,
            idle: self.idle,
            unverified: !self.shape.verify,
        }
    }

    /// The share of what the connections can carry at once that was on its way, on average.
    fn connections_busy(&self, phase: &PhaseStats, seconds: f64) -> f64 {
        let carried = (self.transport.connections * self.transport.depth) as f64;
        (phase.in_flight.as_secs_f64() / (seconds * carried).max(1e-9)).min(1.0)
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
