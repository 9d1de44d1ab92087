//! What the sessions of an engine have in common.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::breaker::KeyBreakers;
use super::iv::{IvWatch, MadeIvWatch};
use super::keys::KeyCache;
use super::profile::Profile;
use super::quarantine::Quarantine;
use super::recent_fault::RecentFault;
use super::token_keys::TokenKeys;
use crate::key_manager::unrequested::Unrequested;

/// One for each engine.
pub(super) struct Shared {
    pub(super) profile: Profile,
    /// Decrypt what was encrypted without an integrity value, too, and compare.
    verify_encryptions: bool,
    /// Sessions are opened for reading and writing: by the configuration, or because the module
    /// makes no key in others.
    read_write: AtomicBool,
    /// The [`Module::generation`](super::module::Module::generation) in which it made no key in
    /// those either; 0 for none.
    makes_no_key_in: AtomicU64,
    pub(super) keys: KeyCache,
    pub(super) token_keys: TokenKeys,
    pub(super) breakers: KeyBreakers,
    pub(super) quarantine: Quarantine,
    /// The HSM was caught computing something wrong.
    pub(super) computed_wrongly: RecentFault,
    /// A code that can mean bad ciphertext came for something good.
    pub(super) refused_good: RecentFault,
    pub(super) iv_watch: IvWatch,
    /// Encryptions under keys of the token that no job asked for.
    pub(super) unrequested: Unrequested,
    pub(super) made_iv_watch: MadeIvWatch,
    /// The module's message interface was tried and found wanting: the calls of PKCS#11 2.40 do.
    pub(super) messages_misbehave: AtomicBool,
    /// The [`Module::generation`](super::module::Module::generation) in which it passed its trial.
    /// The first one is 1.
    pub(super) messages_work_in: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        profile: Profile,
        verify_encryptions: bool,
        read_write_sessions: bool,
    ) -> Shared {
        Shared {
            profile,
            verify_encryptions,
            read_write: AtomicBool::new(read_write_sessions),
            makes_no_key_in: AtomicU64::new(0),
            keys: KeyCache::default(),
            token_keys: TokenKeys::default(),
            breakers: KeyBreakers::default(),
            quarantine: Quarantine::default(),
            computed_wrongly: RecentFault::default(),
            refused_good: RecentFault::default(),
            iv_watch: IvWatch::default(),
            unrequested: Unrequested::default(),
            made_iv_watch: MadeIvWatch::default(),
            messages_misbehave: AtomicBool::new(false),
            messages_work_in: AtomicU64::new(0),
        }
    }

    /// Whether sessions are opened for reading and writing.
    pub(super) fn read_write(&self) -> bool {
        self.read_write.load(Ordering::Relaxed)
    }

    /// From now on.
    pub(super) fn open_read_write(&self) {
        self.read_write.store(true, Ordering::Relaxed);
    }

    /// Whether another kind of session may make a key that a read-only one did not.
    pub(super) fn may_make_key_in_read_write(&self, generation: u64) -> bool {
        self.makes_no_key_in.load(Ordering::Relaxed) != generation
    }

    /// No kind does: not to be tried again before the next C_Initialize.
    pub(super) fn makes_no_key(&self, generation: u64) {
        self.makes_no_key_in.store(generation, Ordering::Relaxed);
    }

    /// Whether each encryption is verified. Where it was not wanted it is all the same for a while
    /// after the HSM was caught: an integrity value that was asked for showed what nobody else
    /// would have seen.
    pub(super) fn verifies(&self, now: Instant) -> bool {
        self.verify_encryptions || self.computed_wrongly.is_recent(now)
    }
}
