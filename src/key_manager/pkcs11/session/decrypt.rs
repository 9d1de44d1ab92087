//! Decrypting, and whether a refused decryption means bad ciphertext or a failing HSM where the
//! module has one code for both.
//!
//! The same decryption is repeated; a fault that passes ends with the plaintext. In between, a text
//! that was encrypted a moment ago is decrypted with the same key in the same session: where that
//! fails too, it is not the ciphertext. What is left is a fault that hits every attempt at the one
//! and none at the other, by chance: how likely that is stands with the numbers in
//! [`crate::limits`].

use std::sync::Arc;
use std::time::Instant;

use cryptoki_sys::{CK_OBJECT_HANDLE, CKR_ARGUMENTS_BAD, CKR_MECHANISM_PARAM_INVALID};

use super::super::errors::{Call, CallError, Reaction};
use super::super::profile::IvMode;
use super::HsmSession;
use super::encrypt::Encrypted;
use super::failure::{Failure, Unverified, in_time};
use super::gcm::{Sealed, Under};
use super::test_key::KnownGoodKey;
use crate::key_manager::{Answer, Fault, KeyUsage, Plaintext, Secret, same_bytes};
use crate::limits::{
    IV_BYTES, REFUSALS_AMBIGUOUS, REFUSALS_DOUBTED, REFUSALS_UNAMBIGUOUS, TAG_BYTES,
};

/// Each byte of what is encrypted for comparison. Not zero, which is what a module leaves that
/// writes nothing.
const KNOWN_BYTE: u8 = 0x5a;

/// Encrypted a moment ago, all [`KNOWN_BYTE`]s.
struct KnownGood {
    key: CK_OBJECT_HANDLE,
    made: Encrypted,
}

impl HsmSession {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn decrypt(
        &mut self,
        label: &Arc<str>,
        key: CK_OBJECT_HANDLE,
        ciphertext: &[u8],
        iv: &[u8],
        tag: &[u8; TAG_BYTES],
        aad: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Answer, Failure> {
        in_time(deadline)?;
        let mut sealed = std::mem::take(&mut self.sealed);
        sealed.clear();
        sealed.extend_from_slice(ciphertext);
        sealed.extend_from_slice(tag);
        let decrypted = match self.gcm_decrypt(key, iv, aad, &sealed) {
            Ok(text) => Ok(text),
            Err(error) => {
                let sealed = Sealed { key, iv, aad, bytes: &sealed };
                self.refused_ciphertext(error, label, sealed, deadline)
            }
        };
        self.sealed = sealed;
        let text = decrypted?;
        if text.len() != ciphertext.len() {
            let detail = format!("C_Decrypt: {} bytes out of {}", text.len(), ciphertext.len());
            return Err(self.broken(detail).into());
        }
        Ok(Answer::Decrypted(Plaintext(text)))
    }

    /// Finds out whether `error`, of an attempt at decrypting `sealed`, says that the ciphertext is
    /// bad, or that something else is wrong; or gives the text.
    fn refused_ciphertext(
        &mut self,
        error: CallError,
        label: &Arc<str>,
        sealed: Sealed<'_>,
        deadline: Option<Instant>,
    ) -> Result<Secret, Failure> {
        // A module that takes 12-byte IVs only never made a ciphertext with another; but it may
        // mean something else by these codes.
        let perhaps_iv = sealed.iv.len() != IV_BYTES
            && self.shared.profile.row().iv != IvMode::Append
            && error.call == Call::DecryptInit
            && [CKR_MECHANISM_PARAM_INVALID, CKR_ARGUMENTS_BAD].contains(&error.code);
        let reaction = self.reaction(&error);
        let caught = self.shared.refused_good.is_recent(Instant::now());
        // Not a matter of opinion, unless from an HSM that said so of something good.
        let unambiguous = reaction == Reaction::BadCiphertext && !caught;
        match reaction {
            Reaction::BadCiphertext | Reaction::Ambiguous | Reaction::BusyOrBadCiphertext => {}
            _ if perhaps_iv => {}
            _ => return Err(error.into()),
        }
        // Too much work comes often, and no less often for having been away for a minute.
        let doubted = reaction == Reaction::BusyOrBadCiphertext || caught;
        let enough = match (unambiguous, doubted) {
            (true, _) => REFUSALS_UNAMBIGUOUS,
            (_, true) => REFUSALS_DOUBTED,
            _ => REFUSALS_AMBIGUOUS,
        };
        let mut known_good = None;
        for refusals in 1..enough {
            if doubted || (!unambiguous && refusals + 1 == enough) {
                self.decrypt_known_good(&mut known_good, label, sealed, deadline)?;
            }
            in_time(deadline)?;
            match self.gcm_decrypt(sealed.key, sealed.iv, sealed.aad, sealed.bytes) {
                Ok(text) => {
                    self.shared.refused_good.record(Instant::now());
                    return Ok(text);
                }
                Err(again) if again.code == error.code && self.reaction(&again) == reaction => {}
                Err(again) if self.reaction(&again) == Reaction::BadCiphertext => {
                    if !caught {
                        break;
                    }
                }
                Err(again) => return Err(again.into()),
            }
        }
        Err(Fault::BadCiphertext.into())
    }

    /// A text as long, under the same AAD: what the module cannot do, it then cannot do here
    /// either.
    fn decrypt_known_good(
        &mut self,
        known: &mut Option<KnownGood>,
        label: &Arc<str>,
        like: Sealed<'_>,
        deadline: Option<Instant>,
    ) -> Result<(), Failure> {
        let text = vec![KNOWN_BYTE; like.bytes.len().saturating_sub(TAG_BYTES)];
        let KnownGood { key, made } = match known.take() {
            Some(good) => good,
            None => self.make_known_good(label, like, &text, deadline)?,
        };
        in_time(deadline)?;
        let failure = match self.gcm_decrypt(key, made.iv.as_slice(), like.aad, &made.bytes) {
            Ok(decrypted) if same_bytes(&decrypted, &text) => {
                *known = Some(KnownGood { key, made });
                return Ok(());
            }
            Ok(_) => Failure::Unverified(Unverified::Differs),
            Err(error) => Failure::Call(error),
        };
        self.shared.refused_good.record(Instant::now());
        if key == like.key { Err(failure) } else { Err(self.settle_witness(failure).into()) }
    }

    /// Under the key itself; where that may not encrypt, under another that is known to be good.
    fn make_known_good(
        &mut self,
        label: &Arc<str>,
        like: Sealed<'_>,
        text: &[u8],
        deadline: Option<Instant>,
    ) -> Result<KnownGood, Failure> {
        if self.allows(label, KeyUsage::Encrypt) {
            let under = Under { key: like.key, label: Some(label) };
            match self.encrypt_unrequested(under, text, like.aad, deadline) {
                Ok(made) => return Ok(KnownGood { key: like.key, made }),
                Err(Failure::Call(error)) if self.reaction(&error) == Reaction::Usage => {}
                Err(failure) => return Err(failure),
            }
        }
        let keys = self.known_good_keys(label, deadline);
        let made = keys.and_then(|keys| {
            let itself = Under { key: like.key, label: Some(label) };
            let under = keys.first().map_or(itself, KnownGoodKey::under);
            let made = self.encrypt_unrequested(under, text, like.aad, deadline)?;
            Ok(KnownGood { key: under.key, made })
        });
        made.map_err(|failure| self.settle_witness(failure).into())
    }
}
