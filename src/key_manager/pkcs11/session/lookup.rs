//! The job's key: from what is known, or by a search on the token.

use std::sync::Arc;
use std::time::Instant;

use cryptoki_sys::CK_OBJECT_HANDLE;

use super::super::attributes::today;
use super::super::errors::Reaction;
use super::super::keys::Key;
use super::super::search::{self, NoKey};
use super::super::token_keys::NO_KEYS_ANY_MORE;
use super::HsmSession;
use super::failure::{Failure, in_time};
use crate::key_manager::{Fault, KeyUsage};
use crate::limits::{KEY_ATTRIBUTES_AGE_MAX, KEY_REFUSAL_AGE_MAX};

/// Whether the key may do all of `usages` today.
pub(super) fn permit(key: &Key, usages: &[KeyUsage]) -> Result<(), Fault> {
    if !key.attributes.is_undated() && !key.attributes.is_enabled(today()) {
        return Err(Fault::KeyDisabled);
    }
    if !key.attributes.is_aes_256() || !usages.iter().all(|usage| key.attributes.allows(*usage)) {
        return Err(Fault::KeyUsage);
    }
    Ok(())
}

impl HsmSession {
    /// The key, known or looked up, if it may do `usages`.
    pub(super) fn key(
        &mut self,
        label: &Arc<str>,
        usages: &[KeyUsage],
        deadline: Option<Instant>,
    ) -> Result<CK_OBJECT_HANDLE, Failure> {
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
        let read = search::read(&self.session, handle).inspect_err(|error| {
            if !matches!(self.reaction(error), Reaction::SessionLost | Reaction::LoginLost) {
                // It was the handle's fault, then.
                self.shared.keys.forget_doubted(label);
            }
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

    /// Whether the attributes of a key that is known allow `usage`.
    pub(super) fn allows(&mut self, label: &Arc<str>, usage: KeyUsage) -> bool {
        let known = self.known.get(&self.shared.keys, label);
        known.is_some_and(|known| known.attributes.allows(usage))
    }

    fn look_up_for(
        &mut self,
        label: &Arc<str>,
        usages: &[KeyUsage],
        deadline: Option<Instant>,
    ) -> Result<CK_OBJECT_HANDLE, Failure> {
        let found = self.look_up(label, deadline)?;
        permit(&found, usages)?;
        Ok(found.handle)
    }

    /// The key with its attributes as they are now: by its handle (one call) if that is known, or
    /// by a search.
    pub(super) fn look_at(
        &mut self,
        label: &Arc<str>,
        deadline: Option<Instant>,
    ) -> Result<Key, Failure> {
        let known = self.known.get(&self.shared.keys, label).map(|known| known.handle);
        let Some(handle) = known.or_else(|| self.shared.keys.doubted(label)) else {
            return self.look_up(label, deadline);
        };
        in_time(deadline)?;
        let version = self.shared.keys.version();
        let read = search::read(&self.session, handle)?;
        if read.attributes.label != label.as_bytes() {
            return self.look_up(label, deadline);
        }
        self.shared.keys.insert(label, &read, version);
        self.known.renew(&self.shared.keys, label);
        Ok(read)
    }

    /// Searches the token.
    pub(super) fn look_up(
        &mut self,
        label: &Arc<str>,
        deadline: Option<Instant>,
    ) -> Result<Key, Failure> {
        if let Some(detail) = self.shared.keys.missing(label, Instant::now()) {
            return Err(Fault::KeyNotFound { detail }.into());
        }
        in_time(deadline)?;
        let version = self.shared.keys.version();
        match search::find(&self.session, label) {
            Ok(key) => {
                self.shared.keys.insert(label, &key, version);
                self.shared.token_keys.shows_keys();
                Ok(key)
            }
            Err(NoKey::Call(error)) => Err(error.into()),
            Err(NoKey::Several(detail)) => Err(self.missing(label, detail)),
            Err(NoKey::None(detail)) => {
                self.shared.keys.remove(label);
                // One key that is missing among others was deleted.
                self.look_for_any_key()?;
                Err(self.missing(label, detail))
            }
        }
    }

    fn missing(&mut self, label: &Arc<str>, detail: String) -> Failure {
        self.shared.keys.remove(label);
        self.shared.keys.insert_missing(label, &detail, Instant::now());
        Fault::KeyNotFound { detail }.into()
    }

    /// Fails when the token shows no key although it should: the login is lost, or its keys
    /// are away.
    pub(super) fn look_for_any_key(&mut self) -> Result<(), Fault> {
        if self.shared.token_keys.had_keys() && (self.shows_known_key()? || self.shows_any_key()?) {
            self.shared.token_keys.shows_keys();
            return Ok(());
        }
        // A token that lost its login shows no private objects and calls that success.
        if self.needs_login
            && !self.session.is_logged_in().map_err(|error| self.session_failed(error))?
        {
            self.lose();
            return Err(Fault::Device {
                detail: "C_FindObjects: the session is no longer logged in".to_owned(),
            });
        }
        if self.shared.token_keys.shows_none(self.session.generation, Instant::now()) {
            self.lose();
            self.session.module.doubt();
            return Err(Fault::Device { detail: NO_KEYS_ANY_MORE.to_owned() });
        }
        Ok(())
    }

    /// Whether a key that was found once is still there, whichever: one call, where a search has
    /// some modules look at all keys.
    fn shows_known_key(&mut self) -> Result<bool, Fault> {
        let Some(handle) = self.shared.keys.any_handle() else { return Ok(false) };
        match search::is_secret_key(&self.session, handle) {
            Ok(shows) => Ok(shows),
            Err(error) => match self.reaction(&error) {
                Reaction::SessionLost | Reaction::LoginLost | Reaction::Busy => {
                    Err(self.session_failed(error))
                }
                // Of this key, perhaps.
                _ => Ok(false),
            },
        }
    }

    fn shows_any_key(&mut self) -> Result<bool, Fault> {
        search::any(&self.session).map_err(|error| self.session_failed(error))
    }
}
