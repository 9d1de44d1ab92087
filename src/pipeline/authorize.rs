//! What the policies of a key store say of a request, and what becomes of it.

use std::cell::RefCell;
use std::sync::Arc;

use super::record::{Arrival, Exchange};
use super::target::Target;
use crate::api::{ApiError, ErrorName, Route, ValidRequest};
use crate::policy::cedar::{Decisions, Verdict};
use crate::policy::{self, Inquiry, Permit, Policy};
use crate::sigv4::Authenticated;
use crate::telemetry::ShardMetrics;

/// One shard's.
pub(super) struct Authorizer {
    decisions: RefCell<Decisions>,
    metrics: Arc<ShardMetrics>,
}

impl Authorizer {
    pub(super) fn new(metrics: Arc<ShardMetrics>) -> Authorizer {
        Authorizer { decisions: RefCell::default(), metrics }
    }

    /// The permit to execute a request.
    ///
    /// # Errors
    /// AccessDeniedException.
    pub(super) fn permit<'a>(
        &self,
        authenticated: &Authenticated<'_>,
        valid: ValidRequest<'_>,
        route: &Route<'_>,
        target: Target<'a>,
        arrival: &Arrival,
        exchange: &mut Exchange<'_>,
    ) -> Result<Permit<Target<'a>>, ApiError> {
        let store = target.store;
        let mut decisions = self.decisions.borrow_mut();
        let inquiry = store.policy.as_ref().map(|policy| Inquiry {
            policy,
            decisions: &mut decisions,
            key: route.key_id,
            connection_vpce: arrival.vpce.as_deref(),
            client_common_name: arrival.common_name.as_deref(),
            time: arrival.unix_seconds(),
        });
        let decided = policy::decide(authenticated, valid, target, inquiry);
        let verdict = match &decided {
            Ok(permit) => permit.verdict(),
            Err(verdict) => Some(verdict),
        };
        if let (Some(verdict), Some(policy)) = (verdict, &store.policy) {
            if !verdict.permits() {
                self.metrics.policy_denied(&store.prefix, &verdict.policies, policy.mode.as_str());
                // More than the client gets. In a dry run, what follows writes its own.
                exchange.diagnostics.detail = verdict.why();
            }
            exchange.record.verdict = Some((verdict.clone(), policy.mode));
        }
        decided.map_err(|verdict| denied(&verdict, store.policy.as_ref()))
    }
}

fn denied(verdict: &Verdict, policy: Option<&Policy>) -> ApiError {
    const MESSAGE: &str = "the policies of the proxy do not permit this request";
    let tells = policy.is_some_and(|policy| policy.ids_in_errors);
    if !tells || verdict.policies.is_empty() {
        return ApiError::new(ErrorName::AccessDeniedException, MESSAGE);
    }
    let message = format!("{MESSAGE}: {}", verdict.policies);
    ApiError::new(ErrorName::AccessDeniedException, message)
}
