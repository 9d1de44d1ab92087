//! Keys on the token: found, and their attributes read.

use std::time::Instant;

use cryptoki_sys::*;

use super::attributes::Attributes;
use super::errors::{Call, CallError};
use super::ffi::objects::{TRUE, Wanted};
use super::keys::Key;
use super::module::OpenSession;
use crate::key_manager::Fault;
use crate::key_manager::listing::{no_key, several_keys};
use crate::limits::{KEYS_OF_A_LABEL_MAX, TOKEN_KEYS_MAX};

/// Why a key was not found.
pub(super) enum NoKey {
    /// A call failed.
    Call(CallError),
    /// For the operator: there is none of that label.
    None(String),
    /// For the operator: there are several.
    Several(String),
}

/// Every secret key on the token. CKA_TOKEN: the session test keys of this very process are no
/// candidates.
const SECRET_KEYS: [Wanted; 2] = [(CKA_TOKEN, TRUE), (CKA_CLASS, &CKO_SECRET_KEY.to_ne_bytes())];

/// Finds the one secret key of that label on the token.
pub(super) fn find(session: &OpenSession, label: &str) -> Result<Key, NoKey> {
    let [token, class] = SECRET_KEYS;
    let template = [token, class, (CKA_LABEL, label.as_bytes())];
    let handles = search(session, &template, KEYS_OF_A_LABEL_MAX).map_err(NoKey::Call)?;
    match handles[..] {
        [handle] => read(session, handle).map_err(NoKey::Call),
        [] => Err(NoKey::None(no_key(label))),
        _ => Err(NoKey::Several(several_keys(label, handles.len()))),
    }
}

/// Whether the token shows a secret key, whichever.
pub(super) fn any(session: &OpenSession) -> Result<bool, CallError> {
    search(session, &SECRET_KEYS, 1).map(|found| !found.is_empty())
}

/// The handles of all secret keys of the token.
pub(super) fn all(session: &OpenSession) -> Result<Vec<CK_OBJECT_HANDLE>, Fault> {
    // One more than are taken: whether there are more.
    let handles =
        search(session, &SECRET_KEYS, TOKEN_KEYS_MAX + 1).map_err(|error| error.fault())?;
    if handles.len() > TOKEN_KEYS_MAX {
        let detail = format!("C_FindObjects: the token shows more than {TOKEN_KEYS_MAX} keys");
        return Err(Fault::Device { detail });
    }
    Ok(handles)
}

/// Whether the handle is a secret key's, of those that the token shows.
pub(super) fn is_secret_key(
    session: &OpenSession,
    handle: CK_OBJECT_HANDLE,
) -> Result<bool, CallError> {
    let wanted = [(CKA_CLASS, size_of::<CK_OBJECT_CLASS>())];
    let values = session.module.functions.attributes(session.handle(), handle, &wanted)?;
    let class = values.into_iter().next().and_then(|value| value.ok()?);
    Ok(class.as_deref() == Some(&CKO_SECRET_KEY.to_ne_bytes()))
}

/// The key of a known handle, with all its attributes.
pub(super) fn read(session: &OpenSession, handle: CK_OBJECT_HANDLE) -> Result<Key, CallError> {
    let key = read_what_can_be(session, handle)?;
    // A date that cannot be read is a fault, neither a key without one nor a disabled key.
    key.attributes.unreadable.map_or(Ok(key), |unreadable| Err(unreadable.error))
}

/// The key of a known handle, also if the module cannot tell everything of it.
pub(super) fn read_what_can_be(
    session: &OpenSession,
    handle: CK_OBJECT_HANDLE,
) -> Result<Key, CallError> {
    // Before the call: a change made during it is not missed by the next look.
    let read_at = Instant::now();
    let attributes = Attributes::read(&session.module.functions, session.handle(), handle)?;
    Ok(Key { handle, attributes, read_at })
}

fn search(
    session: &OpenSession,
    wanted: &[Wanted<'_>],
    at_most: usize,
) -> Result<Vec<CK_OBJECT_HANDLE>, CallError> {
    let (functions, handle) = session.set_up(Call::FindObjects)?;
    functions.find_objects(handle, wanted, at_most)
}
