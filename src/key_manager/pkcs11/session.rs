//! One session: a job in, an outcome out.

mod attribution;
mod decrypt;
mod encrypt;
mod failure;
mod gcm;
mod lookup;
mod test_key;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use cryptoki_sys::{CK_OBJECT_HANDLE, CKR_CRYPTOKI_NOT_INITIALIZED};

use super::attributes::today;
use super::breaker::KeyUse;
use super::errors::{CallError, Reaction};
use super::iv::IvSupply;
use super::keys::KnownKeys;
use super::messages::{MISBEHAVES, Messages};
use super::module::OpenSession;
use super::shared::Shared;
use super::token_keys::NO_KEYS_ANY_MORE;
use crate::key_manager::{
    Answer, Fault, Job, KeyDescription, KeyRef, KeyUsage, Outcome, Session, Task,
};
use failure::{Failure, in_time};
use gcm::Under;

/// A session on a token.
pub(super) struct HsmSession {
    session: OpenSession,
    /// The token asks for a login: without one it hides keys.
    needs_login: bool,
    shared: Arc<Shared>,
    known: KnownKeys,
    ivs: IvSupply,
    /// Ciphertext ‖ tag of a decryption: a buffer that is used again.
    sealed: Vec<u8>,
    /// Where the module's message interface works: what is begun in it.
    messages: Option<Messages>,
    /// AES-256, a session object: it never is on the token, and goes with the session.
    test_key: Option<CK_OBJECT_HANDLE>,
    usable: bool,
    /// [`KeyCache::version`](super::keys::KeyCache::version) when the session was found well.
    well_at: u64,
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
    ) -> Result<Answer, Failure> {
        match task {
            Task::Describe => Ok(Answer::Described(self.describe(label, deadline)?)),
            Task::Probe => {
                let key = self.probe_key(deadline)?;
                // A test key in memory works also where the token's own keys are gone.
                if self.shared.token_keys.has_keys() {
                    in_time(deadline)?;
                    self.look_for_any_key()?;
                }
                Ok(Answer::Probed(key))
            }
            Task::Encrypt { plaintext, aad, integrity } => {
                // A key that cannot decrypt cannot be made to prove its ciphertext: KMS's own test
                // client expects InvalidKeyUsageException from it when a CDIV is asked for.
                let usages: &[KeyUsage] = match integrity {
                    Some(_) => &[KeyUsage::Encrypt, KeyUsage::Decrypt],
                    None => &[KeyUsage::Encrypt],
                };
                let key = self.key(label, usages, deadline)?;
                let verified =
                    self.shared.verifies(Instant::now()) && self.allows(label, KeyUsage::Decrypt);
                let under = Under { key, label: Some(label) };
                self.encrypt(under, plaintext, aad, integrity.as_ref(), verified, deadline)
            }
            Task::Decrypt { ciphertext, iv, tag, aad } => {
                let key = self.key(label, &[KeyUsage::Decrypt], deadline)?;
                self.decrypt(label, key, ciphertext, iv, tag, aad, deadline)
            }
        }
    }

    fn describe(
        &mut self,
        label: &Arc<str>,
        deadline: Option<Instant>,
    ) -> Result<KeyDescription, Failure> {
        let mut description = self.look_at(label, deadline)?.attributes.describe(today());
        // What the module refuses whatever the attributes say.
        for (usage, key_use) in
            [(KeyUsage::Encrypt, KeyUse::Encrypt), (KeyUsage::Decrypt, KeyUse::Decrypt)]
        {
            if self.shared.breakers.refuses(label, key_use) {
                description.usage.remove(usage);
            }
        }
        Ok(description)
    }

    /// What a task uses its key for; nothing where the key's breaker does not matter.
    fn uses(&self, task: &Task) -> &'static [KeyUse] {
        match task {
            Task::Describe | Task::Probe => &[],
            Task::Encrypt { integrity: None, .. } if !self.shared.verifies(Instant::now()) => {
                &[KeyUse::Encrypt]
            }
            // What was encrypted is decrypted.
            Task::Encrypt { .. } => &[KeyUse::Encrypt, KeyUse::Decrypt],
            Task::Decrypt { .. } => &[KeyUse::Decrypt],
        }
    }

    fn reaction(&self, error: &CallError) -> Reaction {
        self.shared.profile.reaction(error)
    }

    /// A call failed that is about the session or the HSM, and about no customer's key.
    fn session_failed(&mut self, error: CallError) -> Fault {
        if error.is_of_messages() && MISBEHAVES.contains(&error.code) {
            self.shared.messages_misbehave.store(true, Ordering::Relaxed);
        }
        match self.reaction(&error) {
            Reaction::Busy | Reaction::BusyOrBadCiphertext => {
                self.shared.refused_good.record(Instant::now());
                Fault::Busy
            }
            Reaction::SessionLost | Reaction::LoginLost => {
                self.lose();
                self.let_go(&error);
                error.fault()
            }
            _ => self.broken(error.to_string()),
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

    /// The session is not used any further: it may be left with an operation unfinished.
    fn broken(&mut self, detail: String) -> Fault {
        self.usable = false;
        Fault::Device { detail }
    }

    /// What jobs are answered that the HSM is not to do.
    fn quarantined(&self) -> Fault {
        self.shared.quarantine.fault()
    }

    fn check_usable(&self) -> Result<(), Fault> {
        if self.is_usable() {
            return Ok(());
        }
        let why = match () {
            () if self.shared.token_keys.is_lost() => NO_KEYS_ANY_MORE,
            () if self.usable => {
                "the module has been initialised again since the session was opened"
            }
            () => "the session was lost",
        };
        Err(Fault::Device { detail: why.to_owned() })
    }
}

impl Session for HsmSession {
    fn execute(&mut self, job: Job) -> Outcome {
        let Job { key: KeyRef { label, .. }, task, deadline } = job;
        self.check_usable()?;
        let uses = self.uses(&task);
        self.shared.breakers.admit(&label, uses, Instant::now())?;
        let epoch = match task {
            // Tells nothing that the HSM computes.
            Task::Describe => None,
            _ => Some(self.leave_quarantine()?),
        };
        let mut result = self.attempt(&label, &task, Some(deadline));
        if let Err(Failure::Call(error)) = &result
            && self.reaction(error) == Reaction::KeyHandle
        {
            self.shared.keys.remove(&label);
            if let Task::Encrypt { .. } = task {
                // The first one may have been made.
                self.shared.unrequested.count(&label);
            }
            result = self.attempt(&label, &task, Some(deadline));
        }
        let outcome = result.map_err(|failure| self.settle(failure, &label, uses));
        if outcome.is_ok() {
            self.shared.breakers.succeeded(&label, uses, Instant::now());
        }
        match epoch {
            Some(epoch) => self.shared.quarantine.release(epoch, outcome),
            None => outcome,
        }
    }

    fn probe(&mut self) -> Result<(), Fault> {
        self.check_usable()?;
        self.witness("", None).map_err(|failure| self.settle_witness(failure))
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

    fn random(&mut self, bytes: &mut [u8]) -> Result<(), Fault> {
        let (functions, handle) = (&self.session.module.functions, self.session.handle());
        functions.generate_random(handle, bytes).map_err(|error| self.session_failed(error))
    }

    fn is_usable(&self) -> bool {
        self.usable && !self.session.is_stale() && !self.shared.token_keys.is_lost()
    }
}
