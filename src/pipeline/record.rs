//! What is kept of a request: the record of who used which key, and beside it what only an operator
//! asks for. The line of the log is made from both; it may be lost, the record may not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::api::{ApiError, ErrorName, Operation, RequestMetadata, Route};
use crate::policy::Mode;
use crate::policy::cedar::Verdict;
use crate::telemetry::RequestLine;

/// When and from where a request came.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Its first byte: the budget counts from here.
    pub first_byte: Instant,
    /// What its connection has taken of the budget before: TCP, TLS and the round trips of both. Of
    /// a connection's first request only.
    pub set_up: Duration,
    /// When its head was read; signatures are judged by this.
    pub head_read: SystemTime,
    /// The peer, or the client whom a load balancer names.
    pub client: SocketAddr,
    /// Subject CN of its certificate, where it was asked for one.
    pub common_name: Option<Arc<str>>,
    /// The VPC endpoint through which it is connected, if that is known.
    pub vpce: Option<Arc<str>>,
}

impl Arrival {
    /// Until when it is to be answered. However long the connection took, half of the budget is
    /// left: KMS may open connections ahead of need.
    pub fn deadline(&self, budget: Duration) -> Instant {
        self.first_byte + budget - self.set_up.min(budget / 2)
    }

    /// When its head was read, in Unix seconds.
    pub(super) fn unix_seconds(&self) -> i64 {
        unix_seconds(self.head_read)
    }
}

pub(super) fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Who used which key, or tried to. Nothing secret: no plaintext, no ciphertext.
#[derive(Debug)]
pub struct Record<'a> {
    /// When its head was read.
    pub time: SystemTime,
    /// The peer, or the client whom a load balancer names.
    pub client: SocketAddr,
    /// The VPC endpoint of its connection.
    pub connection_vpce: Option<Arc<str>>,
    /// The trace that it is part of, which nobody has signed.
    pub traceparent: Option<&'a str>,
    /// Path prefix of the key store; empty where the request reached none.
    pub key_store: Arc<str>,
    /// External key id as in the path; empty if there is none.
    pub key: &'a str,
    /// Version of the key that was used.
    pub key_version: Option<u16>,
    /// Which call it is; `None` for an unknown path.
    pub operation: Option<Operation>,
    /// kmsRequestId, kmsOperation, principal, kmsKeyArn and the rest, as KMS sent them.
    pub metadata: RequestMetadata<'a>,
    /// The credential that signed; `None` unless authenticated.
    pub access_key_id: Option<Arc<str>>,
    /// What the policies of the key store said, and in which mode; `None` where they were not
    /// asked.
    pub verdict: Option<(Arc<Verdict>, Mode)>,
    /// How it was answered.
    pub outcome: Outcome,
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// HTTP status.
    pub status: u16,
    /// `None` for success.
    pub error: Option<ErrorName>,
}

impl Outcome {
    /// The answer that a result becomes.
    pub(super) fn of(result: &Result<(), ApiError>) -> Outcome {
        match result {
            Ok(()) => Outcome { status: 200, error: None },
            Err(error) => Outcome { status: error.status(), error: Some(error.name()) },
        }
    }

    /// errorName, or `none`.
    pub fn error_name(&self) -> &'static str {
        self.error.map_or("none", ErrorName::as_str)
    }
}

impl<'a> Record<'a> {
    /// The path leads to a key store.
    pub(super) fn routed(&mut self, route: &Route<'a>, key_store: &Arc<str>) {
        self.key_store = key_store.clone();
        self.operation = Some(route.operation);
        self.key = route.key_id;
    }

    /// The ids of the policies that decided.
    pub fn policy(&self) -> &str {
        self.verdict.as_ref().map_or("", |(verdict, _)| &verdict.policies)
    }

    /// Why policies in a dry run would have denied what they let pass; empty where they would not.
    pub fn dry_run(&self) -> &'static str {
        match &self.verdict {
            Some((verdict, Mode::DryRun)) if !verdict.permits() => verdict.why_denied(),
            _ => "",
        }
    }

    /// `encrypt`, `decrypt`, `metadata`, `health`, or `none`.
    pub fn operation_name(&self) -> &'static str {
        self.operation.map_or("none", Operation::as_str)
    }
}

/// What the log says of a request besides.
#[derive(Debug, Default)]
pub(super) struct Diagnostics {
    /// Why it failed: more than the client learns.
    pub(super) detail: String,
    /// The key manager that was asked last.
    pub(super) key_manager: Arc<str>,
    /// Waiting for a session, and in the key manager, over all tries; `None` where none was asked.
    pub(super) times: Option<(Duration, Duration)>,
    /// The ciphertext names a newer version of its key than is known here.
    pub(super) newer_version: bool,
    /// By what it is counted, where it is for a key that there is.
    pub(super) counted_as: Option<CountedAs>,
}

/// As [`Key::counted_as`](crate::keystore::Key) says.
pub(super) type CountedAs = Option<Arc<str>>;

impl Diagnostics {
    /// Adds what one try took.
    pub(super) fn spent(&mut self, queue: Duration, hsm: Duration) {
        let (queue_before, hsm_before) = self.times.unwrap_or_default();
        self.times = Some((queue_before + queue, hsm_before + hsm));
    }
}

/// One request and its answer, as far as they are known.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    pub(super) record: Record<'a>,
    pub(super) diagnostics: Diagnostics,
}

impl Exchange<'_> {
    /// Of a request of which nothing is known yet.
    pub(super) fn new(arrival: &Arrival) -> Self {
        let record = Record {
            time: arrival.head_read,
            client: arrival.client,
            connection_vpce: arrival.vpce.clone(),
            traceparent: None,
            key_store: Arc::default(),
            key: "",
            key_version: None,
            operation: None,
            metadata: RequestMetadata::default(),
            access_key_id: None,
            verdict: None,
            outcome: Outcome { status: 0, error: None },
        };
        Exchange { record, diagnostics: Diagnostics::default() }
    }

    /// Writes the log's line into an empty one. `total`: from the first byte to the answer.
    pub(super) fn write_line(self, shard: usize, total: Duration, line: &mut RequestLine) {
        let Exchange { record, diagnostics } = self;
        let metadata = &record.metadata;
        for (text, field) in [
            (&mut line.kms_request_id, &metadata.kms_request_id),
            (&mut line.kms_operation, &metadata.kms_operation),
            (&mut line.principal, &metadata.principal),
            (&mut line.kms_key_arn, &metadata.kms_key_arn),
            (&mut line.kms_via_service, &metadata.via_service),
            (&mut line.source_vpc, &metadata.vpc),
            (&mut line.source_vpce, &metadata.vpce),
        ] {
            text.push_str(field.as_deref().unwrap_or_default());
        }
        line.key.push_str(record.key);
        line.traceparent.push_str(record.traceparent.unwrap_or_default());
        line.policy.push_str(record.policy());
        line.dry_run = record.dry_run();
        line.operation = record.operation_name();
        (line.status, line.error) = (record.outcome.status, record.outcome.error_name());
        line.key_store = record.key_store;
        line.access_key_id = record.access_key_id.unwrap_or_default();
        line.client = Some(record.client);
        line.connection_vpce = record.connection_vpce;
        line.shard = shard;
        line.detail = diagnostics.detail;
        line.key_manager = diagnostics.key_manager;
        let (queue, hsm) = diagnostics.times.unwrap_or_default();
        (line.total_us, line.queue_us, line.hsm_us) =
            (microseconds(total), microseconds(queue), microseconds(hsm));
    }
}

fn microseconds(time: Duration) -> u64 {
    time.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn arrival() -> Arrival {
        let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 50_000));
        let (common_name, vpce) = (None, None);
        Arrival {
            first_byte: Instant::now(),
            set_up: Duration::ZERO,
            head_read: UNIX_EPOCH,
            client,
            common_name,
            vpce,
        }
    }

    #[test]
    fn a_new_connection_has_used_up_to_half_of_the_budget() {
        let budget = Duration::from_millis(200);
        for (set_up, left) in [(0, 200), (30, 170), (99, 101), (100, 100), (5_000, 100)] {
            let arrival = Arrival { set_up: Duration::from_millis(set_up), ..arrival() };
            let deadline = arrival.first_byte + Duration::from_millis(left);
            assert_eq!(arrival.deadline(budget), deadline, "after {set_up} ms");
        }
    }

    #[test]
    fn the_log_line_is_made_from_the_record() {
        let mut exchange = Exchange::new(&arrival());
        let route = Route { prefix: "/a", operation: Operation::Decrypt, key_id: "foo" };
        exchange.record.routed(&route, &"/a".into());
        exchange.record.access_key_id = Some("AKID".into());
        exchange.record.metadata.principal = Some("arn".into());
        let refused = ApiError::new(ErrorName::ThrottlingException, "full");
        exchange.record.outcome = Outcome::of(&Err(refused));
        exchange.diagnostics.key_manager = "hsm".into();
        let micros = Duration::from_micros;
        exchange.diagnostics.spent(micros(1), micros(20));
        exchange.diagnostics.spent(micros(2), micros(30));
        let mut line = RequestLine::default();
        exchange.write_line(7, micros(60), &mut line);
        assert_eq!((&*line.key_store, &*line.key, line.operation), ("/a", "foo", "decrypt"));
        assert_eq!((&*line.access_key_id, &*line.principal), ("AKID", "arn"));
        assert_eq!(
            (line.status, line.error, &*line.key_manager),
            (429, "ThrottlingException", "hsm")
        );
        assert_eq!((line.total_us, line.queue_us, line.hsm_us, line.shard), (60, 3, 50, 7));
    }

    #[test]
    fn a_request_that_reached_nothing_leaves_a_line_too() {
        let mut exchange = Exchange::new(&arrival());
        exchange.record.outcome = Outcome::of(&Err(ApiError::transport(405, "POST")));
        let mut line = RequestLine::default();
        exchange.write_line(0, Duration::ZERO, &mut line);
        assert_eq!((line.operation, line.status, line.error), ("none", 405, "ValidationException"));
        assert!(line.key_store.is_empty() && line.access_key_id.is_empty() && line.key.is_empty());
    }
}
