//! What the configured keys are, found out beside the requests: by one listing of the whole token,
//! and by their handles afterwards.
//!
//! A search has many a module look at every object it has, so that one for each key would be work
//! that grows with the square of their number. And it cannot be interrupted: a session that
//! searches serves nobody meanwhile. So this has a session beside those that serve, and waits for
//! most of the time, since the HSM and the module's locks are the same for all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cryptoki_sys::CKR_CRYPTOKI_NOT_INITIALIZED;

use super::attributes::{Unreadable, today};
use super::errors::{Call, CallError, Reaction};
use super::keys::Key;
use super::module::OpenSession;
use super::search::{self, NoKey};
use super::shared::Shared;
use super::token_keys::NO_KEYS_ANY_MORE;
use crate::key_manager::listing::{no_key, several_keys};
use crate::key_manager::{Answer, Fault, Outcome};
use crate::limits::{
    INVENTORY_PAUSE, INVENTORY_PAUSE_MAX, INVENTORY_SEARCHES_MAX, INVENTORY_SHARE,
    KEY_ATTRIBUTES_AGE_MAX, LISTING_INTERVAL, LISTING_INTERVAL_A_KEY,
};

/// What was found out last.
#[derive(Default)]
pub(super) struct Inventory {
    /// Locked for as long as one is taken.
    listing: Mutex<Option<Listing>>,
    ended: AtomicBool,
    /// The token was listed once.
    is_listed: AtomicBool,
}

/// A listing of the whole token.
struct Listing {
    at: Instant,
    /// Secret keys on the token.
    keys: usize,
    /// Of the labels that were wanted those that have no key, several, or one that cannot be read.
    without: HashMap<Arc<str>, Fault>,
}

impl Listing {
    fn is_old(&self, now: Instant) -> bool {
        let keys = u32::try_from(self.keys).unwrap_or(u32::MAX);
        let interval = LISTING_INTERVAL_A_KEY.saturating_mul(keys).max(LISTING_INTERVAL);
        now.saturating_duration_since(self.at) >= interval
    }
}

impl Inventory {
    /// What each of the keys is, in their order; `None` if there is no session for it. The
    /// session is given back unless it was lost.
    pub(super) fn take(
        &self,
        shared: &Shared,
        needs_login: bool,
        labels: &[Arc<str>],
        session: impl FnOnce() -> Result<Option<OpenSession>, Fault>,
        give_back: impl FnOnce(Option<OpenSession>),
    ) -> Result<Option<Vec<Outcome>>, Fault> {
        let mut listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ended.load(Ordering::Relaxed) {
            return Err(Fault::Timeout);
        }
        let Some(mut session) = session()? else { return Ok(None) };
        let mut taking = Taking {
            shared,
            needs_login,
            session: &session,
            ended: &self.ended,
            // Until the token was listed once, the first request of each key searches for it.
            share: if self.is_listed.load(Ordering::Relaxed) { INVENTORY_SHARE } else { 1 },
            owed: Duration::ZERO,
            searches: INVENTORY_SEARCHES_MAX,
        };
        match taking.take(&mut listing, labels) {
            Ok(outcomes) => {
                self.is_listed.store(true, Ordering::Relaxed);
                give_back(Some(session));
                Ok(Some(outcomes))
            }
            Err(Stop::Ended) => {
                give_back(Some(session));
                Err(Fault::Timeout)
            }
            Err(Stop::Call(error)) => {
                session.forget_if_gone(&error);
                if error.code == CKR_CRYPTOKI_NOT_INITIALIZED {
                    session.module.lost(session.generation);
                }
                drop(session);
                give_back(None);
                Err(error.fault())
            }
            Err(Stop::Fault(fault)) => {
                drop(session);
                give_back(None);
                Err(fault)
            }
        }
    }

    /// Ends the one that is being taken and all to come; waits for that.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        drop(self.listing.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Why an inventory is not finished.
enum Stop {
    /// Nobody wants it any more.
    Ended,
    /// The session, or the HSM, failed.
    Call(CallError),
    Fault(Fault),
}

impl From<CallError> for Stop {
    fn from(error: CallError) -> Stop {
        Stop::Call(error)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

/// One inventory while it is being taken.
struct Taking<'a> {
    shared: &'a Shared,
    /// The token asks for a login: without one it hides keys.
    needs_login: bool,
    session: &'a OpenSession,
    ended: &'a AtomicBool,
    /// One in so many parts of the time may be spent in calls.
    share: u32,
    /// To be waited before the next call.
    owed: Duration,
    /// Searches for single keys that may still be made.
    searches: usize,
}

impl Taking<'_> {
    fn take(
        &mut self,
        listing: &mut Option<Listing>,
        labels: &[Arc<str>],
    ) -> Result<Vec<Outcome>, Stop> {
        let begun = Instant::now();
        let is_known = |label: &Arc<str>| {
            let keys = &self.shared.keys;
            keys.get(label).is_some()
                || keys.doubted(label).is_some()
                || listing.as_ref().is_some_and(|listing| listing.without.contains_key(label))
        };
        let unknown = labels.iter().filter(|label| !is_known(label)).count();
        let is_old = listing.as_ref().is_none_or(|listing| listing.is_old(Instant::now()));
        if is_old || unknown > INVENTORY_SEARCHES_MAX {
            *listing = Some(self.list(labels)?);
        }
        let without = listing.as_ref().map(|listing| &listing.without);
        let outcomes = labels.iter().map(|label| self.describe(label, without, begun)).collect();
        if self.searches == 0 {
            // Perhaps many are not where they were.
            *listing = None;
        }
        outcomes
    }

    /// One search for all keys, and the attributes of each, once.
    fn list(&mut self, labels: &[Arc<str>]) -> Result<Listing, Stop> {
        let at = Instant::now();
        let handles = self.call(search::all)??;
        if handles.is_empty() && self.shared.token_keys.had_keys() {
            // The next probe finds out what that means.
            return Err(Fault::Device { detail: NO_KEYS_ANY_MORE.to_owned() }.into());
        }
        let mut found: HashMap<&[u8], Found<'_>> = labels
            .iter()
            .map(|label| (label.as_bytes(), Found { label, keys: 0, unreadable: None }))
            .collect();
        for handle in &handles {
            let version = self.shared.keys.version();
            let key = match self.call(|session| search::read_what_can_be(session, *handle))? {
                Ok(key) => key,
                Err(error) if self.is_of_the_key(&error)? => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some(found) = found.get_mut(key.attributes.label.as_slice()) {
                found.keys += 1;
                found.unreadable = key.attributes.unreadable;
                if found.keys > 1 {
                    self.shared.keys.remove(found.label);
                } else if found.unreadable.is_none() {
                    self.shared.keys.insert(found.label, &key, version);
                }
            }
        }
        let without: HashMap<Arc<str>, Fault> = found
            .into_values()
            .filter_map(|found| found.fault().map(|fault| (found.label.clone(), fault)))
            .collect();
        if !without.is_empty() {
            self.expect_login()?;
        }
        if without.len() < labels.len() {
            self.shared.token_keys.shows_keys();
        }
        Ok(Listing { at, keys: handles.len(), without })
    }

    /// A token that lost its login shows no private objects and calls that success.
    fn expect_login(&mut self) -> Result<(), Stop> {
        if self.needs_login && !self.call(OpenSession::is_logged_in)?? {
            let detail = "C_FindObjects: the session is no longer logged in".to_owned();
            return Err(Fault::Device { detail }.into());
        }
        Ok(())
    }

    fn describe(
        &mut self,
        label: &Arc<str>,
        without: Option<&HashMap<Arc<str>, Fault>>,
        begun: Instant,
    ) -> Result<Outcome, Stop> {
        let described = |key: &Key| Ok(Answer::Described(key.attributes.describe(today())));
        let known = self.shared.keys.get(label);
        if let Some(key) = &known
            && (key.read_at >= begun || key.read_at.elapsed() <= KEY_ATTRIBUTES_AGE_MAX)
        {
            return Ok(described(key));
        }
        let handle = known.map(|key| key.handle).or_else(|| self.shared.keys.doubted(label));
        if let Some(handle) = handle {
            let version = self.shared.keys.version();
            match self.call(|session| search::read(session, handle))? {
                Ok(key) if key.attributes.label == label.as_bytes() => {
                    self.shared.keys.insert(label, &key, version);
                    return Ok(described(&key));
                }
                // Renamed, or the handle is another object's by now.
                Ok(_) => {}
                Err(error) if self.shared.profile.reaction(&error) == Reaction::KeyHandle => {}
                Err(error) if self.is_of_the_key(&error)? => return Ok(Err(error.fault())),
                Err(error) => return Err(error.into()),
            }
        }
        match without.and_then(|without| without.get(label)) {
            Some(fault) if self.searches == 0 => Ok(Err(fault.clone())),
            _ => self.search(label),
        }
    }

    fn search(&mut self, label: &Arc<str>) -> Result<Outcome, Stop> {
        let Some(left) = self.searches.checked_sub(1) else {
            // So many are not where they were: the next inventory lists them all.
            return Ok(Err(Fault::Timeout));
        };
        self.searches = left;
        let version = self.shared.keys.version();
        match self.call(|session| search::find(session, label))? {
            Ok(key) => {
                self.shared.keys.insert(label, &key, version);
                Ok(Ok(Answer::Described(key.attributes.describe(today()))))
            }
            Err(NoKey::Call(error)) if self.is_of_the_key(&error)? => Ok(Err(error.fault())),
            Err(NoKey::Call(error)) => Err(error.into()),
            Err(NoKey::None(detail) | NoKey::Several(detail)) => {
                self.expect_login()?;
                self.shared.keys.remove(label);
                Ok(Err(Fault::KeyNotFound { detail }))
            }
        }
    }

    /// Whether a call failed for the key that it was about, and not for the session.
    fn is_of_the_key(&mut self, error: &CallError) -> Result<bool, Stop> {
        match self.shared.profile.reaction(error) {
            Reaction::KeyHandle => Ok(true),
            Reaction::SessionLost | Reaction::LoginLost | Reaction::Busy => Ok(false),
            _ if error.call == Call::GetAttributeValue => {
                self.call(OpenSession::is_logged_in)??;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// A call, after what has to be waited before it.
    fn call<T>(&mut self, call: impl FnOnce(&OpenSession) -> T) -> Result<T, Stop> {
        if self.owed >= INVENTORY_PAUSE {
            while !self.owed.is_zero() {
                self.check()?;
                let pause = self.owed.min(INVENTORY_PAUSE_MAX);
                std::thread::sleep(pause);
                self.owed -= pause;
            }
        }
        self.check()?;
        let start = Instant::now();
        let result = call(self.session);
        self.owed += start.elapsed().saturating_mul(self.share - 1);
        Ok(result)
    }

    /// Whether what is found out is still of use.
    fn check(&self) -> Result<(), Stop> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(Stop::Ended);
        }
        if self.shared.token_keys.is_lost() {
            return Err(Fault::Device { detail: NO_KEYS_ANY_MORE.to_owned() }.into());
        }
        if self.session.is_stale() {
            let detail = "the library has been initialised again meanwhile".to_owned();
            return Err(Fault::Device { detail }.into());
        }
        Ok(())
    }
}

/// Keys of a wanted label in a listing.
struct Found<'a> {
    label: &'a Arc<str>,
    keys: usize,
    unreadable: Option<Unreadable>,
}

impl Found<'_> {
    /// Why the label's key cannot serve.
    fn fault(&self) -> Option<Fault> {
        match (self.keys, self.unreadable) {
            (0, _) => Some(Fault::KeyNotFound { detail: no_key(self.label) }),
            (1, unreadable) => {
                unreadable.map(|unreadable| Fault::Device { detail: unreadable.to_string() })
            }
            (keys, _) => Some(Fault::KeyNotFound { detail: several_keys(self.label, keys) }),
        }
    }
}
