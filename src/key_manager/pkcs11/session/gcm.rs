//! AES-GCM of one text: by which calls of the module, and whether its message interface may be
//! used.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cryptoki_sys::CK_OBJECT_HANDLE;
use zeroize::Zeroizing;

use super::super::errors::{CallError, Reaction};
use super::super::ffi::MessageKind;
use super::super::iv::AnyIv;
use super::super::messages::{Messages, Way};
use super::super::profile::IvMode;
use super::HsmSession;
use super::failure::Failure;
use crate::key_manager::Secret;
use crate::limits::{HSM_OUTPUT_SPARE_BYTES, IV_BYTES, TAG_BYTES};

/// AAD in the trial of the message interface.
const TEST_AAD: &[u8] = b"xksd";

/// Encrypted in a round trip: as long as a data key of KMS. Not zeros, which is what a module that
/// writes nothing leaves.
pub(super) const TEST_TEXT: [u8; 32] = *b"xksd: a round trip under a key. ";

/// A key to encrypt under.
#[derive(Clone, Copy)]
pub(super) struct Under<'a> {
    pub(super) key: CK_OBJECT_HANDLE,
    /// That of a customer's key; `None` for the session test key.
    pub(super) label: Option<&'a Arc<str>>,
}

/// What is decrypted, and with what.
#[derive(Clone, Copy)]
pub(super) struct Sealed<'a> {
    pub(super) key: CK_OBJECT_HANDLE,
    pub(super) iv: &'a [u8],
    pub(super) aad: &'a [u8],
    /// Ciphertext ‖ tag.
    pub(super) bytes: &'a [u8],
}

impl HsmSession {
    /// Ciphertext ‖ tag, and what the module appends, into `sealed`; the length of all returned.
    pub(super) fn gcm_encrypt(
        &mut self,
        key: CK_OBJECT_HANDLE,
        iv: &mut AnyIv,
        aad: &[u8],
        text: &[u8],
        sealed: &mut [u8],
    ) -> Result<usize, CallError> {
        let mut tag = [0; TAG_BYTES];
        match self.message(MessageKind::Encrypt, key, iv, &mut tag, aad, text, sealed) {
            None => self.session.module.functions.encrypt_gcm(
                self.session.handle(),
                key,
                iv.as_mut(),
                aad,
                text,
                sealed,
            ),
            Some(result) => {
                let length = result?;
                // The tag goes behind; where it does not fit the length shows that something is
                // wrong.
                let all = length + TAG_BYTES;
                if let Some(place) = sealed.get_mut(length..all) {
                    place.copy_from_slice(&tag);
                }
                Ok(all)
            }
        }
    }

    pub(super) fn gcm_decrypt(
        &mut self,
        key: CK_OBJECT_HANDLE,
        iv: &[u8],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Secret, CallError> {
        let (ciphertext, tag) = sealed.split_at(sealed.len().saturating_sub(TAG_BYTES));
        let mut text = Zeroizing::new(vec![0; ciphertext.len() + HSM_OUTPUT_SPARE_BYTES]);
        // IVs of another length are refused in ways that the classic calls are known for.
        let by_message = match (
            AnyIv::copy_of(iv).filter(|_| iv.len() == IV_BYTES),
            <[u8; TAG_BYTES]>::try_from(tag),
        ) {
            (Some(mut iv), Ok(mut tag)) => self.message(
                MessageKind::Decrypt,
                key,
                &mut iv,
                &mut tag,
                aad,
                ciphertext,
                &mut text,
            ),
            _ => None,
        };
        let length = match by_message {
            Some(result) => result?,
            None => self.session.module.functions.decrypt_gcm(
                self.session.handle(),
                key,
                iv,
                aad,
                sealed,
                &mut text,
            )?,
        };
        text.truncate(length);
        Ok(text)
    }

    /// One message by the message interface; `None` if that is not to be used.
    #[allow(clippy::too_many_arguments)]
    fn message(
        &mut self,
        kind: MessageKind,
        key: CK_OBJECT_HANDLE,
        iv: &mut AnyIv,
        tag: &mut [u8; TAG_BYTES],
        aad: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Option<Result<usize, CallError>> {
        let messages = self.messages.as_mut()?;
        let direction = match kind {
            MessageKind::Encrypt => &mut messages.encrypt,
            MessageKind::Decrypt => &mut messages.decrypt,
        };
        let (functions, session) = (&self.session.module.functions, self.session.handle());
        let begun = match direction.way(key) {
            Way::Classic => return None,
            Way::Message => Ok(()),
            Way::Begin { end } => {
                if end {
                    functions.end_messages(session, kind);
                }
                functions.begin_messages(session, key, kind)
            }
        };
        let result =
            begun.and_then(|()| functions.message(session, kind, iv.as_mut(), tag, aad, data, out));
        match &result {
            Ok(_) => direction.done(key),
            Err(_) => direction.failed(),
        }
        Some(result)
    }

    /// Tries the module's message interface on the session test key, in the first session after
    /// each C_Initialize: what a module can do, it can in all of them, and a lost one must be
    /// replaced soon. False when it must not be used, nor this session any more, which may be left
    /// with an operation; true also if there is none.
    pub(in super::super) fn try_messages(&mut self) -> bool {
        let wanted = self.shared.profile.row().iv == IvMode::Caller
            && !self.shared.messages_misbehave.load(Ordering::Relaxed);
        if !wanted || !self.session.module.functions.has_messages() {
            return true;
        }
        if self.shared.messages_work_in.load(Ordering::Relaxed) == self.session.generation {
            self.messages = Some(Messages::default());
            return true;
        }
        let work = self.messages_work().unwrap_or(false);
        if work {
            self.shared.messages_work_in.store(self.session.generation, Ordering::Relaxed);
        }
        work
    }

    /// Both ways must come to the same, with both directions begun at once, and classic calls
    /// beside them.
    fn messages_work(&mut self) -> Result<bool, Failure> {
        let key = self.test_key(None)?;
        // Used more than once, under a key that has no other purpose.
        let iv = AnyIv::from(self.next_iv(None)?);
        let text = TEST_TEXT;
        let encrypt = |session: &mut HsmSession| {
            let (mut used, mut sealed) = (iv, vec![0; text.len() + HSM_OUTPUT_SPARE_BYTES]);
            let length = session.gcm_encrypt(key, &mut used, TEST_AAD, &text, &mut sealed)?;
            sealed.truncate(length);
            Ok::<_, Failure>((used, sealed))
        };
        let expected = encrypt(self)?;
        for _ in 0..2 {
            self.messages.get_or_insert_default();
            if encrypt(self)? != expected || expected.1.len() != text.len() + TAG_BYTES {
                return Ok(false);
            }
            let refused = self.gcm_decrypt(key, iv.as_slice(), b"", &expected.1);
            if !refused.is_err_and(|error| {
                matches!(self.reaction(&error), Reaction::BadCiphertext | Reaction::Ambiguous)
            }) {
                return Ok(false);
            }
            let opened = self.gcm_decrypt(key, iv.as_slice(), TEST_AAD, &expected.1)?;
            let messages = self.messages.take();
            let beside =
                (encrypt(self)?, self.gcm_decrypt(key, iv.as_slice(), TEST_AAD, &expected.1)?);
            self.messages = messages;
            if *opened != text || beside.0 != expected || *beside.1 != text {
                return Ok(false);
            }
        }
        // Begun with the key of the first job then.
        if let Some(messages) = &mut self.messages {
            messages.encrypt.failed();
            messages.decrypt.failed();
        }
        Ok(true)
    }
}
