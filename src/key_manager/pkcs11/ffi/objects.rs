//! Objects: found and made.

use std::ptr;

use cryptoki_sys::*;

use super::{Functions, check};
use crate::key_manager::pkcs11::errors::{Call, CallError};
use crate::limits::OBJECTS_A_CALL;

/// An attribute's type and its value as the module reads it.
pub(in super::super) type Wanted<'a> = (CK_ATTRIBUTE_TYPE, &'a [u8]);

/// CK_TRUE and CK_FALSE as an attribute's value.
pub(in super::super) const TRUE: &[u8] = &[CK_TRUE];
pub(in super::super) const FALSE: &[u8] = &[CK_FALSE];

/// Values are given as mutable pointers because the standard has them so; neither a search nor the
/// making of a key writes them.
fn template(wanted: &[Wanted<'_>]) -> Vec<CK_ATTRIBUTE> {
    wanted
        .iter()
        .map(|(type_, value)| CK_ATTRIBUTE {
            type_: *type_,
            pValue: value.as_ptr().cast_mut().cast(),
            ulValueLen: value.len() as CK_ULONG,
        })
        .collect()
}

impl Functions {
    /// C_FindObjectsInit, C_FindObjects and C_FindObjectsFinal: the first `at_most` objects that
    /// fit. There may be more: a module that gives handles without end costs no more than these.
    pub(in super::super) fn find_objects(
        &self,
        session: CK_SESSION_HANDLE,
        wanted: &[Wanted<'_>],
        at_most: usize,
    ) -> Result<Vec<CK_OBJECT_HANDLE>, CallError> {
        let unsupported = CallError::unsupported(Call::FindObjects);
        let init = self.list.C_FindObjectsInit.ok_or(unsupported)?;
        let find = self.list.C_FindObjects.ok_or(unsupported)?;
        let end = self.list.C_FindObjectsFinal.ok_or(unsupported)?;
        let mut template = template(wanted);
        // SAFETY: the template holds as many attributes as said, each with a value readable for its
        // length; both live through the call.
        check(Call::FindObjects, unsafe {
            init(session, template.as_mut_ptr(), template.len() as CK_ULONG)
        })?;
        let mut found = Vec::new();
        let result = loop {
            let capacity = OBJECTS_A_CALL.min(at_most - found.len());
            if capacity == 0 {
                break Ok(());
            }
            let (mut handles, mut count) = ([0; OBJECTS_A_CALL], 0);
            // SAFETY: `handles` is writable for `capacity` handles, `count` for their number.
            let code =
                unsafe { find(session, handles.as_mut_ptr(), capacity as CK_ULONG, &mut count) };
            if let Err(error) = check(Call::FindObjects, code) {
                break Err(error);
            }
            // More than there was room for were not written.
            let count = usize::try_from(count).unwrap_or(capacity).min(capacity);
            if count == 0 {
                break Ok(());
            }
            found.extend_from_slice(&handles[..count]);
        };
        // SAFETY: takes a number.
        let ended = check(Call::FindObjects, unsafe { end(session) });
        // A search that failed may have ended by itself.
        result.and(ended).map(|()| found)
    }

    /// C_GenerateKey with CKM_AES_KEY_GEN.
    pub(in super::super) fn generate_aes_key(
        &self,
        session: CK_SESSION_HANDLE,
        attributes: &[Wanted<'_>],
    ) -> Result<CK_OBJECT_HANDLE, CallError> {
        let function = self.list.C_GenerateKey.ok_or(CallError::unsupported(Call::GenerateKey))?;
        let mut mechanism = CK_MECHANISM {
            mechanism: CKM_AES_KEY_GEN,
            pParameter: ptr::null_mut(),
            ulParameterLen: 0,
        };
        let mut template = template(attributes);
        let mut key = CK_INVALID_HANDLE;
        // SAFETY: mechanism and template with its values live through the call; `key` is writable.
        check(Call::GenerateKey, unsafe {
            function(
                session,
                &mut mechanism,
                template.as_mut_ptr(),
                template.len() as CK_ULONG,
                &mut key,
            )
        })?;
        Ok(key)
    }
}
