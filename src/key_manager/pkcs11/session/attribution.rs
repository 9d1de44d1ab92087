//! Whose fault a failed call is: the request's, the key's, the session's or the HSM's.
//!
//! Few codes say that by themselves, and modules use them as they like. So a call that failed on a
//! customer's key or under it is followed by others in the same session:
//!
//! 1. a round trip of a short text under the same key. If it succeeds, key and session are well:
//!    the fault is the request's, or has passed;
//! 2. a round trip under the session test key. If it succeeds, the session and the HSM are well:
//!    the fault is the key's. Its breaker counts it, and the session stays open for the other keys;
//! 3. otherwise it is the session's or the HSM's: the session is closed.
//!
//! Only where the code says that the session is gone nothing more is tried in it: its handle may be
//! another's.

use std::sync::Arc;
use std::time::Instant;

use super::super::breaker::KeyUse;
use super::super::errors::{Call, CallError, Reaction};
use super::HsmSession;
use super::failure::{Failure, Unverified};
use super::gcm::{TEST_TEXT, Under};
use super::lookup::permit;
use crate::key_manager::{Fault, KeyUsage};
use crate::limits::INTEGRITY_COMPARISONS;

impl HsmSession {
    /// What an attempt that failed comes to, and what follows from it for the key and the session.
    pub(super) fn settle(&mut self, failure: Failure, label: &Arc<str>, uses: &[KeyUse]) -> Fault {
        match failure {
            Failure::Fault(fault) => fault,
            Failure::Unverified(what) => self.settle_unverified(&what, label),
            Failure::Call(error) => self.settle_call(error, label, uses),
        }
    }

    fn settle_call(&mut self, error: CallError, label: &Arc<str>, uses: &[KeyUse]) -> Fault {
        let key_use = used_for(error, uses);
        match self.reaction(&error) {
            Reaction::Busy | Reaction::BusyOrBadCiphertext => self.session_failed(error),
            Reaction::SessionLost => {
                let fault = self.session_failed(error);
                if let Some(key_use) = key_use {
                    let breakers = &self.shared.breakers;
                    breakers.session_lost(label, key_use, fault.clone(), Instant::now());
                }
                fault
            }
            Reaction::LoginLost if !self.is_still_logged_in() => self.session_failed(error),
            Reaction::Usage => self.key_refused(error, label, key_use),
            reaction => {
                // A handle that is void for the second time will not do for anything else.
                if reaction == Reaction::KeyHandle {
                    self.shared.keys.remove(label);
                } else if self.key_works(label) {
                    return error.fault();
                }
                match self.witness(label, None) {
                    Ok(()) if reaction == Reaction::UsageOrMechanism => {
                        self.key_refused(error, label, key_use)
                    }
                    Ok(()) => self.key_failed(error, label, key_use),
                    Err(Failure::Unverified(what)) => self.quarantine(&what),
                    Err(_) => self.session_failed(error),
                }
            }
        }
    }

    /// The module refuses the key.
    fn key_refused(
        &mut self,
        error: CallError,
        label: &Arc<str>,
        key_use: Option<KeyUse>,
    ) -> Fault {
        let fault = Fault::KeyRefused { detail: format!("key \"{label}\": {error}") };
        if let Some(key_use) = key_use {
            self.shared.breakers.refused(label, key_use, fault.clone(), Instant::now());
        }
        fault
    }

    /// The key fails and others do not.
    fn key_failed(&mut self, error: CallError, label: &Arc<str>, key_use: Option<KeyUse>) -> Fault {
        let detail = format!("key \"{label}\": {error}, and other keys work");
        let fault = Fault::Device { detail };
        if let Some(key_use) = key_use {
            self.shared.breakers.failed(label, key_use, fault.clone(), Instant::now());
        }
        fault
    }

    /// What was encrypted is not what it should be. That it is refused may be this key's fault,
    /// where the key never works and others always do; everything else shows an HSM that computes
    /// wrongly.
    fn settle_unverified(&mut self, what: &Unverified, label: &Arc<str>) -> Fault {
        let of_this_key = matches!(what, Unverified::Refused(_))
            && (0..INTEGRITY_COMPARISONS)
                .all(|_| !self.key_works(label) && self.witness(label, None).is_ok());
        if !of_this_key {
            return self.quarantine(what);
        }
        let now = Instant::now();
        self.shared.computed_wrongly.record(now);
        let fault =
            Fault::Device { detail: format!("key \"{label}\": {what}, and other keys work") };
        self.shared.breakers.refused(label, KeyUse::Encrypt, fault.clone(), now);
        fault
    }

    /// Nothing that the HSM computes is answered until it has passed its self-test.
    pub(super) fn quarantine(&mut self, what: &Unverified) -> Fault {
        let now = Instant::now();
        self.shared.computed_wrongly.record(now);
        let detail = what.to_string();
        self.shared.quarantine.begin(&detail);
        // Whatever was wrong, sessions opened from now on do without what fewer modules have been
        // tried with.
        if self.messages.is_some() {
            self.shared.messages_misbehave.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        self.broken(detail)
    }

    fn is_still_logged_in(&self) -> bool {
        !self.needs_login || self.session.is_logged_in().unwrap_or(false)
    }

    /// Whether a short text goes both ways under the key, or the one that it may go; false where
    /// that cannot be tried. Without regard to the job's deadline: the session's next job needs to
    /// know.
    fn key_works(&mut self, label: &Arc<str>) -> bool {
        let Some(key) = self.known.get(&self.shared.keys, label).cloned() else { return false };
        let under = Under { key: key.handle, label: Some(label) };
        if permit(&key, &[KeyUsage::Encrypt, KeyUsage::Decrypt]).is_ok() {
            self.round_trip(under, None).is_ok()
        } else {
            permit(&key, &[KeyUsage::Encrypt]).is_ok()
                && self.encrypt_unrequested(under, &TEST_TEXT, b"", None).is_ok()
        }
    }
}

/// What the key was used for in a call that failed; `None` where the task does not use it.
fn used_for(error: CallError, uses: &[KeyUse]) -> Option<KeyUse> {
    match error.call.classic() {
        Call::DecryptInit | Call::Decrypt => {
            uses.contains(&KeyUse::Decrypt).then_some(KeyUse::Decrypt)
        }
        // Also what comes before the first use: search and attributes.
        _ => uses.first().copied(),
    }
}
