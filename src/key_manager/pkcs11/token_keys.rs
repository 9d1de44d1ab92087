//! Whether the token still shows keys: what tells a token that was taken away from a key that was
//! deleted.
//!
//! SoftHSM whose token directory was away for a moment, or a partition that was detached, leaves
//! sessions valid and shows no object; the session test key, which is in memory, works on. KMS must
//! not hear then that its keys are gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::limits::EMPTY_TOKEN_BELIEVED;

/// Told of a token that shows no key where it had some.
pub(super) const NO_KEYS_ANY_MORE: &str = "C_FindObjects: the token shows no secret key at all, \
    where it had some: its storage or partition \
                                           is away, or all were deleted; the library is \
                                           initialised again to find out";

/// What an engine has seen of its token's keys, over all sessions.
#[derive(Default)]
pub(super) struct TokenKeys {
    seen: Mutex<Seen>,
    /// As `seen` says; looked at after every job, so without the lock.
    lost: AtomicBool,
}

#[derive(Clone, Copy, Default)]
enum Seen {
    /// No key was ever found: an empty token is what it says.
    #[default]
    Nothing,
    /// The token shows keys.
    Keys,
    /// It had keys and shows none, to a library initialised for this time.
    Lost { generation: u64 },
    /// It shows none to a freshly initialised library either: they were deleted.
    Gone { since: Instant },
}

impl TokenKeys {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys are not shown any more, and nobody knows yet what that means: no session is of use.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether keys were shown the last time, so that a probe should find some.
    pub(super) fn has_keys(&self) -> bool {
        matches!(*self.seen(), Seen::Keys)
    }

    /// Whether keys were ever shown.
    pub(super) fn had_keys(&self) -> bool {
        !matches!(*self.seen(), Seen::Nothing)
    }

    /// A key was found.
    pub(super) fn shows_keys(&self) {
        self.set(&mut self.seen(), Seen::Keys);
    }

    /// No key was found, in a session that is logged in and was opened after the `generation`th
    /// C_Initialize. True when that is to be taken for a fault.
    pub(super) fn shows_none(&self, generation: u64, now: Instant) -> bool {
        let mut seen = self.seen();
        let next = match *seen {
            Seen::Nothing => Seen::Nothing,
            Seen::Keys => Seen::Lost { generation },
            Seen::Lost { generation: before } if generation > before => Seen::Gone { since: now },
            Seen::Lost { generation } => Seen::Lost { generation },
            // A directory may have been put back piece by piece.
            Seen::Gone { since }
                if now.saturating_duration_since(since) >= EMPTY_TOKEN_BELIEVED =>
            {
                Seen::Lost { generation }
            }
            Seen::Gone { since } => Seen::Gone { since },
        };
        self.set(&mut seen, next);
        matches!(next, Seen::Lost { .. })
    }

    fn set(&self, seen: &mut Seen, next: Seen) {
        *seen = next;
        self.lost.store(matches!(next, Seen::Lost { .. }), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_token_that_never_had_keys_is_believed_to_be_empty() {
        let (token_keys, now) = (TokenKeys::default(), Instant::now());
        assert!(!token_keys.shows_none(1, now) && !token_keys.is_lost() && !token_keys.had_keys());
    }

    #[test]
    fn a_token_that_had_keys_is_believed_once_the_library_was_initialised_anew() {
        let (token_keys, now) = (TokenKeys::default(), Instant::now());
        token_keys.shows_keys();
        assert!(token_keys.has_keys());
        for _ in 0..3 {
            assert!(
                token_keys.shows_none(1, now) && token_keys.is_lost() && !token_keys.has_keys()
            );
        }
        assert!(!token_keys.shows_none(2, now) && !token_keys.is_lost() && token_keys.had_keys());
        // And doubted again after a while.
        assert!(!token_keys.shows_none(2, now + EMPTY_TOKEN_BELIEVED - Duration::from_nanos(1)));
        assert!(token_keys.shows_none(2, now + EMPTY_TOKEN_BELIEVED) && token_keys.is_lost());
        assert!(!token_keys.shows_none(3, now + EMPTY_TOKEN_BELIEVED));
    }

    #[test]
    fn keys_that_are_back_end_it() {
        let (token_keys, now) = (TokenKeys::default(), Instant::now());
        token_keys.shows_keys();
        assert!(token_keys.shows_none(1, now));
        token_keys.shows_keys();
        assert!(token_keys.has_keys() && !token_keys.is_lost());
    }
}
