//! What a key manager says of all keys that are expected of it, asked on another thread: it
//! takes minutes where there are many.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::{Receiver, TryRecvError, bounded};

use super::keys::Verdict;
use crate::key_manager::{Fault, KeyRef, Outcome};
use crate::keystore::KeyManager;
use crate::limits::PROBE_INTERVAL;

type Answer = Result<Option<Vec<Outcome>>, Fault>;

/// The last one, and one that is being taken.
#[derive(Default)]
pub(super) struct Inventory {
    taken: Option<Taken>,
    running: Option<(Vec<KeyRef>, Receiver<Answer>)>,
    failed_at: Option<Instant>,
}

/// What an inventory is to its reader.
enum Taken {
    Verdicts(BTreeMap<KeyRef, Verdict>),
    /// There is no session for it beside those that serve, which can be asked key by key.
    AskTheLanes,
}

impl Inventory {
    /// What was found out is of no use any more.
    pub(super) fn discard(&mut self) {
        self.taken = None;
    }

    /// Whether what was asked for is there. If not, asks for it, unless that was in vain a moment
    /// ago.
    pub(super) fn is_taken(
        &mut self,
        manager: &Arc<KeyManager>,
        keys: impl Fn() -> Vec<KeyRef>,
        now: Instant,
    ) -> bool {
        if self.taken.is_some() {
            return true;
        }
        if let Some((asked, answered)) = self.running.take() {
            match answered.try_recv() {
                Ok(Ok(None)) => self.taken = Some(Taken::AskTheLanes),
                // After a reload others are expected.
                Ok(Ok(Some(outcomes))) if asked == keys() => {
                    let verdicts = outcomes.into_iter().map(Verdict::of_inventory);
                    self.taken = Some(Taken::Verdicts(asked.into_iter().zip(verdicts).collect()));
                }
                Ok(Ok(Some(_))) => {}
                Ok(Err(_)) | Err(TryRecvError::Disconnected) => self.failed_at = Some(now),
                Err(TryRecvError::Empty) => self.running = Some((asked, answered)),
            }
            return self.taken.is_some();
        }
        let rested = |at| now.saturating_duration_since(at) >= PROBE_INTERVAL;
        if self.failed_at.is_none_or(rested) {
            let keys = keys();
            let (answer, answered) = bounded(1);
            let (manager, asked) = (manager.clone(), keys.clone());
            let ask = move || {
                let described = manager.describe_keys(&asked);
                if described.is_ok() {
                    manager.first_listing.end();
                }
                drop(answer.send(described));
            };
            // Without a thread nothing can be found out now.
            match std::thread::Builder::new().name("xksd-keys".into()).spawn(ask) {
                Ok(_) => self.running = Some((keys, answered)),
                Err(_) => self.failed_at = Some(now),
            }
        }
        false
    }

    /// What was found out of a key; `None` where its session is to be asked.
    pub(super) fn verdict(&self, key: &KeyRef) -> Option<Verdict> {
        match &self.taken {
            // Another configuration's.
            None => Some(Verdict::Unknown),
            Some(Taken::Verdicts(verdicts)) => {
                Some(verdicts.get(key).cloned().unwrap_or(Verdict::Unknown))
            }
            Some(Taken::AskTheLanes) => None,
        }
    }
}
