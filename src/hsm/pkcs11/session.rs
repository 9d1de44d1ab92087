//! One session: a job in, an outcome out.

use std::sync::Arc;
use std::time::Instant;

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki_sys::{CK_OBJECT_HANDLE, CKR_ARGUMENTS_BAD, CKR_CRYPTOKI_NOT_INITIALIZED, CKR_MECHANISM_PARAM_INVALID};
use ring::digest;
use zeroize::Zeroizing;

use super::Shared;
use super::attributes::today;
use super::errors::{Call, CallError, Reaction};
use super::iv::{Iv, IvSupply};
use super::keys::{self, Key, NoKey};
use super::module::OpenSession;
use super::profile::IvMode;
use crate::hsm::{Answer, Fault, Job, Outcome, Plaintext, Secret, Session, Task, same_bytes};
use crate::limits::{HSM_OUTPUT_ROOM_BYTES, IV_BYTES, KEY_ATTRIBUTES_AGE_MAX, KEY_REFUSAL_AGE_MAX, TAG_BYTES};

/// CKA_LABEL of the session test key.
const TEST_KEY_LABEL: &[u8] = b"xksd-probe";
/// Encrypted by [`Session::probe`], bytes: as much as a data key of KMS.
const PROBE_TEXT_BYTES: usize = 32;

/// A session on a token.
pub(super) struct HsmSession {
    session: OpenSession,
    /// The token asks for a login: without one it hides keys.
    needs_login: bool,
    shared: Arc<Shared>,
    ivs: IvSupply,
    /// AES-256, a session object: it never is on the token, and goes with the session.
    test_key: Option<CK_OBJECT_HANDLE>,
    usable: bool,
    /// The session was found well after the handles were void for the so-many-th time.
    well_at: u64,
}

/// Why an attempt at a job failed.
enum Trouble {
    /// The key's handle is void: worth a second attempt.
    Handle(CallError),
    /// The outcome.
    Fault(Fault),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Trouble {
        Trouble::Fault(fault)
    }
}

/// Between two HSM calls; never between an Init and what it begins, which would leave an operation active.
fn in_time(deadline: Option<Instant>) -> Result<(), Fault> {
    if deadline.is_some_and(|deadline| deadline <= Instant::now()) { Err(Fault::Timeout) } else { Ok(()) }
}

/// Whether the key may do all of `usages` today.
fn permit(key: &Key, usages: &[&str]) -> Result<(), Fault> {
    if !key.attributes.is_enabled(today()) {
        return Err(Fault::KeyDisabled);
    }
    if !key.attributes.is_aes_256() || !usages.iter().all(|usage| key.attributes.allows(usage)) {
        return Err(Fault::KeyUsage);
    }
    Ok(())
}

impl HsmSession {
    pub(super) fn new(session: OpenSession, needs_login: bool, shared: Arc<Shared>) -> HsmSession {
        let well_at = shared.keys.epoch();
        HsmSession { session, needs_login, shared, ivs: IvSupply::default(), test_key: None, usable: true, well_at }
    }

    fn attempt(&mut self, label: &Arc<str>, task: &Task, deadline: Option<Instant>) -> Result<Answer, Trouble> {
        match task {
            Task::Describe => Ok(Answer::Described(self.look_up(label, deadline)?.attributes.describe(today()))),
            Task::Probe => Ok(self.round_trip(b"", PROBE_TEXT_BYTES, deadline).map(|()| Answer::Probed)?),
            Task::Encrypt { plaintext, aad, integrity } => {
                // A key that cannot decrypt cannot be made to prove its ciphertext: KMS's own test client expects
                // InvalidKeyUsageException from it when a CDIV is asked for.
                let usages: &[&str] = if integrity.is_some() { &["ENCRYPT", "DECRYPT"] } else { &["ENCRYPT"] };
                let key = self.key(label, usages, deadline)?;
                self.encrypt(key.handle, plaintext, aad, integrity.as_ref(), deadline)
            }
            Task::Decrypt { ciphertext, iv, tag, aad } => {
                let key = self.key(label, &["DECRYPT"], deadline)?;
                in_time(deadline)?;
                let sealed = [&ciphertext[..], tag].concat();
                let text = match self.open_sealed(key.handle, iv, aad, &sealed) {
                    Ok(text) => text,
                    Err(error) => self.open_refused(error, key.handle, iv, aad, &sealed, deadline)?,
                };
                if text.len() != ciphertext.len() {
                    return Err(self.broken(format!("C_Decrypt: {} bytes out of {}", text.len(), ciphertext.len())).into());
                }
                Ok(Answer::Decrypted(Plaintext(text)))
            }
        }
    }

    /// The key, known or looked up, if it may do `usages`.
    fn key(&mut self, label: &Arc<str>, usages: &[&str], deadline: Option<Instant>) -> Result<Arc<Key>, Trouble> {
        let Some(known) = self.shared.keys.get(label) else {
            let found = self.look_up(label, deadline)?;
            permit(&found, usages)?;
            return Ok(found);
        };
        let permitted = permit(&known, usages);
        let age_max = if permitted.is_ok() { KEY_ATTRIBUTES_AGE_MAX } else { KEY_REFUSAL_AGE_MAX };
        if known.read_at.elapsed() <= age_max {
            permitted?;
            return Ok(known);
        }
        in_time(deadline)?;
        let epoch = self.shared.keys.epoch();
        let read = keys::read(&self.session, known.handle).map_err(|error| self.trouble(error))?;
        if read.attributes.label != label.as_bytes() {
            // Renamed, or the handle is another object's by now.
            let found = self.look_up(label, deadline)?;
            permit(&found, usages)?;
            return Ok(found);
        }
        let read = Arc::new(read);
        self.shared.keys.insert(label, &read, epoch);
        permit(&read, usages)?;
        Ok(read)
    }

    /// Searches the token.
    fn look_up(&mut self, label: &Arc<str>, deadline: Option<Instant>) -> Result<Arc<Key>, Trouble> {
        in_time(deadline)?;
        let epoch = self.shared.keys.epoch();
        match keys::find(&self.session, label) {
            Ok(key) => {
                let key = Arc::new(key);
                self.shared.keys.insert(label, &key, epoch);
                Ok(key)
            }
            Err(NoKey::Call(error)) => Err(self.trouble(error)),
            Err(NoKey::Choice(detail)) => {
                self.shared.keys.remove(label);
                // A token that lost its login shows no private objects and calls that success.
                if self.needs_login && !self.session.is_logged_in().map_err(|error| self.trouble(error))? {
                    self.lose();
                    return Err(Fault::Device { detail: "C_FindObjects: the session is no longer logged in".to_owned() }.into());
                }
                Err(Fault::KeyNotFound { detail }.into())
            }
        }
    }

    fn encrypt(
        &mut self,
        key: CK_OBJECT_HANDLE,
        plaintext: &[u8],
        aad: &[u8],
        integrity: Option<&digest::Context>,
        deadline: Option<Instant>,
    ) -> Result<Answer, Trouble> {
        let iv = match self.shared.profile.row().iv {
            IvMode::Caller => self.next_iv(deadline)?,
        };
        in_time(deadline)?;
        let mut sealed = vec![0; plaintext.len() + HSM_OUTPUT_ROOM_BYTES];
        let mut iv_used = iv;
        let length = self
            .session
            .module
            .functions
            .encrypt_gcm(self.session.handle(), key, &mut iv_used, aad, plaintext, &mut sealed)
            .map_err(|error| self.trouble(error))?;
        // Either would mean that the module makes its own IVs, and that nothing could decrypt what is answered with ours.
        if iv_used != iv {
            return Err(self.broken("C_Encrypt: the module put in an IV of its own: wrong profile".to_owned()).into());
        }
        if length != plaintext.len() + TAG_BYTES {
            let detail = format!("C_Encrypt: {length} bytes instead of {}: wrong profile?", plaintext.len() + TAG_BYTES);
            return Err(self.broken(detail).into());
        }
        sealed.truncate(length);
        let integrity = match integrity {
            None => None,
            Some(context) => {
                // spec: "If CDIV computation is delayed until after the encryption output is used as input for the XKS decrypt API, any
                // data corruption such as bit-flips that occur in the time after the decryption is initiated and the CDIV is computed
                // will go undetected." So: digest, then decrypt the very same bytes.
                let mut context = context.clone();
                context.update(&iv);
                context.update(&sealed);
                let value = context.finish();
                self.verify(key, &iv, aad, &sealed, plaintext, deadline)?;
                Some(std::array::from_fn(|n| value.as_ref()[n]))
            }
        };
        let (ciphertext, tag) = sealed.split_at(plaintext.len());
        let tag = std::array::from_fn(|n| tag[n]);
        let ciphertext_bytes = ciphertext.len();
        sealed.truncate(ciphertext_bytes);
        Ok(Answer::Encrypted { iv: iv.to_vec(), ciphertext: sealed, tag, integrity })
    }

    /// What was encrypted must decrypt to what it was; every other outcome is the key manager's fault.
    fn verify(
        &mut self,
        key: CK_OBJECT_HANDLE,
        iv: &Iv,
        aad: &[u8],
        sealed: &[u8],
        plaintext: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), Trouble> {
        in_time(deadline)?;
        match self.open_sealed(key, iv, aad, sealed) {
            Ok(text) if same_bytes(&text, plaintext) => Ok(()),
            Ok(_) => Err(self.broken("integrity check: what was encrypted decrypts to something else".to_owned()).into()),
            Err(error) if matches!(error.reaction(self.shared.profile), Reaction::BadCiphertext | Reaction::Ambiguous) => {
                Err(self.broken(format!("integrity check: what was encrypted does not decrypt: {error}")).into())
            }
            Err(error) => Err(self.trouble(error)),
        }
    }

    fn open_sealed(&self, key: CK_OBJECT_HANDLE, iv: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Secret, CallError> {
        let mut text = Zeroizing::new(vec![0; sealed.len() - TAG_BYTES.min(sealed.len()) + HSM_OUTPUT_ROOM_BYTES]);
        let length = self.session.module.functions.decrypt_gcm(self.session.handle(), key, iv, aad, sealed, &mut text)?;
        text.truncate(length);
        Ok(text)
    }

    /// After `error`, which says that the ciphertext is bad, or the module is; or was for a moment, and opens it now.
    fn open_refused(
        &mut self,
        error: CallError,
        key: CK_OBJECT_HANDLE,
        iv: &[u8],
        aad: &[u8],
        sealed: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Secret, Trouble> {
        // A module that takes 12-byte IVs only never made a ciphertext with another; but it may mean something else by these codes.
        let perhaps_iv = iv.len() != IV_BYTES
            && error.call == Call::DecryptInit
            && [CKR_MECHANISM_PARAM_INVALID, CKR_ARGUMENTS_BAD].contains(&error.code);
        match error.reaction(self.shared.profile) {
            Reaction::BadCiphertext => Err(Fault::BadCiphertext.into()),
            // The test key gets the same AAD and as long a text: what the module cannot do, it then cannot do here either.
            reaction if reaction == Reaction::Ambiguous || perhaps_iv => {
                self.round_trip(aad, sealed.len() - TAG_BYTES.min(sealed.len()), deadline).map_err(|fault| match fault {
                    Fault::Device { detail } => Fault::Device { detail: format!("{error}, and the session test key fails too: {detail}") },
                    other => other,
                })?;
                // A fault that passed before the test key was tried must not be held against the ciphertext either.
                in_time(deadline)?;
                self.open_sealed(key, iv, aad, sealed).map_err(|again| match again == error {
                    true => Fault::BadCiphertext.into(),
                    false => self.trouble(again),
                })
            }
            _ => Err(self.trouble(error)),
        }
    }

    /// Encrypts and decrypts zeros under the session test key.
    fn round_trip(&mut self, aad: &[u8], text_bytes: usize, deadline: Option<Instant>) -> Result<(), Fault> {
        let result = self.test_key(deadline).and_then(|key| {
            let text = vec![0; text_bytes];
            let answer = self.encrypt(key, &text, aad, None, deadline)?;
            let Answer::Encrypted { iv, mut ciphertext, tag, .. } = answer else { return Ok(()) };
            let iv: Iv = std::array::from_fn(|n| iv[n]);
            ciphertext.extend_from_slice(&tag);
            self.verify(key, &iv, aad, &ciphertext, &text, deadline)
        });
        result.map_err(|trouble| match trouble {
            // The test key goes with the session alone: without it the session is not what it was.
            Trouble::Handle(error) => self.broken(error.to_string()),
            Trouble::Fault(Fault::KeyUsage) => self.broken("the session test key may not be used for AES-GCM".to_owned()),
            Trouble::Fault(fault) => fault,
        })
    }

    fn test_key(&mut self, deadline: Option<Instant>) -> Result<CK_OBJECT_HANDLE, Trouble> {
        if let Some(key) = self.test_key {
            return Ok(key);
        }
        in_time(deadline)?;
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(32.into()),
            Attribute::Token(false),
            Attribute::Private(self.needs_login),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Label(TEST_KEY_LABEL.to_vec()),
        ];
        let key = self
            .session
            .set_up(Call::GenerateKey)
            .and_then(|session| {
                session.generate_key(&Mechanism::AesKeyGen, &template).map_err(|error| CallError::from_cryptoki(Call::GenerateKey, &error))
            })
            .map_err(|error| self.trouble(error))?;
        self.test_key = Some(key.handle());
        Ok(key.handle())
    }

    fn next_iv(&mut self, deadline: Option<Instant>) -> Result<Iv, Trouble> {
        if let Some(iv) = self.ivs.next() {
            return Ok(iv);
        }
        in_time(deadline)?;
        let mut random = [0; IvSupply::block_bytes()];
        self.session.module.functions.generate_random(self.session.handle(), &mut random).map_err(|error| self.trouble(error))?;
        match self.ivs.refill(&random, &self.shared.iv_watch) {
            Ok(iv) => Ok(iv),
            Err(why) => Err(self.broken(why.to_owned()).into()),
        }
    }

    /// What follows from a call that failed, for the session and for the job.
    fn trouble(&mut self, error: CallError) -> Trouble {
        match error.reaction(self.shared.profile) {
            Reaction::KeyHandle => Trouble::Handle(error),
            Reaction::BadCiphertext => Fault::BadCiphertext.into(),
            Reaction::Busy => Fault::Busy.into(),
            Reaction::Usage => Fault::KeyUsage.into(),
            Reaction::SessionLost | Reaction::LoginLost => {
                self.lose();
                self.let_go(&error);
                error.fault().into()
            }
            // Begins no operation, and may be about this one object: it says nothing against the session.
            Reaction::Device if error.call == Call::GetAttributeValue => error.fault().into(),
            Reaction::Ambiguous | Reaction::Device => self.broken(error.to_string()).into(),
        }
    }

    /// After an error that may say that the handle is no longer this session's, or the module no longer initialised.
    fn let_go(&mut self, error: &CallError) {
        self.session.forget_if_gone(error);
        if error.code == CKR_CRYPTOKI_NOT_INITIALIZED {
            self.session.module.lost(self.session.generation);
        }
    }

    /// The session is lost, and with it what is known of handles.
    fn lose(&mut self) {
        self.usable = false;
        self.shared.keys.clear();
    }

    /// The session is not to be trusted any further: it may be left with an operation unfinished.
    fn broken(&mut self, detail: String) -> Fault {
        self.usable = false;
        Fault::Device { detail }
    }
}

impl Session for HsmSession {
    fn execute(&mut self, job: Job) -> Outcome {
        let Job { label, task, deadline } = job;
        self.check_usable()?;
        let mut outcome = self.attempt(&label, &task, Some(deadline));
        if let Err(Trouble::Handle(_)) = outcome {
            self.shared.keys.remove(&label);
            outcome = self.attempt(&label, &task, Some(deadline));
        }
        outcome.map_err(|trouble| match trouble {
            Trouble::Fault(fault) => fault,
            Trouble::Handle(error) => {
                self.shared.keys.remove(&label);
                error.fault()
            }
        })
    }

    fn probe(&mut self) -> Result<(), Fault> {
        self.check_usable()?;
        self.round_trip(b"", PROBE_TEXT_BYTES, None)
    }

    fn check(&mut self) -> bool {
        let epoch = self.shared.keys.epoch();
        if self.is_usable() && epoch != self.well_at {
            // Another session was lost, or the login: a rebooted HSM has lost all of them, and one request that fails is enough.
            match self.session.is_logged_in() {
                Ok(logged_in) => self.usable = logged_in || !self.needs_login,
                Err(error) => {
                    self.usable = false;
                    self.let_go(&error);
                }
            }
            self.well_at = epoch;
        }
        self.is_usable()
    }

    fn is_usable(&self) -> bool {
        self.usable && !self.session.is_stale()
    }
}

impl HsmSession {
    fn check_usable(&self) -> Result<(), Fault> {
        if self.is_usable() {
            return Ok(());
        }
        let why = if self.usable { "the module has been initialised anew since the session was opened" } else { "the session was lost" };
        Err(Fault::Device { detail: why.to_owned() })
    }
}
