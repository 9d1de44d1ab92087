//! Encrypting, and the proof that what was encrypted decrypts to what it was.

use std::sync::Arc;
use std::time::Instant;

use ring::digest;

use super::super::errors::{CallError, Reaction};
use super::super::iv::{AnyIv, Iv, IvSupply};
use super::super::profile::IvMode;
use super::HsmSession;
use super::failure::{Failure, Unverified, in_time};
use super::gcm::{Sealed, TEST_TEXT, Under};
use crate::key_manager::{Answer, Fault, same_bytes};
use crate::limits::{
    ECHO_BYTES_MIN, HSM_OUTPUT_SPARE_BYTES, IV_BYTES, IV_BYTES_MAX, REFUSALS_DOUBTED,
    REFUSALS_PERHAPS_BUSY, REFUSALS_UNAMBIGUOUS, TAG_BYTES,
};

/// What an encryption made.
pub(super) struct Encrypted {
    pub(super) iv: AnyIv,
    /// Ciphertext ‖ tag.
    pub(super) bytes: Vec<u8>,
}

impl HsmSession {
    /// `verified`: also without an integrity value it is decrypted and compared.
    pub(super) fn encrypt(
        &mut self,
        under: Under<'_>,
        plaintext: &[u8],
        aad: &[u8],
        integrity: Option<&digest::Context>,
        verified: bool,
        deadline: Option<Instant>,
    ) -> Result<Answer, Failure> {
        let Encrypted { iv, bytes: mut sealed } =
            self.encrypt_only(under, plaintext, aad, deadline)?;
        // spec: "If CDIV computation is delayed until after the encryption output is used as input
        // for the XKS decrypt API, any data corruption such as bit-flips that occur in the time
        // after the decryption is initiated and the CDIV is computed will go undetected." So:
        // digest, then decrypt the very same bytes.
        let integrity = integrity.map(|context| {
            let mut context = context.clone();
            context.update(iv.as_slice());
            context.update(&sealed);
            let value = context.finish();
            std::array::from_fn(|n| value.as_ref()[n])
        });
        if integrity.is_some() || verified {
            let sealed = Sealed { key: under.key, iv: iv.as_slice(), aad, bytes: &sealed };
            self.verify(under.label, sealed, plaintext, deadline)?;
        }
        let (ciphertext, tag) = sealed.split_at(plaintext.len());
        let tag = std::array::from_fn(|n| tag[n]);
        let ciphertext_bytes = ciphertext.len();
        sealed.truncate(ciphertext_bytes);
        Ok(Answer::Encrypted { iv: iv.as_slice().to_vec(), ciphertext: sealed, tag, integrity })
    }

    /// As [`HsmSession::encrypt_only`], where no job asks for it: a key's encryptions are counted.
    pub(super) fn encrypt_unrequested(
        &mut self,
        under: Under<'_>,
        plaintext: &[u8],
        aad: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Encrypted, Failure> {
        if let Some(label) = under.label {
            self.shared.unrequested.count(label);
        }
        self.encrypt_only(under, plaintext, aad, deadline)
    }

    /// Not decrypted: of what was made only that is known which it shows itself.
    pub(super) fn encrypt_only(
        &mut self,
        under: Under<'_>,
        plaintext: &[u8],
        aad: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Encrypted, Failure> {
        let given = match self.shared.profile.row().iv {
            IvMode::Caller => AnyIv::from(self.next_iv(deadline)?),
            IvMode::Fill => AnyIv::zeros(IV_BYTES),
            IvMode::Append => AnyIv::zeros(0),
        };
        in_time(deadline)?;
        let mut sealed = vec![0; plaintext.len() + HSM_OUTPUT_SPARE_BYTES];
        let mut after = given;
        let length = self.gcm_encrypt(under.key, &mut after, aad, plaintext, &mut sealed)?;
        sealed.truncate(length);
        let iv = self
            .iv_used(&given, &after, plaintext.len(), &mut sealed)
            .map_err(|why| self.broken(why))?;
        self.look_at_ciphertext(under, plaintext, &sealed, deadline)?;
        Ok(Encrypted { iv, bytes: sealed })
    }

    /// A module that writes nothing, or gives its input back, also decrypts so: no verification
    /// finds it. An honest one makes a tag of zeros, or [`ECHO_BYTES_MIN`] bytes of ciphertext that
    /// are the plaintext's, once in 2¹²⁸ times. A shorter text may encrypt to itself by chance:
    /// then a longer one shows what the module does.
    fn look_at_ciphertext(
        &mut self,
        under: Under<'_>,
        plaintext: &[u8],
        sealed: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), Failure> {
        let (ciphertext, tag) = sealed.split_at(plaintext.len());
        if tag.iter().all(|byte| *byte == 0) {
            return Err(Failure::Unverified(Unverified::Unwritten("a tag of zeros")));
        }
        if plaintext.is_empty() || !same_bytes(ciphertext, plaintext) {
            return Ok(());
        }
        if plaintext.len() >= ECHO_BYTES_MIN {
            return Err(Failure::Unverified(Unverified::Unwritten(
                "the plaintext in place of ciphertext",
            )));
        }
        self.encrypt_unrequested(under, &TEST_TEXT, b"", deadline).map(|_| ())
    }

    /// The IV that was used, once the output is ciphertext ‖ tag and nothing else; or why not to
    /// use it. What is refused here is thrown away: it must not be seen with an IV that may have
    /// been used before.
    fn iv_used(
        &self,
        given: &AnyIv,
        after: &AnyIv,
        text_bytes: usize,
        sealed: &mut Vec<u8>,
    ) -> Result<AnyIv, String> {
        let mode = self.shared.profile.row().iv;
        // Would mean that the module makes its own IVs, and that nothing could decrypt what is
        // answered with ours.
        if mode == IvMode::Caller && after != given {
            return Err("C_Encrypt: the module put in its own IV: wrong profile".to_owned());
        }
        let expected = text_bytes + TAG_BYTES;
        let iv = match mode {
            IvMode::Caller | IvMode::Fill => *after,
            // 16 bytes; firmware that can be asked for shorter ones may be set to make 12.
            IvMode::Append => {
                match sealed
                    .get(expected..)
                    .filter(|iv| [IV_BYTES, IV_BYTES_MAX].contains(&iv.len()))
                    .and_then(AnyIv::copy_of)
                {
                    Some(iv) => iv,
                    None => {
                        return Err(format!(
                            "C_Encrypt: {} bytes, which is not {expected} and an IV: wrong \
                             profile?",
                            sealed.len()
                        ));
                    }
                }
            }
        };
        if mode == IvMode::Append {
            sealed.truncate(expected);
        } else if sealed.len() != expected {
            return Err(format!(
                "C_Encrypt: {} bytes instead of {expected}: wrong profile?",
                sealed.len()
            ));
        }
        if mode != IvMode::Caller {
            self.shared.made_iv_watch.admit(&iv)?;
        }
        Ok(iv)
    }

    pub(super) fn next_iv(&mut self, deadline: Option<Instant>) -> Result<Iv, Fault> {
        if let Some(iv) = self.ivs.next() {
            return Ok(iv);
        }
        in_time(deadline)?;
        let mut random = [0; IvSupply::block_bytes()];
        self.session
            .module
            .functions
            .generate_random(self.session.handle(), &mut random)
            .map_err(|error| self.session_failed(error))?;
        match self.ivs.refill(&random, &self.shared.iv_watch) {
            Ok(iv) => Ok(iv),
            Err(why) => Err(self.broken(why.to_owned())),
        }
    }

    /// What was encrypted must decrypt to what it was. A refusal that may pass is asked for again:
    /// only a ciphertext that is refused each time is a wrong one.
    pub(super) fn verify(
        &mut self,
        label: Option<&Arc<str>>,
        sealed: Sealed<'_>,
        plaintext: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), Failure> {
        in_time(deadline)?;
        let mut refused: Option<CallError> = None;
        let mut refusals = 0;
        loop {
            let error = match self.gcm_decrypt(sealed.key, sealed.iv, sealed.aad, sealed.bytes) {
                Ok(text) if same_bytes(&text, plaintext) => break,
                Ok(_) => return Err(Failure::Unverified(Unverified::Differs)),
                Err(error) => error,
            };
            // Once it was refused it is found out why, whoever still waits for this one.
            let enough = match (self.reaction(&error), refused) {
                (Reaction::BadCiphertext, _) => REFUSALS_UNAMBIGUOUS,
                (Reaction::Ambiguous, _) => REFUSALS_DOUBTED,
                (Reaction::BusyOrBadCiphertext, _) => {
                    self.fail_if_busy(Under { key: sealed.key, label })?;
                    REFUSALS_PERHAPS_BUSY
                }
                // Too much work hits the calls in between as well.
                (Reaction::Busy, _) | (_, None) => return Err(error.into()),
                // It cannot be asked again: the refusal stands.
                (_, Some(_)) => 0,
            };
            refusals += 1;
            let first = *refused.get_or_insert(error);
            if refusals >= enough {
                self.shared.refused_good.record(Instant::now());
                return Err(Failure::Unverified(Unverified::Refused(first)));
            }
        }
        if refused.is_some() {
            self.shared.refused_good.record(Instant::now());
        }
        Ok(())
    }

    /// An HSM with too much work refuses encryptions as well; one that spoils what it encrypts does
    /// not.
    fn fail_if_busy(&mut self, under: Under<'_>) -> Result<(), Failure> {
        match self.encrypt_unrequested(under, &TEST_TEXT, b"", None) {
            Err(Failure::Call(error)) if self.reaction(&error) == Reaction::Busy => {
                Err(error.into())
            }
            _ => Ok(()),
        }
    }
}
