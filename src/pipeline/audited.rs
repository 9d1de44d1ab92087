//! A request's record goes into the audit trail before its answer leaves.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::record::{Exchange, Outcome, Record};
use crate::api::{ApiError, ErrorName, Operation};
use crate::audit::record::{Record as AuditRecord, Request};
use crate::audit::trail::Trail;
use crate::audit::waiter::Waiter;
use crate::limits::{AUDIT_UNAUTHENTICATED_INTERVAL, AUDIT_UNAUTHENTICATED_RECORDS_MAX};
use crate::telemetry::LogLimiter;

/// What the pipeline does for the audit trail.
pub(super) struct Audited {
    waiter: Rc<Waiter>,
    /// Where a record's line is made.
    scratch: RefCell<Vec<u8>>,
    /// Records that requests with a wrong signature may have.
    unauthenticated: RefCell<LogLimiter>,
}

impl Audited {
    pub(super) fn new(waiter: Rc<Waiter>) -> Audited {
        let unauthenticated =
            LogLimiter::new(AUDIT_UNAUTHENTICATED_RECORDS_MAX, AUDIT_UNAUTHENTICATED_INTERVAL);
        let unauthenticated = RefCell::new(unauthenticated);
        Audited { waiter, scratch: RefCell::default(), unauthenticated }
    }

    /// The trail, if there is one.
    pub(super) fn trail(&self) -> Option<&Trail> {
        self.waiter.trail()
    }

    pub(super) fn look(&self) {
        self.waiter.look(Instant::now());
    }

    /// Refuses what would have no record, before a key is used.
    pub(super) fn may_serve(&self, operation: Operation) -> Result<(), ApiError> {
        if operation == Operation::Health || self.trail().is_none_or(Trail::may_serve) {
            return Ok(());
        }
        Err(unwritable())
    }

    /// Records a signed request with its outcome, and waits until that is on disk where answers
    /// wait. The error in place of the outcome where no answer may leave.
    pub(super) async fn recorded(
        &self,
        trail: &Trail,
        result: Result<(), ApiError>,
        exchange: &mut Exchange<'_>,
        deadline: Instant,
    ) -> Result<(), ApiError> {
        let record = &exchange.record;
        // Health is KMS's own question, and uses no key of a customer.
        if record.access_key_id.is_none() || record.operation == Some(Operation::Health) {
            return result;
        }
        let outcome = Outcome::of(&result);
        let appended = {
            let record = request(record, outcome);
            trail.append(&record, &mut self.scratch.borrow_mut())
        };
        let recorded = match appended {
            Ok(index) if trail.answers_wait() => {
                let deadline = deadline.max(Instant::now() + RECORD_TIME_MIN);
                self.waiter.durable(index, deadline).await
            }
            Ok(_) => true,
            Err(_) => false,
        };
        match recorded || trail.may_go_unrecorded() {
            true => result,
            false if trail.is_writable() => Err(late()),
            false => Err(unwritable()),
        }
    }

    /// Records that the answer of a request did not leave, after its record said that it was done.
    pub(super) fn withheld(&self, record: &Record<'_>, why: &ApiError) {
        let kms_request_id = record.metadata.kms_request_id.as_deref().unwrap_or_default();
        let outcome = why.name().as_str();
        self.append(&AuditRecord::Withheld { kms_request_id, outcome });
    }

    /// Records a request whose signature was refused, or counts it. Nobody waits for it.
    pub(super) fn unauthenticated(&self, record: &Record<'_>, reason: &str) {
        if self.trail().is_none() {
            return;
        }
        let now = Instant::now();
        self.sweep(now);
        if self.unauthenticated.borrow_mut().take(WRONG_SIGNATURE, now) {
            let (key_store, client) = (&*record.key_store, Some(record.client));
            self.append(&AuditRecord::Unauthenticated { key_store, client, reason });
        }
    }

    /// Records how many of them have no record, once the time is over in which some have.
    pub(super) fn sweep(&self, now: Instant) {
        self.unauthenticated.borrow_mut().sweep(now, |reason, count| {
            self.append(&AuditRecord::UnauthenticatedMore { reason, count });
        });
    }

    fn append(&self, record: &AuditRecord<'_>) {
        if let Some(trail) = self.trail() {
            // Without a place it is counted, and the trail says so.
            let _ = trail.append(record, &mut self.scratch.borrow_mut());
        }
    }
}

impl Drop for Audited {
    /// The shard ends: what was counted is not forgotten.
    fn drop(&mut self) {
        self.sweep(Instant::now() + AUDIT_UNAUTHENTICATED_INTERVAL);
    }
}

/// A record has so much time, also that of a request whose own is over: what AWS KMS is to read
/// then is that the HSM did not answer. With the default budget KMS waits 25 ms longer.
const RECORD_TIME_MIN: Duration = Duration::from_millis(25);
const WRONG_SIGNATURE: &str = ErrorName::AuthenticationFailedException.as_str();

fn late() -> ApiError {
    ApiError::new(
        ErrorName::InternalException,
        "the record of this request was not on disk in time; without it nothing is answered",
    )
}

fn unwritable() -> ApiError {
    ApiError::new(
        ErrorName::InternalException,
        "the proxy's audit trail cannot be written; without a record nothing is answered",
    )
}

fn request<'a>(record: &'a Record<'_>, outcome: Outcome) -> AuditRecord<'a> {
    let metadata = &record.metadata;
    let request = Request {
        kms_request_id: metadata.kms_request_id.as_deref().unwrap_or_default(),
        key_store: &record.key_store,
        key: record.key,
        key_version: record.key_version,
        operation: record.operation_name(),
        kms_operation: metadata.kms_operation.as_deref().unwrap_or_default(),
        principal: metadata.principal.as_deref().unwrap_or_default(),
        kms_key_arn: metadata.kms_key_arn.as_deref().unwrap_or_default(),
        kms_via_service: metadata.via_service.as_deref().unwrap_or_default(),
        source_vpc: metadata.vpc.as_deref().unwrap_or_default(),
        source_vpce: metadata.vpce.as_deref().unwrap_or_default(),
        connection_vpce: record.connection_vpce.as_deref().unwrap_or_default(),
        traceparent: record.traceparent.unwrap_or_default(),
        access_key_id: record.access_key_id.as_deref().unwrap_or_default(),
        client: Some(record.client),
        outcome: outcome.error.map_or("success", ErrorName::as_str),
        policy: record.policy(),
        dry_run: record.dry_run(),
    };
    match outcome.error {
        Some(ErrorName::AccessDeniedException) => AuditRecord::Denied(request),
        _ => AuditRecord::Request(request),
    }
}
