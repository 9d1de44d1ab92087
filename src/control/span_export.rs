//! Posts spans to a collector of OpenTelemetry (OTLP over HTTP, JSON), on a thread of this
//! configuration: another one has another thread, and this one ends with what it has.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};
use rustls::ClientConfig;
use serde_json::Value;

use super::http_client::{self, Bounds, Request};
use crate::config::{Config, Otlp, Url};
use crate::limits::{SPAN_BATCH_MAX, SPAN_QUEUE_MAX};
use crate::telemetry::spans::{SpanCounts, Spans, batch};
use crate::telemetry::{Level, Log, host};
use crate::tls::client;

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

/// Has the log's writer make spans as this configuration says, or none.
///
/// # Errors
/// A sentence for the operator.
pub fn start(otlp: &Otlp, log: &Log) -> Result<Arc<SpanCounts>, String> {
    let counts = Arc::default();
    log.set_spans(open(otlp, log, &counts)?);
    Ok(counts)
}

/// What is to make spans from a reload on: `None` where nothing changes.
///
/// # Errors
/// A sentence for the operator.
pub fn change(
    running: &Config,
    new: &Config,
    log: &Log,
    counts: &Arc<SpanCounts>,
) -> Result<Option<Option<Spans>>, String> {
    let (before, wanted) = (&running.server.otlp, &new.server.otlp);
    let anchors = wanted.trust_anchors.as_ref();
    let is_same = anchors.is_none_or(|path| running.files.get(path) == new.files.get(path));
    if before == wanted && is_same {
        return Ok(None);
    }
    open(wanted, log, counts).map(Some)
}

/// What makes spans as this configuration says, if it asks for some, and the thread that posts
/// them: it ends when nothing makes spans for it any more.
fn open(otlp: &Otlp, log: &Log, counts: &Arc<SpanCounts>) -> Result<Option<Spans>, String> {
    let Some(collector) = otlp.endpoint.clone() else { return Ok(None) };
    let tls = otlp.trust_anchors.as_deref().map(client::trusting_file).transpose();
    let tls = tls.map_err(|why| format!("server.otlp_trust_anchors: {why}"))?;
    let (queue, spans) = bounded(SPAN_QUEUE_MAX);
    let export = Export {
        collector,
        tls: tls.map(|builder| Arc::new(builder.with_no_client_auth())),
        instance: host::name(),
        counts: counts.clone(),
        log: log.clone(),
    };
    thread::Builder::new()
        .name(THREAD.into())
        .spawn(move || export.run(&spans))
        .map_err(|error| format!("server.otlp_endpoint: no thread can be started: {error}"))?;
    Ok(Some(Spans::new(otlp.sample_one_in, queue, counts.clone())))
}

struct Export {
    collector: Url,
    tls: Option<Arc<ClientConfig>>,
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
        let answer = http_client::send(&self.collector, self.tls.as_ref(), request, BOUNDS)?;
        match answer.status {
            200..=299 => Ok(()),
            status => Err(format!("{}{PATH}: status {status}", self.collector)),
        }
    }
}
