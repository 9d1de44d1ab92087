//! This shard's parts of the invocation budgets of keys.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::target::Target;
use crate::api::Operation;
use crate::keystore::KeyStores;
use crate::policy::budget::{Budget, Exhausted, ShardBudget};

/// One shard's.
#[derive(Default)]
pub(super) struct Spending(RefCell<Parts>);

/// The parts under one configuration.
#[derive(Default)]
struct Parts {
    stores: Option<Arc<KeyStores>>,
    /// By the budget's address, which `stores` keeps. Two key stores with the same key may differ
    /// in what becomes of an encryption beyond it.
    parts: HashMap<(*const Budget, Exhausted), Rc<ShardBudget>>,
}

impl Spending {
    /// What an encryption for `target` is taken from; `None` where nothing is encrypted, or not
    /// counted.
    pub(super) fn budget(
        &self,
        stores: &Arc<KeyStores>,
        operation: Operation,
        target: &Target<'_>,
    ) -> Option<Rc<ShardBudget>> {
        if operation != Operation::Encrypt {
            return None;
        }
        let budget = target.key().ok()?.budget()?;
        let mut parts = self.0.borrow_mut();
        if !parts.stores.as_ref().is_some_and(|known| Arc::ptr_eq(known, stores)) {
            // What this shard had leased of those before goes back.
            *parts = Parts { stores: Some(stores.clone()), parts: HashMap::new() };
        }
        let exhausted = target.store.exhausted;
        let part = parts.parts.entry((Arc::as_ptr(budget), exhausted));
        Some(part.or_insert_with(|| ShardBudget::new(budget.clone(), exhausted)).clone())
    }
}
