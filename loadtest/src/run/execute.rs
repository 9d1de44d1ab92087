//! A run from its first connection to its report.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::collector::Collector;
use super::settings::Run;
use super::summary::{self, Measured};
use crate::generator::idle::{Idle, IdleReport};
use crate::generator::stats::{Second, Stats};
use crate::generator::transport::Failure;
use crate::generator::worker::WorkerConfig;
use crate::observe::observer::Observer;
use crate::present::progress::Progress;
use crate::report::Report;
use crate::units::count;

/// Between "all are ready" and the first request.
const START_DELAY: Duration = Duration::from_millis(20);

/// Runs it.
///
/// # Errors
/// When it could not begin.
pub fn execute(run: &Run, progress: &mut Progress) -> Result<Report, Failure> {
    let (workers, seconds) = Workers::start(run)?;
    let mut observer = match Observer::new(&run.target) {
        Ok(observer) => observer,
        Err(why) => return Err(workers.stop(Failure::Setup(why))),
    };
    let idle = match open_idle(run, &observer, progress) {
        Ok(idle) => idle,
        Err(why) => return Err(workers.stop(why)),
    };
    let start = Instant::now() + START_DELAY;
    let started = OffsetDateTime::now_utc();
    workers.begin(start);
    let mut collector = Collector::new(seconds, run.workers, &run.criteria.slas);
    let length = run.plan.length().as_secs_f64();
    collector.until(start + run.plan.measured_from(), length, progress);
    observer.sample();
    for phase in run.plan.phases.iter().filter(|phase| phase.measured) {
        collector.until(start + phase.start + phase.length, length, progress);
        observer.sample();
    }
    // What is in flight gets its answer or its time-out; then the workers end.
    collector.until_closed(length, progress);
    progress.clear();
    // Not before: closing thousands would hold up the last answers.
    let idle: Option<IdleReport> = idle.map(Idle::end);
    let stats = workers.join(run.plan.phases.len())?;
    let timeline = collector.timeline();
    Ok(summary::report(run, &Measured { started, stats, timeline, observer, idle }))
}

fn open_idle(
    run: &Run,
    observer: &Observer,
    progress: &mut Progress,
) -> Result<Option<Idle>, Failure> {
    if run.idle == 0 {
        return Ok(None);
    }
    progress.status(&format!("opening {} idle connections", count(run.idle as u64)));
    let memory = || observer.resident_bytes();
    let opened = Idle::open(&run.target, run.transport.tls, run.idle, memory);
    progress.clear();
    opened.map(Some).map_err(Failure::Setup)
}

/// The threads of a run, connected and waiting for its start.
struct Workers {
    threads: Vec<glommio::ExecutorJoinHandle<Option<Stats>>>,
    go: Arc<OnceLock<Instant>>,
    abort: Arc<AtomicBool>,
}

impl Workers {
    /// Starts them all and waits until each has its connections.
    fn start(run: &Run) -> Result<(Workers, Receiver<Second>), Failure> {
        let id = random_id()?;
        let mut workers =
            Workers { threads: Vec::new(), go: Arc::default(), abort: Arc::default() };
        let (ready, all_ready) = channel();
        let (publish, seconds) = channel();
        let mut failure = None;
        for index in 0..run.workers {
            let worker = WorkerConfig {
                index,
                workers: run.workers,
                core: run.cores.get(index % run.cores.len().max(1)).copied(),
                run: id,
                target: run.target.clone(),
                shape: run.shape.clone(),
                plan: run.plan.clone(),
                transport: run.transport.clone(),
                go: workers.go.clone(),
                abort: workers.abort.clone(),
                ready: ready.clone(),
                seconds: publish.clone(),
            };
            match worker.start() {
                Ok(thread) => workers.threads.push(thread),
                Err(why) => failure = Some(Failure::Setup(why)),
            }
        }
        drop((ready, publish));
        for _ in 0..workers.threads.len() {
            let ended = || Err(Failure::Setup("a worker ended before it was ready".into()));
            if let Err(why) = all_ready.recv().unwrap_or_else(|_| ended()) {
                failure.get_or_insert(why);
            }
        }
        match failure {
            Some(failure) => Err(workers.stop(failure)),
            None => Ok((workers, seconds)),
        }
    }

    /// The first request is due then.
    fn begin(&self, start: Instant) {
        let _ = self.go.set(start);
    }

    /// Ends them before the start. Gives the reason back.
    fn stop(self, why: Failure) -> Failure {
        self.abort.store(true, Ordering::Release);
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
        why
    }

    /// Waits for their end and adds up what they counted.
    fn join(self, phases: usize) -> Result<Stats, Failure> {
        let mut stats = Stats::new(phases);
        for thread in self.threads {
            let theirs =
                thread.join().map_err(|e| Failure::Setup(format!("a worker failed: {e}")))?;
            stats.add(&theirs.ok_or_else(|| Failure::Setup("a worker did not run".into()))?);
        }
        Ok(stats)
    }
}

fn random_id() -> Result<u32, Failure> {
    use ring::rand::SecureRandom;
    let mut id = [0; 4];
    ring::rand::SystemRandom::new()
        .fill(&mut id)
        .map_err(|_| Failure::Setup("no random numbers".into()))?;
    Ok(u32::from_ne_bytes(id))
}
