//! The request's way, on one page: route, authenticate, decode, block list, find its key, quota,
//! permit, execute, answer. One [`Pipeline`] a shard.

mod audited;
mod authorize;
mod errors;
mod execute;
mod gate;
mod health;
pub mod record;
mod spending;
mod target;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;

use crate::api::{ApiError, ErrorName, Route};
use crate::audit::waiter::Waiter;
use crate::http1::{Reject, Request};
use crate::keystore::{KeyStore, KeyStores};
use crate::limits::{UNAUTHENTICATED_LOG_INTERVAL, UNAUTHENTICATED_LOG_LINES_MAX};
use crate::policy::blocklist::BlockList;
use crate::sched::Inbox;
use crate::sigv4::{self, Authenticated, SigningKeys};
use crate::telemetry::{Level, Log, LogLimiter, RequestKey, ShardMetrics};

use audited::Audited;
use authorize::Authorizer;
use gate::Gate;
pub use record::Arrival;
use record::{Exchange, Outcome};
use spending::Spending;
use target::Target;

/// Everything a shard needs to answer requests.
pub struct Pipeline {
    shard: usize,
    stores: Arc<ArcSwap<KeyStores>>,
    inbox: Rc<Inbox>,
    signing_keys: RefCell<SigningKeys>,
    gate: Gate,
    spending: Spending,
    authorizer: Authorizer,
    metrics: Arc<ShardMetrics>,
    log: Log,
    audit: Audited,
    /// Lines of the log that requests without a valid signature may have, by errorName.
    unauthenticated_lines: RefCell<LogLimiter>,
}

impl Pipeline {
    /// The pipeline of shard `shard`.
    pub fn new(
        shard: usize,
        stores: Arc<ArcSwap<KeyStores>>,
        blocks: Arc<ArcSwap<BlockList>>,
        inbox: Rc<Inbox>,
        metrics: Arc<ShardMetrics>,
        log: Log,
        audit: Rc<Waiter>,
    ) -> Pipeline {
        let lines = LogLimiter::new(UNAUTHENTICATED_LOG_LINES_MAX, UNAUTHENTICATED_LOG_INTERVAL);
        Pipeline {
            shard,
            stores,
            inbox,
            signing_keys: RefCell::new(SigningKeys::new()),
            gate: Gate::new(blocks, metrics.clone()),
            spending: Spending::default(),
            authorizer: Authorizer::new(metrics.clone()),
            metrics,
            log,
            audit: Audited::new(audit),
            unauthenticated_lines: RefCell::new(lines),
        }
    }

    /// Whether a request is worth reading its body: false when its path, method or what it says of
    /// its signature already fails. [`Pipeline::on_request`] then answers it without its body.
    pub fn wants_body(&self, request: &Request<'_>, arrival: &Arrival) -> bool {
        let stores = self.stores.load();
        self.route(&stores, request).is_ok_and(|(_, store)| {
            sigv4::precheck(request, &store.credentials, &stores.regions, arrival.unix_seconds())
                .is_ok()
        })
    }

    /// Answers a request: appends the JSON body to `out` and gives the status. `body` is the whole
    /// body.
    pub async fn on_request<'a>(
        &self,
        request: &Request<'a>,
        body: &'a [u8],
        arrival: &Arrival,
        out: &mut Vec<u8>,
    ) -> u16 {
        self.look();
        let mut exchange = Exchange::new(arrival);
        let result = self.serve(request, body, arrival, &mut exchange, out).await;
        let audit = &self.audit;
        let result = match audit.trail() {
            Some(trail) => {
                let (done, deadline) = (result.is_ok(), self.deadline(arrival));
                let recorded = audit.recorded(trail, result, &mut exchange, deadline).await;
                // A block may have come while the record was on its way to the disk.
                let now = record::unix_seconds(SystemTime::now());
                let result = recorded.and_then(|()| self.gate.refuse_blocked(now, &mut exchange));
                if let (true, Err(why)) = (done, &result) {
                    audit.withheld(&exchange.record, why);
                }
                result
            }
            None => result,
        };
        self.look();
        self.answer(result, arrival, exchange, out)
    }

    /// Hands out what lanes and the audit trail's writer have done meanwhile: a busy shard sees
    /// other threads' wakes late.
    fn look(&self) {
        self.inbox.look();
        self.audit.look();
    }

    fn deadline(&self, arrival: &Arrival) -> Instant {
        arrival.deadline(self.stores.load().request_budget)
    }

    /// Answers what is no HTTP request that could be read.
    pub fn on_reject(&self, reject: &Reject, arrival: &Arrival, out: &mut Vec<u8>) -> u16 {
        let refused = ApiError::transport(reject.status, reject.reason);
        self.answer(Err(refused), arrival, Exchange::new(arrival), out)
    }

    async fn serve<'a>(
        &self,
        request: &Request<'a>,
        body: &'a [u8],
        arrival: &Arrival,
        exchange: &mut Exchange<'a>,
        out: &mut Vec<u8>,
    ) -> Result<(), ApiError> {
        exchange.record.traceparent = crate::api::traceparent(request.values("traceparent"));
        let stores = self.stores.load_full();
        let (route, store) = self.route(&stores, request).inspect_err(|error| {
            // What stands before xksd may have rewritten the prefix: only here can that be seen.
            // Nothing else of the path, which may be anything.
            if let Ok(route) = crate::api::route(request.path) {
                exchange.diagnostics.detail = format!("{}: {}", error.message(), route.prefix);
            }
        })?;
        exchange.record.routed(&route, &store.prefix);

        let authenticated = self.authenticate(&stores, store, request, body, arrival)?;
        exchange.record.access_key_id = Some(authenticated.access_key_id().clone());
        exchange.diagnostics.counted_as =
            store.keys.get(route.key_id).map(|key| key.counted_as.clone());

        let valid = match crate::api::decode(route.operation, body) {
            Ok(valid) => valid,
            Err(rejection) => {
                exchange.record.metadata = rejection.metadata;
                return Err(rejection.error);
            }
        };
        exchange.record.metadata = valid.metadata().clone();

        self.gate.refuse_blocked(arrival.unix_seconds(), exchange)?;
        let deadline = arrival.deadline(stores.request_budget);
        let target = Target::find(store, &route, body, deadline)?;
        self.audit.may_serve(route.operation)?;
        let _admitted = self.gate.admit(&stores, &route, &target, exchange)?;
        let budget = self.spending.budget(&stores, route.operation, &target);
        let authorizer = &self.authorizer;
        let permit = authorizer.permit(&authenticated, valid, &route, target, arrival, exchange)?;
        let done = execute::execute(&self.inbox, permit, budget.as_deref(), exchange, out).await;
        self.gate.refuse_blocked(record::unix_seconds(SystemTime::now()), exchange)?;
        done
    }

    fn route<'s, 'r>(
        &self,
        stores: &'s KeyStores,
        request: &Request<'r>,
    ) -> Result<(Route<'r>, &'s Arc<KeyStore>), ApiError> {
        let route = crate::api::route(request.path)?;
        let store = stores.by_prefix.get(route.prefix).ok_or_else(|| {
            ApiError::new(ErrorName::InvalidUriPathException, "no key store has this path prefix")
        })?;
        crate::api::check_method(request.method)?;
        // A presigned URL has its signature in the wrong place; `sigv4` says so.
        if !sigv4::is_presigned(request.query) {
            crate::api::check_query(request.query)?;
        }
        Ok((route, store))
    }

    fn authenticate<'r>(
        &self,
        stores: &KeyStores,
        store: &'r KeyStore,
        request: &Request<'r>,
        body: &[u8],
        arrival: &Arrival,
    ) -> Result<Authenticated<'r>, ApiError> {
        let (credentials, regions) = (&store.credentials, &stores.regions);
        let (now, mut keys) = (arrival.unix_seconds(), self.signing_keys.borrow_mut());
        sigv4::authenticate(request, body, credentials, regions, now, &mut keys).map_err(|error| {
            self.metrics.unauthenticated(error.reason());
            ApiError::new(ErrorName::AuthenticationFailedException, error.to_string())
        })
    }

    /// Writes an error's body, counts, and makes the log's line.
    fn answer(
        &self,
        result: Result<(), ApiError>,
        arrival: &Arrival,
        mut exchange: Exchange<'_>,
        out: &mut Vec<u8>,
    ) -> u16 {
        let Exchange { record, diagnostics } = &mut exchange;
        record.outcome = Outcome::of(&result);
        if let Err(error) = &result {
            out.clear();
            error.write_body(out);
            if diagnostics.detail.is_empty() {
                diagnostics.detail.push_str(error.message());
            }
        }
        let (status, error) = (record.outcome.status, record.outcome.error_name());
        let total = arrival.first_byte.elapsed();
        let operation = record.operation_name();
        let key = RequestKey { key_store: record.key_store.clone(), operation, error };
        self.metrics.request(&key, total, diagnostics.times);
        if let Some(counted_as) = diagnostics.counted_as.take() {
            self.metrics.request_for_key(&key, counted_as);
        }
        if diagnostics.newer_version {
            self.metrics.newer_key_versions.fetch_add(1, Ordering::Relaxed);
        }
        if record.access_key_id.is_none()
            && record.outcome.error == Some(ErrorName::AuthenticationFailedException)
        {
            self.audit.unauthenticated(record, &diagnostics.detail);
        }
        // What a credential stands behind is logged in any number.
        if record.access_key_id.is_some() || self.may_log_unauthenticated(error) {
            let mut line = self.log.line();
            exchange.write_line(self.shard, total, &mut line);
            self.log.request(line);
        }
        status
    }

    fn may_log_unauthenticated(&self, error: &'static str) -> bool {
        let now = Instant::now();
        self.sweep(now);
        self.unauthenticated_lines.borrow_mut().take(error, now)
    }

    /// Logs how many refused requests were left out of the log, once their interval is over. To be
    /// called now and then.
    pub fn sweep(&self, now: Instant) {
        self.audit.sweep(now);
        self.unauthenticated_lines.borrow_mut().sweep(now, |error, left_out| {
            self.log.event(
                Level::Warn,
                format!("{left_out} more requests without a valid signature were refused: {error}"),
            );
        });
    }
}
