//! A request as a span of OpenTelemetry: the JSON of OTLP 1, which the log's writer makes from the
//! same record as its line.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Sender, TrySendError};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use super::request_line::RequestLine;

/// `SPAN_KIND_SERVER`
const KIND_SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`
const STATUS_ERROR: u8 = 2;
const TRACE_ID_BYTES: usize = 16;
const SPAN_ID_BYTES: usize = 8;

/// What became of spans, for metrics.
#[derive(Debug, Default)]
pub struct SpanCounts {
    /// The collector has taken them.
    pub exported: AtomicU64,
    /// The collector did not take them, or not in time.
    pub lost: AtomicU64,
}

/// Which requests become spans, and where those go.
#[derive(Debug)]
pub struct Spans {
    one_in: u64,
    requests: AtomicU64,
    queue: Sender<Value>,
    counts: Arc<SpanCounts>,
}

/// What a `traceparent` says.
struct Parent<'a> {
    trace_id: &'a str,
    span_id: &'a str,
    sampled: bool,
}

impl Spans {
    /// One in so many requests that are part of no trace, and each whose trace is sampled.
    pub fn new(one_in: u64, queue: Sender<Value>, counts: Arc<SpanCounts>) -> Spans {
        Spans { one_in, requests: AtomicU64::new(0), queue, counts }
    }

    /// Makes a span of the request that was answered at `end`, if it is one to be traced. Lost and
    /// counted where the queue is full.
    pub(super) fn take(&self, end: SystemTime, line: &RequestLine) {
        let parent = parent(&line.traceparent);
        let is_wanted = match &parent {
            Some(parent) => parent.sampled,
            None => self.requests.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.one_in),
        };
        if is_wanted
            && let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
                self.queue.try_send(span(end, line, parent.as_ref()))
        {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Of a `traceparent` that was [checked](crate::api::traceparent) already.
fn parent(traceparent: &str) -> Option<Parent<'_>> {
    let mut parts = traceparent.split('-').skip(1);
    let (trace_id, span_id, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    Some(Parent { trace_id, span_id, sampled })
}

fn span(end: SystemTime, line: &RequestLine, parent: Option<&Parent<'_>>) -> Value {
    let end = end.duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = end.saturating_sub(Duration::from_micros(line.total_us));
    let trace_id =
        parent.map_or_else(random_id::<TRACE_ID_BYTES>, |parent| parent.trace_id.to_owned());
    let mut span = json!({
        "traceId": trace_id,
        "spanId": random_id::<SPAN_ID_BYTES>(),
        "name": line.operation,
        "kind": KIND_SERVER,
        "startTimeUnixNano": start.as_nanos().to_string(),
        "endTimeUnixNano": end.as_nanos().to_string(),
        "attributes": attributes(line),
    });
    if let Some(parent) = parent {
        span["parentSpanId"] = parent.span_id.into();
    }
    if line.status >= 500 {
        span["status"] = json!({"code": STATUS_ERROR, "message": line.error});
    }
    span
}

/// No principal, address or credential: those are for the log, which fewer people read.
fn attributes(line: &RequestLine) -> Vec<Value> {
    let texts = [
        ("xksd.kms_request_id", &*line.kms_request_id),
        ("xksd.kms_operation", &*line.kms_operation),
        ("xksd.key_store", &*line.key_store),
        ("xksd.key", &*line.key),
        ("xksd.key_manager", &*line.key_manager),
        ("error.type", if line.error == "none" { "" } else { line.error }),
    ];
    let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
    let texts = texts.map(|(key, text)| json!({"key": key, "value": {"stringValue": text}}));
    let numbers = [
        ("http.response.status_code", u64::from(line.status)),
        ("xksd.queue_us", line.queue_us),
        ("xksd.hsm_us", line.hsm_us),
    ];
    // "64-bit integers are encoded as decimal strings" in protobuf's JSON.
    let numbers =
        numbers.map(|(key, number)| json!({"key": key, "value": {"intValue": number.to_string()}}));
    texts.chain(numbers).collect()
}

/// "Hex-encoded", unlike other bytes in protobuf's JSON. Not all zero, which would be none.
fn random_id<const N: usize>() -> String {
    static RANDOM: OnceLock<SystemRandom> = OnceLock::new();
    let mut id = [0; N];
    while id == [0; N] {
        if RANDOM.get_or_init(SystemRandom::new).fill(&mut id).is_err() {
            id[N - 1] = 1;
        }
    }
    crate::hex::hex(&id)
}

/// What is posted to a collector: spans of this service.
pub fn batch(instance: &str, spans: &[Value]) -> Value {
    let resource = [
        ("service.name", "xksd"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", instance),
    ];
    let resource = resource.map(|(key, text)| json!({"key": key, "value": {"stringValue": text}}));
    json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": {"name": "xksd"}, "spans": spans}],
    }]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam::channel::bounded;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// The spans of requests with these `traceparent`s.
    fn taken(one_in: u64, traceparents: &[&str]) -> Vec<Value> {
        let (queue, spans) = bounded(100);
        let taker = Spans::new(one_in, queue, Arc::default());
        for traceparent in traceparents {
            let (traceparent, error) = ((*traceparent).to_owned(), "none");
            let line = RequestLine {
                operation: "encrypt",
                traceparent,
                error,
                total_us: 1_500,
                status: 200,
                ..RequestLine::default()
            };
            taker.take(UNIX_EPOCH + Duration::from_secs(1), &line);
        }
        spans.try_iter().collect()
    }

    #[test]
    fn a_trace_that_is_sampled_goes_on() {
        let spans = taken(1_000, &["", SAMPLED]);
        assert_eq!(spans[1]["traceId"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(spans[1]["parentSpanId"], "b7ad6b7169203331");
        assert_ne!(spans[1]["spanId"], spans[1]["parentSpanId"]);
        assert_eq!(spans[1]["startTimeUnixNano"], "998500000");
        assert_eq!(spans[1]["endTimeUnixNano"], "1000000000");
    }

    #[test]
    fn a_trace_that_is_not_sampled_does_not() {
        let not = SAMPLED.replace("-01", "-00");
        assert!(taken(1, &[&not]).is_empty());
        assert_eq!(taken(1, &[&SAMPLED.replace("-01", "-03")]).len(), 1);
    }

    #[test]
    fn one_in_so_many_begins_a_trace() {
        let spans = taken(10, &[""; 25]);
        assert_eq!(spans.len(), 3);
        let (trace, span) = (&spans[0]["traceId"], &spans[0]["spanId"]);
        assert_eq!((trace.as_str().unwrap().len(), span.as_str().unwrap().len()), (32, 16));
        assert_ne!(trace, &spans[1]["traceId"]);
        assert_eq!(spans[0]["parentSpanId"], Value::Null);
    }

    #[test]
    fn what_nobody_takes_is_counted() {
        let (queue, _spans) = bounded(1);
        let counts = Arc::<SpanCounts>::default();
        let taker = Spans::new(1, queue, counts.clone());
        for _ in 0..3 {
            taker.take(UNIX_EPOCH, &RequestLine::default());
        }
        assert_eq!(counts.lost.load(Ordering::Relaxed), 2);
    }
}
