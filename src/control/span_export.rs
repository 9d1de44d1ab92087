//! Posts spans to a collector of OpenTelemetry (OTLP over HTTP, JSON), on a thread of this
//! configuration: another one has another thread, and this one ends with what it has.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};
use rustix::system::uname;
use serde_json::Value;

use super::http_client::{self, Bounds, Request};
use crate::config::{Server, Url};
use crate::limits::{SPAN_BATCH_MAX, SPAN_QUEUE_MAX};
use crate::telemetry::spans::{SpanCounts, Spans, batch};
use crate::telemetry::{Level, Log};

const THREAD: &str = "xksd-spans";
/// Spans gather for so long.
const GATHER_TIME: Duration = Duration::from_secs(1);
/// The specification's path for spans.
const PATH: &str = "/v1/traces";
const BOUNDS: Bounds = Bounds {
    connect: Duration::from_secs(1),
    call: Duration::from_secs(3),
    answer_bytes: 64 * 1024,
};

/// [`configure`], for the start.
///
/// # Errors
/// The same.
pub fn start(server: &Server, log: &Log) -> Result<Arc<SpanCounts>, String> {
    let counts = Arc::default();
    configure(server, log, &counts).map(|()| counts)
}

/// Has the log's writer make spans as this configuration says, or none.
///
/// # Errors
/// A sentence for the operator.
pub fn configure(server: &Server, log: &Log, counts: &Arc<SpanCounts>) -> Result<(), String> {
    let Some(collector) = server.otlp_endpoint.clone() else {
        log.set_spans(None);
        return Ok(());
    };
    let (queue, spans) = bounded(SPAN_QUEUE_MAX);
    let export =
        Export { collector, instance: instance(), counts: counts.clone(), log: log.clone() };
    thread::Builder::new()
        .name(THREAD.into())
        .spawn(move || export.run(&spans))
        .map_err(|error| format!("server.otlp_endpoint: no thread can be started: {error}"))?;
    log.set_spans(Some(Spans::new(server.otlp_sample_one_in, queue, counts.clone())));
    Ok(())
}

fn instance() -> String {
    uname().nodename().to_string_lossy().into_owned()
}

struct Export {
    collector: Url,
    instance: String,
    counts: Arc<SpanCounts>,
    log: Log,
}

impl Export {
    /// Until nobody makes spans for it any more.
    fn run(&self, queue: &Receiver<Value>) {
        let mut fails = false;
        while let Ok(first) = queue.recv() {
            let end = Instant::now() + GATHER_TIME;
            let mut spans = vec![first];
            while spans.len() < SPAN_BATCH_MAX {
                let Ok(span) = queue.recv_deadline(end) else { break };
                spans.push(span);
            }
            let count = spans.len() as u64;
            match self.post(&spans) {
                Ok(()) => {
                    self.counts.exported.fetch_add(count, Ordering::Relaxed);
                    if fails {
                        self.log.event(Level::Info, "the collector takes spans again");
                    }
                    fails = false;
                }
                Err(why) => {
                    self.counts.lost.fetch_add(count, Ordering::Relaxed);
                    if !fails {
                        let message = format!("spans are lost, the collector takes none: {why}");
                        self.log.event(Level::Warn, message);
                    }
                    fails = true;
                }
            }
        }
    }

    fn post(&self, spans: &[Value]) -> Result<(), String> {
        let body = batch(&self.instance, spans).to_string();
        let request = Request {
            method: "POST",
            path: PATH,
            authorization: None,
            content_type: "application/json",
            body: body.as_bytes(),
        };
        let answer = http_client::send(&self.collector, None, request, BOUNDS)?;
        match answer.status {
            200..=299 => Ok(()),
            status => Err(format!("{}{PATH}: status {status}", self.collector)),
        }
    }
}
