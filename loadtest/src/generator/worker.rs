//! A worker: one thread with its own executor, its share of the connections and of the schedule.
//! Workers share nothing while they run.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use glommio::timer::sleep;
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares};

use super::connection::{self, Connector};
use super::dispatcher::{Dispatcher, Due};
use super::preflight;
use super::stats::{Second, Stats};
use super::transport::{Failure, Transport};
use super::uring::explain;
use crate::limits::{CONNECTING_AT_ONCE, IO_MEMORY_BYTES, PACING_GRAIN, WATCH_INTERVAL};
use crate::target::Target;
use crate::workload::schedule::Plan;
use crate::workload::{Shape, Workload};

/// What a worker is made of.
pub struct WorkerConfig {
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

impl WorkerConfig {
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
        let (dispatcher, connector) = match prepared {
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
            while n >= dispatcher.connected() + CONNECTING_AT_ONCE && dispatcher.failure().is_none()
            {
                sleep(Duration::from_millis(1)).await;
            }
            let state = dispatcher.register();
            match glommio::spawn_local_into(
                connection::run(
                    dispatcher.clone(),
                    state,
                    connector.clone(),
                    self.transport.clone(),
                ),
                queue,
            ) {
                Ok(task) => tasks.push(task),
                Err(error) => dispatcher.fail(error.to_string()),
            }
        }
        while dispatcher.connected() < count && dispatcher.failure().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        let told = dispatcher.failure().map_or(Ok(()), |why| Err(Failure::Setup(why)));
        let failed = told.is_err() || self.ready.send(told.clone()).is_err();
        if failed {
            let _ = self.ready.send(told);
        }
        let start = if failed { None } else { self.wait_for_go().await };
        let Some(start) = start else {
            dispatcher.finish();
            for task in tasks {
                task.cancel().await;
            }
            return None;
        };
        sleep(start.saturating_duration_since(Instant::now())).await;
        dispatcher.start(start);
        let watching = glommio::spawn_local_into(self.watch(dispatcher.clone(), start), queue);
        self.pace(&dispatcher, start).await;
        dispatcher.finish();
        for task in tasks {
            task.await;
        }
        if let Ok(watching) = watching {
            watching.cancel().await;
        }
        dispatcher.publish_seconds(start + self.plan.length() + Duration::from_secs(1));
        if self.shape.verify {
            preflight::decrypt_what_is_left(&dispatcher, &connector).await;
        }
        Some(dispatcher.take_stats())
    }

    async fn prepare(&self) -> Result<(Rc<Dispatcher>, Connector), Failure> {
        let workload = Workload::new(&self.target, &self.shape, self.run, self.index)
            .map_err(Failure::Setup)?;
        let connector = Connector::new(&self.target, &self.transport).map_err(Failure::Setup)?;
        let dispatcher = Rc::new(Dispatcher::new(
            self.plan.clone(),
            workload,
            self.transport.timeout,
            self.seconds.clone(),
        ));
        if self.shape.verify {
            preflight::ask_once(&dispatcher, &connector, &self.shape.mix).await?;
        }
        Ok((dispatcher, connector))
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
    async fn pace(&self, dispatcher: &Dispatcher, start: Instant) {
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
                dispatcher.due(Due { at: start + due, phase }, now);
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

    /// Ends overdue requests, reconnects and publishes seconds.
    fn watch(
        &self,
        dispatcher: Rc<Dispatcher>,
        start: Instant,
    ) -> impl Future<Output = ()> + use<> {
        let rate = self.transport.reconnect_rate / self.workers as f64;
        async move {
            let mut reconnected = 0.0;
            loop {
                sleep(WATCH_INTERVAL).await;
                let now = Instant::now();
                let elapsed = now.saturating_duration_since(start);
                dispatcher.expire(now);
                dispatcher.publish_seconds(now);
                let wanted = (elapsed.as_secs_f64() * rate).floor();
                while reconnected < wanted {
                    dispatcher.reconnect_one();
                    reconnected += 1.0;
                }
            }
        }
    }
}
