//! What came of a run, as data.

pub mod capacity;
pub mod percentiles;
pub mod step;
pub mod subject;

use std::path::Path;

use serde::{Deserialize, Serialize};

use self::capacity::Capacity;
use self::percentiles::Percentiles;
use self::step::Step;
use self::subject::Subject;
use crate::criteria::{Check, ERRORS, Sla, TestResult};
use crate::generator::idle::IdleReport;
use crate::generator::stats::Second;
use crate::observe::bottleneck::Bottleneck;
use crate::observe::cpu::Cpu;
use crate::observe::observer::Proxy;
use crate::target::read_text;

/// Changes when a reader of reports must change.
pub const FORMAT: u32 = 2;

/// All of a run. Nothing secret is in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of this tool.
    pub version: String,
    /// When the load began, UTC.
    pub started: String,
    /// What was tested, from where and how.
    pub subject: Subject,
    /// What was run.
    pub settings: Settings,
    /// The measured time, seconds.
    pub seconds: f64,
    /// Requests that were due.
    pub offered: u64,
    /// Right answers to them, whenever they came in.
    pub right: u64,
    /// Everything else.
    pub errors: u64,
    /// By name; also errors that belong to no single request, such as failed connections.
    pub errors_by_name: std::collections::BTreeMap<String, u64>,
    /// Answers that claimed success and were wrong.
    pub wrong: u64,
    /// The first of them.
    pub wrong_examples: Vec<String>,
    /// Right answers a second that came in within the measured time, whenever they were due:
    /// without [`Answers::after_end`].
    pub throughput: f64,
    /// All that was answered, right or not, and what was not.
    pub answers: Answers,
    /// When the first error was seen, Unix time in milliseconds.
    pub first_error_unix_ms: Option<u64>,
    /// And the last: what heals has healed by then.
    pub last_error_unix_ms: Option<u64>,
    /// Latency of right answers.
    pub latency: Percentiles,
    /// The same by call.
    pub calls: Vec<CallReport>,
    /// Steps, or parts of a ramp; one where the rate was constant.
    pub steps: Vec<Step>,
    /// Second by second, warm-up included.
    pub timeline: Vec<Point>,
    /// TLS.
    pub tls: Tls,
    /// How this tool itself fared.
    pub generator: Generator,
    /// What could be seen of the proxy.
    pub proxy: Proxy,
    /// And of the load balancer before it.
    pub balancer: Option<Cpu>,
    /// Connections that did nothing, where some were asked for.
    pub idle: Option<IdleReport>,
    /// What kept it from more, where it was at its limit.
    pub bottleneck: Bottleneck,
    /// Bounds that were asked for.
    pub slas: Vec<Sla>,
    /// What had to hold.
    pub checks: Vec<Check>,
    /// What to know before believing the figures.
    pub warnings: Vec<String>,
    /// Of a search for the capacity.
    pub capacity: Option<Capacity>,
}

/// What was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Settings {
    pub target: String,
    pub load: String,
    pub arrivals: String,
    pub mix: String,
    pub plaintext_bytes: String,
    pub aad_bytes: String,
    pub cdiv: f64,
    pub key_stores: usize,
    pub keys: usize,
    pub connections: usize,
    pub depth: usize,
    pub workers: usize,
    pub timeout_ms: u64,
    pub reconnect_rate: f64,
    pub requests_per_connection: Option<u64>,
    pub resume: bool,
    pub idle: usize,
    /// Errors that are accepted; `None`: not judged.
    pub max_errors: Option<u64>,
    /// Answers were not checked.
    pub unverified: bool,
}

/// Answers of every kind to the requests of the measured time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// The longest time from when a request was due to any answer to it, errors included,
    /// microseconds. A proxy that answers in time whatever happens keeps this below its budget
    /// while its HSM is dead.
    pub latest_us: u64,
    /// Requests that were sent and got no answer: none within the time-out, or their connection was
    /// lost.
    pub none: u64,
    /// Requests that were not sent, because no connection was free within the time-out.
    pub unsent: u64,
    /// Right answers that came in after the end of the measured time: they are in `right` and the
    /// latencies, and not in `throughput`.
    #[serde(default)]
    pub after_end: u64,
}

/// One of the four calls.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CallReport {
    pub call: String,
    pub latency: Percentiles,
}

/// One second of the timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Point {
    pub second: u64,
    pub offered: u64,
    pub right: u64,
    pub errors: u64,
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
    /// At the percentile of each of the report's `slas`, in their order.
    pub at_slas: Vec<u64>,
}

impl Point {
    /// Of a second.
    pub fn of(second: &Second, slas: &[Sla]) -> Point {
        let at = |quantile| second.latency.value_at_quantile(quantile);
        Point {
            second: second.second,
            offered: second.offered,
            right: second.right,
            errors: second.errors,
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: second.latency.max(),
            at_slas: slas.iter().map(|sla| at(sla.quantile)).collect(),
        }
    }
}

/// Connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Tls {
    pub protocol: String,
    pub handshakes: u64,
    pub resumed: u64,
    /// In the measured time.
    pub handshakes_per_second: f64,
    pub handshake_p50_us: u64,
    pub handshake_p99_us: u64,
    pub handshake_max_us: u64,
}

/// How this tool itself fared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// CPU time for each right answer, microseconds; `None` where it could not be measured.
    pub cpu_us_per_request: Option<f64>,
    /// Share of the time that its busiest worker ran, where it could be read.
    pub busiest_worker: Option<f64>,
    /// Share of what the connections can carry at once that was on its way, on average.
    pub connections_busy: f64,
    /// How late requests were handed to connections.
    pub lag_p99_us: u64,
    /// The same, worst case.
    pub lag_max_us: u64,
    /// Ciphertexts decrypted and compared after the run.
    pub closing_decrypts: u64,
}

impl Report {
    /// What it came to.
    pub fn result(&self) -> TestResult {
        if self.checks.iter().any(|check| !check.passed) {
            TestResult::Fail
        } else if self.slas.is_empty() && !self.checks.iter().any(|check| check.what == ERRORS) {
            TestResult::NoCriteria
        } else {
            TestResult::Pass
        }
    }

    /// As JSON, with its result: what follows from the rest is written, and not read back.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String, String> {
        #[derive(Serialize)]
        struct WithResult<'a> {
            result: TestResult,
            #[serde(flatten)]
            report: &'a Report,
        }
        let whole = WithResult { result: self.result(), report: self };
        let mut text = serde_json::to_string_pretty(&whole).map_err(|e| e.to_string())?;
        text.push('\n');
        Ok(text)
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When the file is no report of this format.
    pub fn load(path: &Path) -> Result<Report, String> {
        let report: Report = serde_json::from_str(&read_text(path)?)
            .map_err(|e| format!("{}: no report: {e}", path.display()))?;
        if report.format == FORMAT {
            Ok(report)
        } else {
            Err(format!("{}: format {}, not {FORMAT}", path.display(), report.format))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
