//! Bad ciphertext or bad HSM: what a refused decryption says where the module has one code for
//! both.
//!
//! The same decryption is repeated; a fault that passes ends with the plaintext. In between, a text
//! that was encrypted a moment ago is decrypted with the same key in the same session: where that
//! fails too, it is the HSM. What is left is a fault that hits every attempt at the one and none at
//! the other, by chance: how likely that is stands with the numbers in [`crate::limits`].

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use cryptoki_sys::{CK_OBJECT_HANDLE, CKR_ARGUMENTS_BAD, CKR_MECHANISM_PARAM_INVALID};

use super::super::errors::{Call, CallError, Reaction};
use super::super::profile::IvMode;
use super::{HsmSession, INTEGRITY, Trouble, in_time};
use crate::key_manager::{Answer, Fault, Secret, same_bytes};
use crate::limits::{
    HSM_DISTRUST, IV_BYTES, REFUSALS_IN_PLAIN_WORDS, REFUSALS_OF_A_DOUBTFUL_HSM,
    REFUSALS_OF_A_TRUSTED_HSM, TAG_BYTES,
};

/// Whether an HSM was caught lately answering something good with a code that can also mean bad
/// ciphertext.
#[derive(Default)]
pub(in super::super) struct Reputation(Mutex<Option<Instant>>);

impl Reputation {
    pub(super) fn caught(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    fn is_doubtful(&self, now: Instant) -> bool {
        let caught = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        caught.is_some_and(|at| now.saturating_duration_since(at) < HSM_DISTRUST)
    }
}

/// What is decrypted, and with what.
#[derive(Clone, Copy)]
pub(super) struct Sealed<'a> {
    pub(super) key: CK_OBJECT_HANDLE,
    /// A key that may not encrypt leaves the comparison to the session test key.
    pub(super) may_encrypt: bool,
    pub(super) iv: &'a [u8],
    pub(super) aad: &'a [u8],
    /// Ciphertext ‖ tag.
    pub(super) bytes: &'a [u8],
}

/// Zeros, encrypted a moment ago.
struct KnownGood {
    key: CK_OBJECT_HANDLE,
    iv: Vec<u8>,
    bytes: Vec<u8>,
}

impl HsmSession {
    /// Finds out whether `error`, of an attempt at opening `sealed`, says that the ciphertext is
    /// bad, or that the module is; or gives the text.
    pub(super) fn refused_ciphertext(
        &mut self,
        error: CallError,
        sealed: Sealed<'_>,
        deadline: Option<Instant>,
    ) -> Result<Secret, Trouble> {
        let profile = self.shared.profile;
        // A module that takes 12-byte IVs only never made a ciphertext with another; but it may
        // mean something else by these codes.
        let perhaps_iv = sealed.iv.len() != IV_BYTES
            && profile.row().iv != IvMode::Append
            && error.call == Call::DecryptInit
            && [CKR_MECHANISM_PARAM_INVALID, CKR_ARGUMENTS_BAD].contains(&error.code);
        let reaction = error.reaction(profile);
        let caught = self.shared.reputation.is_doubtful(Instant::now());
        // Not a matter of opinion, unless from an HSM that said so of something good.
        let plain = reaction == Reaction::BadCiphertext && !caught;
        match reaction {
            Reaction::BadCiphertext | Reaction::Ambiguous | Reaction::BusyOrBadCiphertext => {}
            _ if perhaps_iv => {}
            _ => return Err(self.trouble(error)),
        }
        // Too much work comes often, and no less often for having been away for a minute.
        let doubtful = reaction == Reaction::BusyOrBadCiphertext || caught;
        let enough = match (plain, doubtful) {
            (true, _) => REFUSALS_IN_PLAIN_WORDS,
            (_, true) => REFUSALS_OF_A_DOUBTFUL_HSM,
            _ => REFUSALS_OF_A_TRUSTED_HSM,
        };
        let mut known_good = None;
        for refusals in 1..enough {
            if doubtful || (!plain && refusals + 1 == enough) {
                self.open_known_good(&mut known_good, sealed, deadline)
                    .map_err(|trouble| fails_too(error, trouble))?;
            }
            in_time(deadline)?;
            match self.open_sealed(sealed.key, sealed.iv, sealed.aad, sealed.bytes) {
                Ok(text) => {
                    self.shared.reputation.caught(Instant::now());
                    return Ok(text);
                }
                Err(again) if again.code == error.code && again.reaction(profile) == reaction => {}
                Err(again) if again.reaction(profile) == Reaction::BadCiphertext => {
                    if !caught {
                        break;
                    }
                }
                Err(again) => return Err(self.trouble(again)),
            }
        }
        Err(Fault::BadCiphertext.into())
    }

    /// A text as long, under the same AAD: what the module cannot do, it then cannot do here
    /// either.
    fn open_known_good(
        &mut self,
        known: &mut Option<KnownGood>,
        like: Sealed<'_>,
        deadline: Option<Instant>,
    ) -> Result<(), Trouble> {
        let text = vec![0; like.bytes.len().saturating_sub(TAG_BYTES)];
        let good = match known.take() {
            Some(good) => good,
            None => self.make_known_good(like, &text, deadline)?,
        };
        in_time(deadline)?;
        match self.open_sealed(good.key, &good.iv, like.aad, &good.bytes) {
            Ok(opened) if same_bytes(&opened, &text) => {
                *known = Some(good);
                Ok(())
            }
            opened => Err(self.not_verified(opened.err())),
        }
    }

    fn make_known_good(
        &mut self,
        like: Sealed<'_>,
        text: &[u8],
        deadline: Option<Instant>,
    ) -> Result<KnownGood, Trouble> {
        let mut key = like.key;
        let mut made = if like.may_encrypt {
            self.encrypt(key, text, like.aad, None, deadline)
        } else {
            Err(Fault::KeyUsage.into())
        };
        if matches!(made, Err(Trouble::Fault(Fault::KeyUsage))) {
            key = self.test_key(deadline)?;
            made = self.encrypt(key, text, like.aad, None, deadline);
        }
        match made {
            Ok(Answer::Encrypted { iv, mut ciphertext, tag, .. }) => {
                ciphertext.extend_from_slice(&tag);
                Ok(KnownGood { key, iv, bytes: ciphertext })
            }
            Ok(_) => Err(self.broken("C_Encrypt: no ciphertext".to_owned()).into()),
            // The test key goes with the session alone: without it the session is not what it was.
            Err(Trouble::Handle(error)) if key != like.key => {
                Err(self.broken(error.to_string()).into())
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// What was encrypted must decrypt to what it was; every other outcome is the key manager's
    /// fault.
    pub(super) fn verify(
        &mut self,
        sealed: Sealed<'_>,
        plaintext: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), Trouble> {
        let mut refusals = 0;
        loop {
            in_time(deadline)?;
            match self.open_sealed(sealed.key, sealed.iv, sealed.aad, sealed.bytes) {
                Ok(text) if same_bytes(&text, plaintext) => return Ok(()),
                // Too much work passes, and hits the calls in between as well. What the HSM spoils
                // is refused each time, by this call alone; told as busy, nobody would look for it.
                Err(error)
                    if error.reaction(self.shared.profile) == Reaction::BusyOrBadCiphertext =>
                {
                    refusals += 1;
                    if refusals == REFUSALS_OF_A_DOUBTFUL_HSM {
                        return Err(self.does_not_decrypt(error));
                    }
                }
                opened => return Err(self.not_verified(opened.err())),
            }
        }
    }

    /// What was encrypted a moment ago decrypts to something else, or not at all.
    fn not_verified(&mut self, error: Option<CallError>) -> Trouble {
        match error {
            None => {
                self.shared.trust.lose();
                self.broken(format!("{INTEGRITY}: what was encrypted decrypts to something else"))
                    .into()
            }
            Some(error)
                if matches!(
                    error.reaction(self.shared.profile),
                    Reaction::BadCiphertext | Reaction::Ambiguous
                ) =>
            {
                self.does_not_decrypt(error)
            }
            Some(error) => self.trouble(error),
        }
    }

    fn does_not_decrypt(&mut self, error: CallError) -> Trouble {
        self.shared.reputation.caught(Instant::now());
        self.broken(format!("{INTEGRITY}: what was encrypted does not decrypt: {error}")).into()
    }
}

/// After `error`, what is known to be good met with `trouble`.
fn fails_too(error: CallError, trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Fault(Fault::Device { detail }) => Fault::Device {
            detail: format!("{error}, and what was encrypted a moment ago fails too: {detail}"),
        }
        .into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_hsm_is_doubted_for_a_while() {
        let (reputation, now) = (Reputation::default(), Instant::now());
        assert!(!reputation.is_doubtful(now));
        reputation.caught(now);
        assert!(reputation.is_doubtful(now));
        assert!(reputation.is_doubtful(now + HSM_DISTRUST - Duration::from_nanos(1)));
        assert!(!reputation.is_doubtful(now + HSM_DISTRUST));
    }
}
