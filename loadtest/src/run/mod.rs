//! A run from its first connection to its report.

mod collector;
mod summary;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use self::collector::Collector;
use crate::idle::Idle;
use crate::live::Live;
use crate::observe::Observer;
use crate::report::Report;
use crate::schedule::Plan;
use crate::sla::Promise;
use crate::stats::Stats;
use crate::target::Target;
use crate::units::count;
use crate::worker::{Failure, Seed, Transport};
use crate::workload::Shape;

/// Between "all are ready" and the first request.
const LEAD: Duration = Duration::from_millis(20);
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
        let run = random_id()?;
        let (go, abort) = (Arc::new(OnceLock::new()), Arc::new(AtomicBool::new(false)));
        let (ready, all_ready) = channel();
        let (seconds_in, seconds) = channel();
        let mut workers = Vec::new();
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
            };
            match seed.start() {
                Ok(worker) => workers.push(worker),
                Err(why) => failure = Some(Failure::Setup(why)),
            }
        }
        drop((ready, seconds_in));
        for _ in 0..workers.len() {
            match all_ready.recv() {
                Ok(Ok(())) => {}
                Ok(Err(why)) => failure = failure.or(Some(why)),
                Err(_) => {
                    failure = failure
                        .or(Some(Failure::Setup("a worker ended before it was ready".into())))
                }
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
        let mut collector = Collector::new(seconds, self.workers);
        let of = self.plan.length().as_secs_f64();
        collector.until(start + self.plan.measured_from(), of, live);
        observer.mark();
        for phase in self.plan.phases.iter().filter(|phase| phase.measured) {
            collector.until(start + phase.start + phase.length, of, live);
            observer.mark();
        }
        // What is in flight gets its answer or its time-out; then the workers end.
        collector.until_closed(of, live);
        live.clear();
        // Not before: closing thousands would hold up the last answers.
        let idle = idle.map(Idle::end);
        let mut stats = Stats::new(self.plan.phases.len());
        for worker in workers {
            let theirs =
                worker.join().map_err(|e| Failure::Setup(format!("a worker failed: {e}")))?;
            stats.add(&theirs.ok_or_else(|| Failure::Setup("a worker did not run".into()))?);
        }
        Ok(self.report(started, &stats, collector.timeline(), &observer, idle))
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
}

fn random_id() -> Result<u32, Failure> {
    use ring::rand::SecureRandom;
    let mut id = [0; 4];
    ring::rand::SystemRandom::new()
        .fill(&mut id)
        .map_err(|_| Failure::Setup("no random numbers".into()))?;
    Ok(u32::from_ne_bytes(id))
}
