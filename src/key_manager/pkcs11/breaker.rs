//! Circuit breakers of keys: a key that the module refuses, or that fails where other keys work,
//! costs no more calls for a while, and takes nothing from the other keys.
//!
//! A breaker opens at once for a key that the module refuses in so many words, and after
//! [`KEY_FAILURES_MAX`] failures in a row otherwise, each of which was attributed to the key (see
//! `session::attribution`). While it is open, jobs are answered with what the module said, without
//! a call. When its pause is over one job is let through; it closes the breaker, or the next pause
//! is twice as long. So a mended key serves again without a restart.
//!
//! Encryption and decryption have a breaker each: a key that may only decrypt any more goes on
//! doing that.
//!
//! A call that ends with the loss of its session proves nothing, since the session cannot be tried
//! any more. Such a key is recognised by comparison: [`SESSIONS_LOST_TO_A_KEY_MAX`] losses in a row
//! under this key, which succeeded not once, while [`OTHERS_SERVED_MIN`] jobs under other keys
//! succeeded.
//!
//! Pure: callers pass the time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::key_manager::{Fault, RefusedKey};
use crate::limits::{
    KEY_BREAKERS_MAX, KEY_FAILURE_AGE_MAX, KEY_FAILURES_MAX, KEY_PAUSE_MAX, KEY_PAUSE_MIN,
    OTHERS_SERVED_MIN, SESSIONS_LOST_TO_A_KEY_MAX,
};

/// What a key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyUse {
    Encrypt,
    Decrypt,
}

/// The breakers of an engine's keys, by label.
#[derive(Default)]
pub(super) struct KeyBreakers {
    inner: Mutex<Inner>,
    /// Something is known of some key. Asked for every job, so without the lock.
    watching: AtomicBool,
}

#[derive(Default)]
struct Inner {
    keys: HashMap<Arc<str>, [Option<Breaker>; 2]>,
    losses: Option<Losses>,
}

struct Breaker {
    /// In a row.
    failures: u32,
    failed_at: Instant,
    open: Option<Open>,
}

struct Open {
    since: Instant,
    pause: Duration,
    retry_at: Instant,
    /// A job was let through and has not ended.
    half_open: bool,
    /// What jobs are answered.
    fault: Fault,
}

/// Sessions lost in a row, all during jobs that used one key so.
struct Losses {
    label: Arc<str>,
    key_use: KeyUse,
    sessions: u32,
    /// Jobs of other keys that succeeded meanwhile.
    others_served: u32,
    lost_at: Instant,
}

/// A failure that long ago, after which the key was not asked for or has done neither well nor
/// badly, is no part of a row.
fn is_old(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) >= KEY_FAILURE_AGE_MAX
}

impl Inner {
    /// The breaker; `None` if there are too many.
    fn breaker(&mut self, label: &Arc<str>, key_use: KeyUse, now: Instant) -> Option<&mut Breaker> {
        if !self.keys.contains_key(label) && self.keys.len() >= KEY_BREAKERS_MAX {
            self.forget_old(now);
            if self.keys.len() >= KEY_BREAKERS_MAX {
                return None;
            }
        }
        let uses = self.keys.entry(label.clone()).or_default();
        let new = || Breaker { failures: 0, failed_at: now, open: None };
        Some(uses[key_use as usize].get_or_insert_with(new))
    }

    /// Forgets closed breakers whose key has not failed for long, which may not be in use any more.
    fn forget_old(&mut self, now: Instant) {
        self.keys.retain(|_, uses| {
            for slot in uses.iter_mut() {
                let old =
                    |breaker: &Breaker| breaker.open.is_none() && is_old(breaker.failed_at, now);
                if slot.as_ref().is_some_and(old) {
                    *slot = None;
                }
            }
            uses.iter().any(Option::is_some)
        });
    }
}

impl Breaker {
    fn open(&mut self, fault: Fault, now: Instant) {
        let (since, pause) = match &self.open {
            // What was under way when the breaker opened says nothing new.
            Some(open) if !open.half_open => return,
            Some(open) => (open.since, (open.pause * 2).min(KEY_PAUSE_MAX)),
            None => (now, KEY_PAUSE_MIN),
        };
        self.open = Some(Open { since, pause, retry_at: now + pause, half_open: false, fault });
    }
}

impl KeyBreakers {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_watching(&self) -> bool {
        self.watching.load(Ordering::Relaxed)
    }

    /// Whether a job that uses the key so may go to the HSM; what it is answered otherwise.
    pub(super) fn admit(&self, label: &str, uses: &[KeyUse], now: Instant) -> Result<(), Fault> {
        if !self.is_watching() {
            return Ok(());
        }
        let mut inner = self.inner();
        let Some(breakers) = inner.keys.get_mut(label) else { return Ok(()) };
        let open = |key_use: &KeyUse| breakers[*key_use as usize].as_ref()?.open.as_ref();
        if let Some(open) = uses.iter().filter_map(open).find(|open| now < open.retry_at) {
            return Err(open.fault.clone());
        }
        for key_use in uses {
            if let Some(open) =
                breakers[*key_use as usize].as_mut().and_then(|breaker| breaker.open.as_mut())
            {
                open.half_open = true;
                // The next one, should this one not end.
                open.retry_at = now + open.pause;
            }
        }
        Ok(())
    }

    /// A job that uses the key so was done.
    pub(super) fn succeeded(&self, label: &str, uses: &[KeyUse], now: Instant) {
        if !self.is_watching() || uses.is_empty() {
            return;
        }
        let mut inner = self.inner();
        if let Some(breakers) = inner.keys.get_mut(label) {
            for key_use in uses {
                breakers[*key_use as usize] = None;
            }
        }
        match &mut inner.losses {
            Some(losses) if is_old(losses.lost_at, now) => inner.losses = None,
            Some(losses) if *losses.label != *label => {
                losses.others_served = losses.others_served.saturating_add(1);
            }
            Some(losses) if uses.contains(&losses.key_use) => inner.losses = None,
            Some(_) | None => {}
        }
        inner.forget_old(now);
        self.watching.store(!inner.keys.is_empty() || inner.losses.is_some(), Ordering::Relaxed);
    }

    /// The module refuses the key, and no other.
    pub(super) fn refused(&self, label: &Arc<str>, key_use: KeyUse, fault: Fault, now: Instant) {
        self.count(label, key_use, fault, now, KEY_FAILURES_MAX);
    }

    /// The key failed, and another key works.
    pub(super) fn failed(&self, label: &Arc<str>, key_use: KeyUse, fault: Fault, now: Instant) {
        self.count(label, key_use, fault, now, 1);
    }

    fn count(&self, label: &Arc<str>, key_use: KeyUse, fault: Fault, now: Instant, failures: u32) {
        let mut inner = self.inner();
        let Some(breaker) = inner.breaker(label, key_use, now) else { return };
        breaker.failures = breaker.failures.saturating_add(failures);
        breaker.failed_at = now;
        if breaker.failures >= KEY_FAILURES_MAX {
            breaker.open(fault, now);
        }
        self.watching.store(true, Ordering::Relaxed);
    }

    /// The session was lost during a job of this key.
    pub(super) fn session_lost(
        &self,
        label: &Arc<str>,
        key_use: KeyUse,
        fault: Fault,
        now: Instant,
    ) {
        let mut inner = self.inner();
        let losses = match inner.losses.take() {
            Some(losses) if losses.label == *label => {
                Losses { sessions: losses.sessions.saturating_add(1), ..losses }
            }
            _ => Losses {
                label: label.clone(),
                key_use,
                sessions: 1,
                others_served: 0,
                lost_at: now,
            },
        };
        let to_blame = losses.sessions >= SESSIONS_LOST_TO_A_KEY_MAX
            && losses.others_served >= OTHERS_SERVED_MIN;
        inner.losses = Some(losses);
        self.watching.store(true, Ordering::Relaxed);
        drop(inner);
        if to_blame {
            self.refused(label, key_use, fault, now);
        }
    }

    /// Whether the module refuses to use the key so, as a statement about the key.
    pub(super) fn refuses(&self, label: &str, key_use: KeyUse) -> bool {
        self.is_watching()
            && self.inner().keys.get(label).is_some_and(|breakers| {
                breakers[key_use as usize]
                    .as_ref()
                    .and_then(|breaker| breaker.open.as_ref())
                    .is_some_and(|open| matches!(open.fault, Fault::KeyRefused { .. }))
            })
    }

    /// The keys whose breaker is open, for the operator.
    pub(super) fn open(&self) -> Vec<RefusedKey> {
        if !self.is_watching() {
            return Vec::new();
        }
        let inner = self.inner();
        let open = |(label, breakers): (&Arc<str>, &[Option<Breaker>; 2])| {
            let open = breakers.iter().flatten().find_map(|breaker| breaker.open.as_ref())?;
            Some(RefusedKey {
                label: label.clone(),
                why: open.fault.to_string(),
                since: open.since,
            })
        };
        inner.keys.iter().filter_map(open).collect()
    }
}

#[cfg(test)]
mod tests;
