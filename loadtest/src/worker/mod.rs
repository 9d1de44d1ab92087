//! A worker: one thread with its own executor, its share of the connections and of the schedule.
//! Workers share nothing while they run.

mod connection;
mod hub;
mod preflight;

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use glommio::timer::sleep;
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares};

use self::connection::Connector;
use self::hub::{Due, Hub};
use crate::limits::{CONNECTING_AT_ONCE, IO_MEMORY_BYTES, PACING_GRAIN, WATCH_INTERVAL};
use crate::schedule::Plan;
use crate::stats::{Second, Stats};
use crate::target::Target;
use crate::tls::Versions;
use crate::uring::explain;
use crate::workload::{Shape, Workload};

/// How requests travel.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Connections over all workers.
    pub connections: usize,
    /// Requests in flight on one connection.
    pub depth: usize,
    /// A request without an answer for this long is an error.
    pub timeout: Duration,
    /// TLS versions to offer.
    pub tls: Versions,
    /// Connections closed and opened anew, a second, over all workers.
    pub reconnect_rate: f64,
    /// Requests after which a connection is closed and opened anew; `None`: any number.
    pub requests_per_connection: Option<u64>,
    /// Whether connections that are made anew resume their TLS session.
    pub resume: bool,
}

/// What a worker is made of.
pub struct Seed {
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub workers: usize,
    /// To be pinned to.
    pub core: Option<usize>,
    /// Random number of the run.
    pub run: u32,
    /// Whom to ask.
    pub target: Arc<Target>,
    /// What to ask.
    pub shape: Shape,
    /// When.
    pub plan: Arc<Plan>,
    /// How.
    pub transport: Transport,
    /// The common start, set when all workers are ready.
    pub go: Arc<OnceLock<Instant>>,
    /// Set when another worker could not start.
    pub abort: Arc<AtomicBool>,
    /// Told once.
    pub ready: Sender<Result<(), Failure>>,
    /// Told each second.
    pub seconds: Sender<Second>,
}

/// Why a run cannot start.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// It cannot be judged: wrong settings, no connection, an error answered to the first requests.
    Setup(String),
    /// The proxy answered wrongly.
    Wrong(String),
}

impl Seed {
    /// Starts the worker's thread.
    ///
    /// # Errors
    /// When there is no thread or no io_uring.
    pub fn start(self) -> Result<glommio::ExecutorJoinHandle<Option<Stats>>, String> {
        let placement = self.core.map_or(Placement::Unbound, Placement::Fixed);
        LocalExecutorBuilder::new(placement)
            .name("xksd-load")
            .io_memory(IO_MEMORY_BYTES)
            .spawn(move || self.run())
            .map_err(|e| explain(&e.to_string()))
    }

    async fn run(self) -> Option<Stats> {
        // No latency requirement: nothing here waits for another thread.
        let queue = glommio::executor().create_task_queue(
            Shares::default(),
            Latency::NotImportant,
            "requests",
        );
        let ready = self.ready.clone();
        match glommio::spawn_local_into(self.work(queue), queue) {
            Ok(task) => task.await,
            Err(error) => {
                let _ = ready.send(Err(Failure::Setup(error.to_string())));
                None
            }
        }
    }

    async fn work(self, queue: glommio::TaskQueueHandle) -> Option<Stats> {
        let prepared = self.prepare().await;
        let (hub, connector) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => {
                let _ = self.ready.send(Err(failure));
                return None;
            }
        };
        let count = self.transport.connections / self.workers
            + usize::from(self.index < self.transport.connections % self.workers);
        let mut tasks = Vec::with_capacity(count);
        for n in 0..count {
            // Not all handshakes at once: the last would be older than a proxy's patience.
            while n >= hub.connected() + CONNECTING_AT_ONCE && hub.failure().is_none() {
                sleep(Duration::from_millis(1)).await;
            }
            let link = hub.link();
            match glommio::spawn_local_into(
                connection::keep(hub.clone(), link, connector.clone(), self.transport.clone()),
                queue,
            ) {
                Ok(task) => tasks.push(task),
                Err(error) => hub.fail(error.to_string()),
            }
        }
        while hub.connected() < count && hub.failure().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        let told = hub.failure().map_or(Ok(()), |why| Err(Failure::Setup(why)));
        let failed = told.is_err() || self.ready.send(told.clone()).is_err();
        if failed {
            let _ = self.ready.send(told);
        }
        let start = if failed { None } else { self.wait_for_go().await };
        let Some(start) = start else {
            hub.finish();
            for task in tasks {
                task.cancel().await;
            }
            return None;
        };
        sleep(start.saturating_duration_since(Instant::now())).await;
        hub.start(start);
        let watching = glommio::spawn_local_into(self.watch(hub.clone(), start), queue);
        self.pace(&hub, start).await;
        hub.finish();
        for task in tasks {
            task.await;
        }
        if let Ok(watching) = watching {
            watching.cancel().await;
        }
        hub.turn(start + self.plan.length() + Duration::from_secs(1));
        if self.shape.verify {
            preflight::decrypt_what_is_left(&hub, &connector).await;
        }
        Some(hub.take_stats())
    }

    async fn prepare(&self) -> Result<(Rc<Hub>, Connector), Failure> {
        let workload = Workload::new(&self.target, &self.shape, self.run, self.index)
            .map_err(Failure::Setup)?;
        let connector = Connector::new(&self.target, &self.transport).map_err(Failure::Setup)?;
        let hub = Rc::new(Hub::new(
            self.plan.clone(),
            workload,
            self.transport.timeout,
            self.seconds.clone(),
        ));
        if self.shape.verify {
            preflight::ask_once(&hub, &connector, &self.shape.mix).await?;
        }
        Ok((hub, connector))
    }

    async fn wait_for_go(&self) -> Option<Instant> {
        loop {
            if let Some(start) = self.go.get() {
                return Some(*start);
            }
            if self.abort.load(Ordering::Acquire) {
                return None;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Hands requests out when they are due, whatever became of the ones before.
    async fn pace(&self, hub: &Hub, start: Instant) {
        let mut due_times =
            self.plan.due_times(self.index, self.workers, u64::from(self.run)).peekable();
        while let Some(&(due, _)) = due_times.peek() {
            let now = Instant::now();
            let wait = (start + due).saturating_duration_since(now);
            if !wait.is_zero() {
                sleep(wait.max(PACING_GRAIN)).await;
                continue;
            }
            let elapsed = now.saturating_duration_since(start);
            while let Some((due, phase)) = due_times.next_if(|(due, _)| *due <= elapsed) {
                hub.due(Due { at: start + due, phase }, now);
            }
            // Many may be due at once: what has been answered meanwhile must not wait for all of
            // them to be sent.
            glommio::yield_if_needed().await;
        }
        let end = start + self.plan.length();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }

    /// Ends overdue requests, retires connections and publishes seconds.
    fn watch(&self, hub: Rc<Hub>, start: Instant) -> impl Future<Output = ()> + use<> {
        let rate = self.transport.reconnect_rate / self.workers as f64;
        async move {
            let mut retired = 0.0;
            loop {
                sleep(WATCH_INTERVAL).await;
                let now = Instant::now();
                let elapsed = now.saturating_duration_since(start);
                hub.expire(now);
                hub.turn(now);
                let wanted = (elapsed.as_secs_f64() * rate).floor();
                while retired < wanted {
                    hub.retire_one();
                    retired += 1.0;
                }
            }
        }
    }
}
