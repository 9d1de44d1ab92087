//! What a request must pass before a key manager is asked: the block list, then the quotas of its
//! key store and its key.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use super::record::Exchange;
use super::target::Target;
use crate::api::{ApiError, ErrorName, Operation, Route};
use crate::keystore::KeyStores;
use crate::policy::blocklist::BlockList;
use crate::policy::quota::{Admission, Exceeded, Quota, ShardQuota};
use crate::telemetry::ShardMetrics;

/// One shard's.
pub(super) struct Gate {
    blocks: Arc<ArcSwap<BlockList>>,
    quotas: RefCell<Quotas>,
    metrics: Arc<ShardMetrics>,
    start: Instant,
}

/// This shard's parts of the quotas of one configuration.
#[derive(Default)]
struct Quotas {
    stores: Option<Arc<KeyStores>>,
    /// By the quota's address, which `stores` keeps.
    parts: HashMap<*const Quota, Rc<ShardQuota>>,
}

/// A request within its quotas. It counts as under way until this is dropped.
#[must_use = "the request counts as under way until this is dropped"]
pub(super) struct Admitted {
    _of: [Option<Admission>; 2],
}

impl Gate {
    pub(super) fn new(blocks: Arc<ArcSwap<BlockList>>, metrics: Arc<ShardMetrics>) -> Gate {
        Gate { blocks, quotas: RefCell::default(), metrics, start: Instant::now() }
    }

    /// Refuses what is blocked at `now` (seconds since 1970). To be asked before a key is used, and
    /// again before the answer leaves: a block holds for what is under way, too. Health uses no
    /// key, and is answered.
    pub(super) fn refuse_blocked(
        &self,
        now: i64,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), ApiError> {
        let record = &exchange.record;
        if record.operation.is_none_or(|operation| operation == Operation::Health) {
            return Ok(());
        }
        let blocks = self.blocks.load();
        let Some(block) = blocks.find(&record.key_store, record.key, now) else { return Ok(()) };
        let detail = &mut exchange.diagnostics.detail;
        detail.clear();
        detail.push_str("blocked: ");
        detail.push_str(&block.reason);
        let message = match block.key {
            Some(_) => "this external key is blocked by the operator of the proxy",
            None => "this key store is blocked by the operator of the proxy",
        };
        Err(ApiError::new(ErrorName::InvalidStateException, message))
    }

    /// Admits a request within the quotas of its key store and its key.
    pub(super) fn admit(
        &self,
        stores: &Arc<KeyStores>,
        route: &Route<'_>,
        target: &Target<'_>,
        exchange: &mut Exchange<'_>,
    ) -> Result<Admitted, ApiError> {
        if route.operation == Operation::Health {
            return Ok(Admitted { _of: [None, None] });
        }
        let mut quotas = self.quotas.borrow_mut();
        let now_ns = self.start.elapsed().as_nanos() as u64;
        // The key's before the key store's: what is beyond its own takes nothing from other keys.
        let of_key = quotas.part(stores, target.key()?.quota.as_ref());
        let admitted = of_key.as_ref().map(|part| part.admit(now_ns)).transpose();
        let admitted = admitted.map_err(|why| self.exceeded("key", why, target, exchange))?;
        let of_store = quotas.part(stores, target.store.quota.as_ref());
        match of_store.map(|part| part.admit(now_ns)).transpose() {
            Ok(of_store) => Ok(Admitted { _of: [admitted, of_store] }),
            Err(why) => {
                if let (Some(part), Some(admission)) = (of_key, admitted) {
                    part.take_back(admission);
                }
                Err(self.exceeded("key store", why, target, exchange))
            }
        }
    }

    fn exceeded(
        &self,
        of: &str,
        why: Exceeded,
        target: &Target<'_>,
        exchange: &mut Exchange<'_>,
    ) -> ApiError {
        self.metrics.quota_exceeded(&target.store.prefix);
        let bound = match why {
            Exceeded::Rate => "requests_per_second",
            Exceeded::Concurrency => "concurrent",
        };
        exchange.diagnostics.detail = format!("the quota of this {of} is exceeded: {bound}");
        ApiError::new(ErrorName::ThrottlingException, "a quota of the proxy is exceeded")
    }
}

impl Quotas {
    /// This shard's part of a quota.
    fn part(
        &mut self,
        stores: &Arc<KeyStores>,
        quota: Option<&Arc<Quota>>,
    ) -> Option<Rc<ShardQuota>> {
        let quota = quota?;
        if !self.stores.as_ref().is_some_and(|known| Arc::ptr_eq(known, stores)) {
            // What this shard had leased of those before goes back.
            *self = Quotas { stores: Some(stores.clone()), parts: HashMap::new() };
        }
        let part = self.parts.entry(Arc::as_ptr(quota));
        Some(part.or_insert_with(|| ShardQuota::new(quota.clone())).clone())
    }
}
