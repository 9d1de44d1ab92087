//! What the sessions of an engine have in common.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use super::breaker::KeyBreakers;
use super::doubt::Doubt;
use super::iv::{IvWatch, MadeIvWatch};
use super::keys::KeyCache;
use super::profile::Profile;
use super::quarantine::Quarantine;
use super::sight::Sight;

/// One for each engine.
pub(super) struct Shared {
    pub(super) profile: Profile,
    /// Decrypt what was encrypted without an integrity value, too, and compare.
    verify_encryptions: bool,
    pub(super) keys: KeyCache,
    pub(super) sight: Sight,
    pub(super) breakers: KeyBreakers,
    pub(super) quarantine: Quarantine,
    /// The HSM was caught computing something wrong.
    pub(super) computed_wrongly: Doubt,
    /// A code that can mean bad ciphertext came for something good.
    pub(super) refused_good: Doubt,
    pub(super) iv_watch: IvWatch,
    pub(super) made_iv_watch: MadeIvWatch,
    /// The module's message interface was tried and found wanting: the calls of PKCS#11 2.40 do.
    pub(super) messages_misbehave: AtomicBool,
    /// The [`Module::generation`](super::module::Module::generation) in which it passed its trial.
    /// The first one is 1.
    pub(super) messages_work_in: AtomicU64,
}

impl Shared {
    pub(super) fn new(profile: Profile, verify_encryptions: bool) -> Shared {
        Shared {
            profile,
            verify_encryptions,
            keys: KeyCache::default(),
            sight: Sight::default(),
            breakers: KeyBreakers::default(),
            quarantine: Quarantine::default(),
            computed_wrongly: Doubt::default(),
            refused_good: Doubt::default(),
            iv_watch: IvWatch::default(),
            made_iv_watch: MadeIvWatch::default(),
            messages_misbehave: AtomicBool::new(false),
            messages_work_in: AtomicU64::new(0),
        }
    }

    /// Whether each encryption is verified. Where it was not wanted it is all the same for a while
    /// after the HSM was caught: an integrity value that was asked for showed what nobody else
    /// would have seen.
    pub(super) fn verifies(&self, now: Instant) -> bool {
        self.verify_encryptions || self.computed_wrongly.is_recent(now)
    }
}
