//! One session: a job in, an outcome out.

mod seal;
pub(super) mod verdict;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use cryptoki_sys::*;
use ring::digest;

use super::Shared;
use super::attributes::today;
use super::errors::{Call, CallError, Reaction};
use super::ffi::{FALSE, TRUE, Wanted};
use super::iv::{AnyIv, Iv, IvSupply};
use super::keys::{self, Key, KnownKeys, NoKey};
use super::messages::{MISBEHAVES, Messages};
use super::module::OpenSession;
use super::profile::IvMode;
use super::sight::NO_KEYS_ANY_MORE;
use super::trust::{DISTRUSTED, Standing};
use crate::key_manager::{Answer, Fault, Job, KeyRef, Outcome, Plaintext, Session, Task};
use crate::limits::{
    HSM_OUTPUT_ROOM_BYTES, IV_BYTES, IV_BYTES_MAX, KEY_ATTRIBUTES_AGE_MAX, KEY_REFUSAL_AGE_MAX,
    TAG_BYTES,
};
use verdict::Sealed;

/// CKA_LABEL of the session test key.
const TEST_KEY_LABEL: &[u8] = b"xksd-probe";
/// Begins what is told of ciphertext that does not decrypt to what it was.
const INTEGRITY: &str = "integrity check";
/// Encrypted by [`Session::probe`], bytes: as much as a data key of KMS.
const PROBE_TEXT_BYTES: usize = 32;

/// A session on a token.
pub(super) struct HsmSession {
    session: OpenSession,
    /// The token asks for a login: without one it hides keys.
    needs_login: bool,
    shared: Arc<Shared>,
    known: KnownKeys,
    ivs: IvSupply,
    /// Ciphertext ‖ tag of a decryption, kept for its room.
    sealed: Vec<u8>,
    /// Where the module's message interface works: what is begun in it.
    messages: Option<Messages>,
    /// AES-256, a session object: it never is on the token, and goes with the session.
    test_key: Option<CK_OBJECT_HANDLE>,
    usable: bool,
    /// [`KeyCache::version`](super::keys::KeyCache::version) when the session was found well.
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

/// Between two HSM calls; never between an Init and what it begins, which would leave an operation
/// active.
fn in_time(deadline: Option<Instant>) -> Result<(), Fault> {
    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        Err(Fault::Timeout)
    } else {
        Ok(())
    }
}

/// Whether the key may do all of `usages` today.
fn permit(key: &Key, usages: &[&str]) -> Result<(), Fault> {
    if !key.attributes.is_undated() && !key.attributes.is_enabled(today()) {
        return Err(Fault::KeyDisabled);
    }
    if !key.attributes.is_aes_256() || !usages.iter().all(|usage| key.attributes.allows(usage)) {
        return Err(Fault::KeyUsage);
    }
    Ok(())
}

impl HsmSession {
    pub(super) fn new(session: OpenSession, needs_login: bool, shared: Arc<Shared>) -> HsmSession {
        let well_at = shared.keys.version();
        HsmSession {
            session,
            needs_login,
            shared,
            known: KnownKeys::default(),
            ivs: IvSupply::default(),
            sealed: Vec::new(),
            messages: None,
            test_key: None,
            usable: true,
            well_at,
        }
    }

    fn attempt(
        &mut self,
        label: &Arc<str>,
        task: &Task,
        deadline: Option<Instant>,
    ) -> Result<Answer, Trouble> {
        match task {
            Task::Describe => {
                Ok(Answer::Described(self.look_up(label, deadline)?.attributes.describe(today())))
            }
            Task::Probe => {
                self.round_trip(deadline)?;
                // A test key in memory works also where the token's own keys are gone.
                if self.shared.sight.has_keys() {
                    in_time(deadline)?;
                    self.look_for_any_key()?;
                }
                Ok(Answer::Probed)
            }
            Task::Encrypt { plaintext, aad, integrity } => {
                // A key that cannot decrypt cannot be made to prove its ciphertext: KMS's own test
                // client expects InvalidKeyUsageException from it when a CDIV is asked for.
                let usages: &[&str] =
                    if integrity.is_some() { &["ENCRYPT", "DECRYPT"] } else { &["ENCRYPT"] };
                let key = self.key(label, usages, deadline)?;
                self.encrypt(key, plaintext, aad, integrity.as_ref(), deadline)
            }
            Task::Decrypt { ciphertext, iv, tag, aad } => {
                let key = self.key(label, &["DECRYPT"], deadline)?;
                in_time(deadline)?;
                let mut sealed = std::mem::take(&mut self.sealed);
                sealed.clear();
                sealed.extend_from_slice(ciphertext);
                sealed.extend_from_slice(tag);
                let opened = match self.open_sealed(key, iv, aad, &sealed) {
                    Ok(text) => Ok(text),
                    Err(error) => {
                        let known = self.known.get(&self.shared.keys, label);
                        let may_encrypt =
                            known.is_some_and(|known| known.attributes.allows("ENCRYPT"));
                        self.refused_ciphertext(
                            error,
                            Sealed { key, may_encrypt, iv, aad, bytes: &sealed },
                            deadline,
                        )
                    }
                };
                self.sealed = sealed;
                let text = opened?;
                if text.len() != ciphertext.len() {
                    return Err(self
                        .broken(format!(
                            "C_Decrypt: {} bytes out of {}",
                            text.len(),
                            ciphertext.len()
                        ))
                        .into());
                }
                Ok(Answer::Decrypted(Plaintext(text)))
            }
        }
    }

    /// The key, known or looked up, if it may do `usages`.
    fn key(
        &mut self,
        label: &Arc<str>,
        usages: &[&str],
        deadline: Option<Instant>,
    ) -> Result<CK_OBJECT_HANDLE, Trouble> {
        // None when the attributes must be read again.
        let verdict = |key: &Key| {
            let permitted = permit(key, usages);
            let age_max =
                if permitted.is_ok() { KEY_ATTRIBUTES_AGE_MAX } else { KEY_REFUSAL_AGE_MAX };
            (key.read_at.elapsed() <= age_max).then(|| permitted.map(|()| key.handle))
        };
        let (handle, doubted) = match self.known.get(&self.shared.keys, label) {
            Some(known) => {
                let handle = known.handle;
                // Another session has read them again, maybe.
                let verdict = verdict(known)
                    .or_else(|| self.known.renew(&self.shared.keys, label).and_then(verdict));
                if let Some(verdict) = verdict {
                    return Ok(verdict?);
                }
                (handle, false)
            }
            None => match self.shared.keys.doubted(label) {
                Some(handle) => (handle, true),
                None => return self.look_up_for(label, usages, deadline),
            },
        };
        in_time(deadline)?;
        let version = self.shared.keys.version();
        let read = keys::read(&self.session, handle).map_err(|error| {
            let trouble = self.trouble(error);
            if self.usable {
                // It was the handle's fault, then.
                self.shared.keys.forget_doubted(label);
            }
            trouble
        })?;
        // Renamed, or the handle is another object's by now: perhaps one of the same name that is
        // no AES key.
        if read.attributes.label != label.as_bytes() || (doubted && permit(&read, usages).is_err())
        {
            return self.look_up_for(label, usages, deadline);
        }
        self.shared.keys.insert(label, &read, version);
        self.known.renew(&self.shared.keys, label);
        permit(&read, usages)?;
        Ok(read.handle)
    }

    fn look_up_for(
        &mut self,
        label: &Arc<str>,
        usages: &[&str],
        deadline: Option<Instant>,
    ) -> Result<CK_OBJECT_HANDLE, Trouble> {
        let found = self.look_up(label, deadline)?;
        permit(&found, usages)?;
        Ok(found.handle)
    }

    /// Searches the token.
    fn look_up(&mut self, label: &Arc<str>, deadline: Option<Instant>) -> Result<Key, Trouble> {
        if let Some(detail) = self.shared.keys.missing(label, Instant::now()) {
            return Err(Fault::KeyNotFound { detail }.into());
        }
        in_time(deadline)?;
        let version = self.shared.keys.version();
        match keys::find(&self.session, label) {
            Ok(key) => {
                self.shared.keys.insert(label, &key, version);
                self.shared.sight.shows_keys();
                Ok(key)
            }
            Err(NoKey::Call(error)) => Err(self.trouble(error)),
            Err(NoKey::Several(detail)) => Err(self.missing(label, detail)),
            Err(NoKey::None(detail)) => {
                self.shared.keys.remove(label);
                // One key that is missing among others was deleted.
                self.look_for_any_key()?;
                Err(self.missing(label, detail))
            }
        }
    }

    fn missing(&mut self, label: &Arc<str>, detail: String) -> Trouble {
        self.shared.keys.remove(label);
        self.shared.keys.insert_missing(label, &detail, Instant::now());
        Fault::KeyNotFound { detail }.into()
    }

    /// Fails when the token shows no key although it should: the login is lost, or all keys are out
    /// of sight.
    fn look_for_any_key(&mut self) -> Result<(), Trouble> {
        if self.shared.sight.had_keys()
            && keys::any(&self.session).map_err(|error| self.trouble(error))?
        {
            self.shared.sight.shows_keys();
            return Ok(());
        }
        // A token that lost its login shows no private objects and calls that success.
        if self.needs_login && !self.session.is_logged_in().map_err(|error| self.trouble(error))? {
            self.lose();
            return Err(Fault::Device {
                detail: "C_FindObjects: the session is no longer logged in".to_owned(),
            }
            .into());
        }
        if self.shared.sight.shows_none(self.session.generation, Instant::now()) {
            self.lose();
            self.session.module.doubt();
            return Err(Fault::Device { detail: NO_KEYS_ANY_MORE.to_owned() }.into());
        }
        Ok(())
    }

    fn encrypt(
        &mut self,
        key: CK_OBJECT_HANDLE,
        plaintext: &[u8],
        aad: &[u8],
        integrity: Option<&digest::Context>,
        deadline: Option<Instant>,
    ) -> Result<Answer, Trouble> {
        let given = match self.shared.profile.row().iv {
            IvMode::Caller => AnyIv::from(self.next_iv(deadline)?),
            IvMode::Fill => AnyIv::zeros(IV_BYTES),
            IvMode::Append => AnyIv::zeros(0),
        };
        in_time(deadline)?;
        let mut sealed = vec![0; plaintext.len() + HSM_OUTPUT_ROOM_BYTES];
        let mut after = given;
        let length = self
            .seal(key, &mut after, aad, plaintext, &mut sealed)
            .map_err(|error| self.trouble(error))?;
        sealed.truncate(length);
        let iv = self
            .iv_used(&given, &after, plaintext.len(), &mut sealed)
            .map_err(|why| self.broken(why))?;
        let integrity = match integrity {
            None => None,
            Some(context) => {
                // spec: "If CDIV computation is delayed until after the encryption output is used
                // as input for the XKS decrypt API, any data corruption such as bit-flips that
                // occur in the time after the decryption is initiated and the CDIV is computed will
                // go undetected." So: digest, then decrypt the very same bytes.
                let mut context = context.clone();
                context.update(iv.as_slice());
                context.update(&sealed);
                let value = context.finish();
                self.verify(
                    Sealed { key, may_encrypt: true, iv: iv.as_slice(), aad, bytes: &sealed },
                    plaintext,
                    deadline,
                )?;
                Some(std::array::from_fn(|n| value.as_ref()[n]))
            }
        };
        let (ciphertext, tag) = sealed.split_at(plaintext.len());
        let tag = std::array::from_fn(|n| tag[n]);
        let ciphertext_bytes = ciphertext.len();
        sealed.truncate(ciphertext_bytes);
        Ok(Answer::Encrypted { iv: iv.as_slice().to_vec(), ciphertext: sealed, tag, integrity })
    }

    /// The IV that was used, once the output is ciphertext ‖ tag and nothing else; or why not to
    /// believe it. What is refused here is thrown away: it must not be seen with an IV that may
    /// have been used before.
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
            return Err("C_Encrypt: the module put in an IV of its own: wrong profile".to_owned());
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

    /// Encrypts and decrypts zeros under the session test key.
    fn round_trip(&mut self, deadline: Option<Instant>) -> Result<(), Fault> {
        let result = self.test_key(deadline).and_then(|key| {
            let text = [0; PROBE_TEXT_BYTES];
            let Answer::Encrypted { iv, mut ciphertext, tag, .. } =
                self.encrypt(key, &text, b"", None, deadline)?
            else {
                return Ok(());
            };
            ciphertext.extend_from_slice(&tag);
            self.verify(
                Sealed { key, may_encrypt: true, iv: &iv, aad: b"", bytes: &ciphertext },
                &text,
                deadline,
            )
        });
        result.map_err(|trouble| match trouble {
            // The test key goes with the session alone: without it the session is not what it was.
            Trouble::Handle(error) => self.broken(error.to_string()),
            Trouble::Fault(Fault::KeyUsage) => {
                self.broken("the session test key may not be used for AES-GCM".to_owned())
            }
            Trouble::Fault(fault) => fault,
        })
    }

    fn test_key(&mut self, deadline: Option<Instant>) -> Result<CK_OBJECT_HANDLE, Trouble> {
        if let Some(key) = self.test_key {
            return Ok(key);
        }
        in_time(deadline)?;
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
        let key = self
            .session
            .set_up(Call::GenerateKey)
            .and_then(|(functions, session)| functions.generate_aes_key(session, &attributes))
            .map_err(|error| self.trouble(error))?;
        self.test_key = Some(key);
        Ok(key)
    }

    fn next_iv(&mut self, deadline: Option<Instant>) -> Result<Iv, Trouble> {
        if let Some(iv) = self.ivs.next() {
            return Ok(iv);
        }
        in_time(deadline)?;
        let mut random = [0; IvSupply::block_bytes()];
        self.session
            .module
            .functions
            .generate_random(self.session.handle(), &mut random)
            .map_err(|error| self.trouble(error))?;
        match self.ivs.refill(&random, &self.shared.iv_watch) {
            Ok(iv) => Ok(iv),
            Err(why) => Err(self.broken(why.to_owned()).into()),
        }
    }

    /// What follows from a call that failed, for the session and for the job.
    fn trouble(&mut self, error: CallError) -> Trouble {
        if error.is_of_messages() && MISBEHAVES.contains(&error.code) {
            self.shared.messages_misbehave.store(true, Ordering::Relaxed);
        }
        match error.reaction(self.shared.profile) {
            Reaction::KeyHandle => Trouble::Handle(error),
            Reaction::BadCiphertext => Fault::BadCiphertext.into(),
            Reaction::Busy | Reaction::BusyOrBadCiphertext => {
                self.shared.reputation.caught(Instant::now());
                Fault::Busy.into()
            }
            Reaction::Usage => Fault::KeyUsage.into(),
            Reaction::SessionLost | Reaction::LoginLost => {
                self.lose();
                self.let_go(&error);
                error.fault().into()
            }
            // Begins no operation, and may be about this one object: it says nothing against the
            // session.
            Reaction::Device if error.call == Call::GetAttributeValue => error.fault().into(),
            Reaction::Ambiguous | Reaction::Device => self.broken(error.to_string()).into(),
        }
    }

    /// After an error that may say that the handle is no longer this session's, or the module no
    /// longer initialised.
    fn let_go(&mut self, error: &CallError) {
        self.session.forget_if_gone(error);
        if error.code == CKR_CRYPTOKI_NOT_INITIALIZED {
            self.session.module.lost(self.session.generation);
        }
    }

    /// The session is lost, and with it the certainty of handles.
    fn lose(&mut self) {
        self.usable = false;
        self.shared.keys.doubt();
    }

    /// The session is not to be trusted any further: it may be left with an operation unfinished.
    fn broken(&mut self, detail: String) -> Fault {
        // Whatever was wrong, sessions opened from now on do without what fewer modules have been
        // tried with.
        if self.messages.is_some() && detail.starts_with(INTEGRITY) {
            self.shared.messages_misbehave.store(true, Ordering::Relaxed);
        }
        self.usable = false;
        Fault::Device { detail }
    }
}

impl Session for HsmSession {
    fn execute(&mut self, job: Job) -> Outcome {
        let Job { key: KeyRef { label, .. }, task, deadline } = job;
        self.check_usable()?;
        let believed = !matches!(task, Task::Describe);
        let standing = self.shared.trust.standing();
        let standing =
            if believed && standing.is_lost() { self.win_trust_back()? } else { standing };
        let mut outcome = self.attempt(&label, &task, Some(deadline));
        if let Err(Trouble::Handle(_)) = outcome {
            self.shared.keys.remove(&label);
            outcome = self.attempt(&label, &task, Some(deadline));
        }
        let answer = outcome.map_err(|trouble| match trouble {
            Trouble::Fault(fault) => fault,
            Trouble::Handle(error) => {
                self.shared.keys.remove(&label);
                error.fault()
            }
        })?;
        // Another session has caught the HSM while it was at this.
        if believed && self.shared.trust.standing() != standing {
            Err(distrusted())
        } else {
            Ok(answer)
        }
    }

    fn probe(&mut self) -> Result<(), Fault> {
        self.check_usable()?;
        self.round_trip(None)
    }

    fn check(&mut self) -> bool {
        let epoch = self.shared.keys.version();
        if self.is_usable() && epoch != self.well_at {
            // Another session was lost, or the login: a rebooted HSM has lost all of them, and one
            // request that fails is enough.
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
        self.usable && !self.session.is_stale() && !self.shared.sight.is_lost()
    }
}

fn distrusted() -> Fault {
    Fault::Device { detail: DISTRUSTED.to_owned() }
}

impl HsmSession {
    /// Takes part in the HSM's proving itself, if it is time for that. Without regard to the
    /// deadline of the job that happened to come: its client is answered by then, and the next ones
    /// need the proof.
    fn win_trust_back(&mut self) -> Result<Standing, Fault> {
        let trial = self.shared.trust.take_part(Instant::now()).ok_or_else(distrusted)?;
        while self.shared.trust.is_open(trial) {
            self.round_trip(None).inspect_err(|_| self.shared.trust.failed(trial))?;
            self.shared.trust.right(trial);
        }
        let standing = self.shared.trust.standing();
        if standing.is_lost() { Err(distrusted()) } else { Ok(standing) }
    }

    fn check_usable(&self) -> Result<(), Fault> {
        if self.is_usable() {
            return Ok(());
        }
        let why = match () {
            () if self.shared.sight.is_lost() => NO_KEYS_ANY_MORE,
            () if self.usable => {
                "the module has been initialised anew since the session was opened"
            }
            () => "the session was lost",
        };
        Err(Fault::Device { detail: why.to_owned() })
    }
}
