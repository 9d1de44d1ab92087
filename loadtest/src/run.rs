//! A run from its first connection to its report.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::idle::{Idle, IdleReport};
use crate::live::Live;
use crate::observe::{Bound, Observer, Server};
use crate::report::{Answers, CallReport, Client, FORMAT, Percentiles, Point, Report, Settings, Step, Tls, text};
use crate::request::Call;
use crate::schedule::Plan;
use crate::sla::{Promise, judge};
use crate::stats::{Second, Stats, latency, whole_us};
use crate::target::Target;
use crate::units::count;
use crate::worker::{Failure, Nudge, Seed, Transport};
use crate::workload::Shape;

/// Between "all are ready" and the first request.
const LEAD: Duration = Duration::from_millis(20);
/// See [`Nudge`]: the longest that a request is late because of it.
const NUDGE_INTERVAL: Duration = Duration::from_millis(2);
/// Requests handed out later than this (p99) make the figures doubtful, microseconds.
const LAG_DOUBTFUL_US: u64 = 5_000;

type Worker = glommio::ExecutorJoinHandle<Option<Stats>>;

/// What to run.
#[derive(Clone)]
pub struct Run {
    /// Whom.
    pub target: Arc<Target>,
    /// What.
    pub shape: Shape,
    /// When.
    pub plan: Arc<Plan>,
    /// How.
    pub transport: Transport,
    /// Connections that do nothing, besides.
    pub idle: usize,
    /// Threads.
    pub workers: usize,
    /// Cores to pin them to, in turn.
    pub cores: Vec<usize>,
    /// What must hold.
    pub promise: Promise,
    /// The load in words.
    pub load: String,
}

impl Run {
    /// Runs it.
    ///
    /// # Errors
    /// When it could not begin.
    pub fn execute(&self, live: &mut Live) -> Result<Report, Failure> {
        raise_descriptor_limit();
        let run = random_id()?;
        let (go, abort) = (Arc::new(OnceLock::new()), Arc::new(AtomicBool::new(false)));
        let (ready, all_ready) = channel();
        let (seconds_in, seconds) = channel();
        let (mut workers, mut nudges) = (Vec::new(), Vec::new());
        let mut failure = None;
        for index in 0..self.workers {
            let seed = Seed {
                index,
                workers: self.workers,
                core: (!self.cores.is_empty()).then(|| self.cores[index % self.cores.len()]),
                run,
                target: self.target.clone(),
                shape: self.shape.clone(),
                plan: self.plan.clone(),
                transport: self.transport.clone(),
                go: go.clone(),
                abort: abort.clone(),
                ready: ready.clone(),
                seconds: seconds_in.clone(),
                nudge: Nudge::default(),
            };
            nudges.push(seed.nudge.clone());
            match seed.start() {
                Ok(worker) => workers.push(worker),
                Err(why) => failure = Some(Failure::Setup(why)),
            }
        }
        drop((ready, seconds_in));
        for _ in 0..workers.len() {
            let told = loop {
                match all_ready.recv_timeout(NUDGE_INTERVAL) {
                    Err(RecvTimeoutError::Timeout) => nudges.iter().for_each(Nudge::wake),
                    told => break told,
                }
            };
            match told {
                Ok(Ok(())) => {}
                Ok(Err(why)) => failure = failure.or(Some(why)),
                Err(_) => failure = failure.or(Some(Failure::Setup("a worker ended before it was ready".into()))),
            }
        }
        let stop = |workers: Vec<Worker>, failure: Failure| {
            abort.store(true, Ordering::Release);
            workers.into_iter().for_each(|worker| drop(worker.join()));
            Err(failure)
        };
        if let Some(failure) = failure {
            return stop(workers, failure);
        }
        let mut observer = Observer::new(&self.target);
        let idle = match self.open_idle(&observer, live) {
            Ok(idle) => idle,
            Err(why) => return stop(workers, why),
        };
        let start = Instant::now() + LEAD;
        let started = time::OffsetDateTime::now_utc();
        let _ = go.set(start);
        let mut collector = Collector { seconds, nudges, workers: self.workers, partial: BTreeMap::new(), timeline: Vec::new() };
        let of = self.plan.length().as_secs_f64();
        collector.until(start + self.plan.measured_from(), of, live);
        observer.begin();
        let measured_from = collector.right();
        collector.until(start + self.plan.length(), of, live);
        let server = observer.end(|| collector.right() - measured_from);
        let idle = idle.map(Idle::end);
        // What is in flight gets its answer or its time-out; then the workers end.
        collector.until_closed(of, live);
        live.clear();
        let mut stats = Stats::new(self.plan.phases.len());
        for worker in workers {
            let theirs = worker.join().map_err(|e| Failure::Setup(format!("a worker failed: {e}")))?;
            stats.add(&theirs.ok_or_else(|| Failure::Setup("a worker did not run".into()))?);
        }
        Ok(self.report(started, &stats, collector.timeline, server, idle))
    }

    fn open_idle(&self, observer: &Observer, live: &mut Live) -> Result<Option<Idle>, Failure> {
        if self.idle == 0 {
            return Ok(None);
        }
        live.status(&format!("opening {} idle connections", count(self.idle as u64)));
        let opened = Idle::open(&self.target, self.transport.tls, self.idle, observer);
        live.clear();
        opened.map(Some).map_err(Failure::Setup)
    }

    fn report(
        &self,
        started: time::OffsetDateTime,
        stats: &Stats,
        timeline: Vec<Point>,
        mut server: Server,
        idle: Option<IdleReport>,
    ) -> Report {
        let slas = &self.promise.slas;
        let measured: Vec<_> = self.plan.phases.iter().zip(&stats.phases).filter(|(phase, _)| phase.measured).collect();
        let mut all = latency();
        let (mut offered, mut right, mut errors, mut came_in, mut seconds) = (0, 0, 0, 0, 0.0);
        for (phase, counted) in &measured {
            let _ = all.add(&counted.latency);
            offered += counted.offered;
            right += counted.right;
            errors += counted.errors;
            came_in += counted.throughput;
            seconds += phase.length.as_secs_f64();
        }
        // The watched stretch is cut at ticks; the exact number of answers is known here.
        if let Some(cpu) = &mut server.cpu
            && came_in > 0
        {
            cpu.us_per_request = cpu.cores_used * seconds * 1e6 / came_in as f64;
        }
        // Also errors of no single request (a failed connection, a decrypt after the run) must not pass for success.
        let all_errors = errors.max(stats.errors.values().sum());
        let lag = &stats.lag;
        let throttled = stats.errors.keys().any(|name| name.starts_with("Throttling"));
        let client = Client {
            cpu_us_per_request: if right == 0 { 0.0 } else { stats.cpu.as_secs_f64() * 1e6 / right as f64 },
            busiest_worker: stats.busiest,
            lag_p99_us: lag.value_at_quantile(0.99),
            lag_max_us: lag.max(),
            closing_decrypts: stats.closing_decrypts,
        };
        let mut warnings = Vec::new();
        if !self.shape.verify {
            warnings.push("UNVERIFIED: any answer with status 200 counted as right, whatever it says; no ciphertext was decrypted".into());
        }
        if client.lag_p99_us > LAG_DOUBTFUL_US {
            warnings.push(format!(
                "this tool was late itself (p99 {}): latencies are too high for the proxy; give it cores of its own (--workers, --cores)",
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
            warnings.push("there are seconds without any right answer: see the picture over time".into());
        }
        Report {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            started: started
                .format(time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z"))
                .unwrap_or_default(),
            settings: self.settings(),
            seconds,
            offered,
            right,
            errors: all_errors,
            errors_by_name: stats.errors.clone(),
            wrong: stats.wrong,
            wrong_told: stats.wrong_told.clone(),
            throughput: came_in as f64 / seconds.max(1e-9),
            answers: Answers {
                latest_us: if stats.latest.is_zero() { 0 } else { whole_us(stats.latest) },
                none: stats.silent,
                unsent: stats.unsent,
            },
            first_error_unix_ms: stats.error_span.map(|span| unix_ms(span.0)),
            last_error_unix_ms: stats.error_span.map(|span| unix_ms(span.1)),
            latency: Percentiles::of(&all),
            calls: Call::ALL
                .iter()
                .zip(&stats.calls)
                .filter(|(_, histogram)| !histogram.is_empty())
                .map(|(call, histogram)| CallReport { call: call.name().into(), latency: Percentiles::of(histogram) })
                .collect(),
            steps: measured.iter().map(|(phase, counted)| Step::of(counted, phase.length.as_secs_f64(), slas)).collect(),
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
            bound: Bound::judge(client.busiest_worker, client.lag_p99_us, throttled, &server),
            client,
            server,
            idle,
            slas: slas.clone(),
            checks: judge(&self.promise, &all, all_errors, self.shape.verify.then_some(stats.wrong)),
            warnings,
            capacity: None,
        }
    }

    fn settings(&self) -> Settings {
        let range = |sizes: crate::units::Sizes| {
            if sizes.from == sizes.to { sizes.from.to_string() } else { format!("{}..{}", sizes.from, sizes.to) }
        };
        Settings {
            target: self.target.host.clone(),
            load: self.load.clone(),
            arrivals: if self.plan.closed { "closed loop".into() } else { format!("{:?}", self.plan.arrivals).to_lowercase() },
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
}

/// Puts the workers' seconds together.
struct Collector {
    seconds: Receiver<Second>,
    nudges: Vec<Nudge>,
    workers: usize,
    partial: BTreeMap<u64, (usize, Second)>,
    timeline: Vec<Point>,
}

impl Collector {
    fn take(&mut self, second: Second, of: f64, live: &mut Live) {
        let number = second.second;
        let (told, sum) = self.partial.entry(number).or_insert_with(|| (0, Second::new(number)));
        *told += 1;
        sum.add(&second);
        if *told == self.workers
            && let Some((_, whole)) = self.partial.remove(&number)
        {
            let point = Point::of(&whole);
            // What comes in after the end is no second of the run.
            if (number as f64) < of {
                live.second(&point, of);
                self.timeline.push(point);
            }
        }
    }

    /// False when all workers have ended.
    fn until(&mut self, deadline: Instant, of: f64, live: &mut Live) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.seconds.recv_timeout(left.min(NUDGE_INTERVAL)) {
                Ok(second) => self.take(second, of, live),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return true,
                Err(RecvTimeoutError::Timeout) => self.nudges.iter().for_each(Nudge::wake),
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
                    return false;
                }
            }
        }
    }

    fn until_closed(&mut self, of: f64, live: &mut Live) {
        while self.until(Instant::now() + Duration::from_secs(1), of, live) {}
        self.timeline.sort_by_key(|point| point.second);
    }

    fn right(&self) -> u64 {
        self.timeline.iter().map(|p| p.right).sum()
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

fn random_id() -> Result<u32, Failure> {
    use ring::rand::SecureRandom;
    let mut id = [0; 4];
    ring::rand::SystemRandom::new().fill(&mut id).map_err(|_| Failure::Setup("no random numbers".into()))?;
    Ok(u32::from_ne_bytes(id))
}

/// Each connection takes a descriptor.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
