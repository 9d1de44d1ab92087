//! Keys found on the token, shared by the sessions of an engine.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use cryptoki::object::{Attribute, ObjectClass};
use cryptoki_sys::CK_OBJECT_HANDLE;

use super::attributes::Attributes;
use super::errors::{Call, CallError};
use super::module::OpenSession;

/// A key as it was found.
pub(super) struct Key {
    pub(super) handle: CK_OBJECT_HANDLE,
    pub(super) attributes: Attributes,
    /// When the attributes were read.
    pub(super) read_at: Instant,
}

/// Why a key was not found.
pub(super) enum NoKey {
    /// A call failed.
    Call(CallError),
    /// For the operator: none or several.
    Choice(String),
}

/// Handles and attributes by label.
#[derive(Default)]
pub(super) struct KeyCache {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    keys: HashMap<Arc<str>, Arc<Key>>,
    /// Counts [`KeyCache::clear`].
    epoch: u64,
}

impl KeyCache {
    pub(super) fn get(&self, label: &str) -> Option<Arc<Key>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).keys.get(label).cloned()
    }

    /// To be asked before a key is looked up that [`KeyCache::insert`] shall take.
    pub(super) fn epoch(&self) -> u64 {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).epoch
    }

    /// Keeps the key, unless all handles have been declared void since `epoch`.
    pub(super) fn insert(&self, label: &Arc<str>, key: &Arc<Key>, epoch: u64) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if inner.epoch == epoch {
            inner.keys.insert(label.clone(), key.clone());
        }
    }

    pub(super) fn remove(&self, label: &str) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).keys.remove(label);
    }

    /// All handles are void: after a lost login or session the same number may be another key's.
    pub(super) fn clear(&self) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.keys.clear();
        inner.epoch += 1;
    }
}

/// Finds the one secret key of that label on the token.
pub(super) fn find(session: &OpenSession, label: &str) -> Result<Key, NoKey> {
    // CKA_TOKEN: the session test keys of this very process are no candidates.
    let template = [Attribute::Token(true), Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(label.as_bytes().to_vec())];
    let handles = all(session, &template).map_err(NoKey::Call)?;
    match handles[..] {
        [handle] => read(session, handle).map_err(NoKey::Call),
        [] => Err(NoKey::Choice(format!("no secret key labelled \"{label}\" on the token"))),
        _ => Err(NoKey::Choice(format!(
            "{} secret keys labelled \"{label}\" on the token: which of them is meant cannot be known",
            handles.len()
        ))),
    }
}

/// All secret keys of the token, also those the module cannot tell everything of.
pub(super) fn find_all(session: &OpenSession) -> Result<Vec<Key>, CallError> {
    let template = [Attribute::Token(true), Attribute::Class(ObjectClass::SECRET_KEY)];
    all(session, &template)?.into_iter().map(|handle| read_what_can_be(session, handle)).collect()
}

/// The key of a known handle, with all its attributes.
pub(super) fn read(session: &OpenSession, handle: CK_OBJECT_HANDLE) -> Result<Key, CallError> {
    let key = read_what_can_be(session, handle)?;
    // A date that cannot be read is a fault, neither a key without one nor a disabled key.
    key.attributes.unreadable.map_or(Ok(key), Err)
}

fn read_what_can_be(session: &OpenSession, handle: CK_OBJECT_HANDLE) -> Result<Key, CallError> {
    // Before the call: a change made during it is not missed by the next look.
    let read_at = Instant::now();
    let attributes = Attributes::read(&session.module.functions, session.handle(), handle)?;
    Ok(Key { handle, attributes, read_at })
}

fn all(session: &OpenSession, template: &[Attribute]) -> Result<Vec<CK_OBJECT_HANDLE>, CallError> {
    session
        .set_up(Call::FindObjects)?
        .find_objects(template)
        .map(|objects| objects.iter().map(|object| object.handle()).collect())
        .map_err(|error| CallError::from_cryptoki(Call::FindObjects, &error))
}
