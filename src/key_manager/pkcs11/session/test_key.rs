//! What is known to be good: the session test key, and round trips under it.

use std::sync::Arc;
use std::time::Instant;

use cryptoki_sys::*;

use super::super::errors::{Call, CallError};
use super::super::ffi::objects::{FALSE, TRUE, Wanted};
use super::super::keys::Key;
use super::super::messages::Messages;
use super::super::module::OpenSession;
use super::super::quarantine::Epoch;
use super::HsmSession;
use super::failure::{Failure, in_time};
use super::gcm::{Sealed, TEST_TEXT, Under};
use super::lookup::permit;
use crate::key_manager::{Fault, KeyUsage, ProbeKey};
use crate::limits::WITNESSES_MAX;

/// CKA_LABEL of the session test key.
const TEST_KEY_LABEL: &[u8] = b"xksd-probe";

/// A key that is known to be good.
pub(super) struct KnownGoodKey {
    pub(super) key: CK_OBJECT_HANDLE,
    /// That of a customer's key.
    label: Option<Arc<str>>,
}

impl KnownGoodKey {
    pub(super) fn under(&self) -> Under<'_> {
        Under { key: self.key, label: self.label.as_ref() }
    }
}

impl HsmSession {
    /// Encrypts and decrypts a text under the key. Says nothing of whose fault a failure is.
    pub(super) fn round_trip(
        &mut self,
        under: Under<'_>,
        deadline: Option<Instant>,
    ) -> Result<(), Failure> {
        let made = self.encrypt_unrequested(under, &TEST_TEXT, b"", deadline)?;
        let sealed =
            Sealed { key: under.key, iv: made.iv.as_slice(), aad: b"", bytes: &made.bytes };
        self.verify(under.label, sealed, &TEST_TEXT, deadline)
    }

    /// Keys that are known to be good: the session test key or, where the module makes none, some
    /// of the token's that are in use, but not `except`.
    pub(super) fn known_good_keys(
        &mut self,
        except: &str,
        deadline: Option<Instant>,
    ) -> Result<Vec<KnownGoodKey>, Failure> {
        match self.test_key(deadline) {
            Ok(key) => Ok(vec![KnownGoodKey { key, label: None }]),
            Err(Failure::Call(error)) if error.call == Call::GenerateKey => {
                let mut others = self.shared.keys.others(except, WITNESSES_MAX);
                others.retain(|(_, key)| {
                    permit(key, &[KeyUsage::Encrypt, KeyUsage::Decrypt]).is_ok()
                });
                if others.is_empty() {
                    return Err(error.into());
                }
                let known_good =
                    |(label, key): (_, Key)| KnownGoodKey { key: key.handle, label: Some(label) };
                Ok(others.into_iter().map(known_good).collect())
            }
            Err(failure) => Err(failure),
        }
    }

    /// As [`HsmSession::witness`]; if there is no key for it at all, that the session answers is
    /// all that can be found out, and what the requests come to shows the rest.
    pub(super) fn probe_key(&mut self, deadline: Option<Instant>) -> Result<ProbeKey, Failure> {
        match self.witness("", deadline) {
            Ok(()) if self.test_key.is_some() => Ok(ProbeKey::Own),
            Ok(()) => Ok(ProbeKey::InUse),
            Err(Failure::Call(error)) if error.makes_no_key() && self.usable => {
                let logged_in = self.session.is_logged_in()?;
                if self.needs_login && !logged_in {
                    return Err(error.into());
                }
                Ok(ProbeKey::None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// A round trip under a key that is known to be good, which shows that session and HSM are.
    pub(super) fn witness(
        &mut self,
        except: &str,
        deadline: Option<Instant>,
    ) -> Result<(), Failure> {
        let mut result = Ok(());
        for key in self.known_good_keys(except, deadline)? {
            result = self.round_trip(key.under(), deadline);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// What a witness that failed says of the session and the HSM.
    pub(super) fn settle_witness(&mut self, failure: Failure) -> Fault {
        match failure {
            Failure::Call(error) => self.session_failed(error),
            Failure::Unverified(what) => self.quarantine(&what),
            Failure::Fault(fault) => fault,
        }
    }

    pub(super) fn test_key(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<CK_OBJECT_HANDLE, Failure> {
        if let Some(key) = self.test_key {
            return Ok(key);
        }
        in_time(deadline)?;
        let key = match self.make_test_key(&self.session) {
            Ok(key) => key,
            Err(refused) => self.make_test_key_in_read_write(refused)?,
        };
        self.test_key = Some(key);
        Ok(key)
    }

    fn make_test_key(&self, session: &OpenSession) -> Result<CK_OBJECT_HANDLE, CallError> {
        let attributes: [Wanted; 10] = [
            (CKA_CLASS, &CKO_SECRET_KEY.to_ne_bytes()),
            (CKA_KEY_TYPE, &CKK_AES.to_ne_bytes()),
            (CKA_VALUE_LEN, &CK_ULONG::to_ne_bytes(32)),
            (CKA_TOKEN, FALSE),
            (CKA_PRIVATE, if self.needs_login { TRUE } else { FALSE }),
            (CKA_SENSITIVE, TRUE),
            (CKA_EXTRACTABLE, FALSE),
            (CKA_ENCRYPT, TRUE),
            (CKA_DECRYPT, TRUE),
            (CKA_LABEL, TEST_KEY_LABEL),
        ];
        let (functions, handle) = session.set_up(Call::GenerateKey)?;
        functions.generate_aes_key(handle, &attributes)
    }

    /// Some modules (wolfPKCS11, Craton HSM) make no key in a read-only session, not even one of
    /// the session's own. If they do in another, this session is exchanged for it, and all are
    /// opened so from now on.
    fn make_test_key_in_read_write(
        &mut self,
        refused: CallError,
    ) -> Result<CK_OBJECT_HANDLE, CallError> {
        let generation = self.session.generation;
        if !refused.makes_no_key()
            || self.session.read_write
            || self.session.is_stale()
            || !self.shared.may_make_key_in_read_write(generation)
        {
            return Err(refused);
        }
        let session = match self.session.open_read_write_beside() {
            Ok(session) => session,
            Err(error) => {
                if error.code == CKR_SESSION_COUNT && refused.code == CKR_SESSION_READ_ONLY {
                    // There is no room beside this one: it is opened again.
                    self.shared.open_read_write();
                    self.usable = false;
                }
                return Err(refused);
            }
        };
        let Ok(key) = self.make_test_key(&session) else {
            self.shared.makes_no_key(generation);
            return Err(refused);
        };
        self.shared.open_read_write();
        self.session = session;
        // They were begun in the other one.
        self.messages = self.messages.take().map(|_| Messages::default());
        Ok(key)
    }

    /// Where the HSM is quarantined: takes part in its self-test, if it is time for that. Without
    /// regard to the deadline of the job that happened to come: its client is answered by then, and
    /// the next ones need the result.
    pub(super) fn leave_quarantine(&mut self) -> Result<Epoch, Fault> {
        let epoch = self.shared.quarantine.epoch();
        if !epoch.is_quarantine() {
            return Ok(epoch);
        }
        let Some(test) = self.shared.quarantine.join_self_test(Instant::now()) else {
            return Err(self.quarantined());
        };
        while self.shared.quarantine.is_running(test) {
            if let Err(failure) = self.witness("", None) {
                self.shared.quarantine.failed(test);
                return Err(self.settle_witness(failure));
            }
            self.shared.quarantine.passed_one(test);
        }
        let epoch = self.shared.quarantine.epoch();
        if epoch.is_quarantine() { Err(self.quarantined()) } else { Ok(epoch) }
    }
}
