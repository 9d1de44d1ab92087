//! Reading an object's attributes.

use cryptoki_sys::*;

use super::Functions;
use crate::key_manager::pkcs11::errors::{Call, CallError};

/// An attribute's value, as bytes.
type Bytes = Vec<u8>;

/// What became of one attribute: there, not there, or the module failed on it.
pub(in super::super) type Value = Result<Option<Bytes>, CallError>;

impl Functions {
    /// C_GetAttributeValue of several attributes (type and the most bytes expected of it). One that
    /// the object does not have, does not show, or that is longer, is `None`; a module may also
    /// fail on single ones.
    pub(in super::super) fn attributes(
        &self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        wanted: &[(CK_ATTRIBUTE_TYPE, usize)],
    ) -> Result<Vec<Value>, CallError> {
        match self.attributes_once(session, object, wanted) {
            Ok((values, true)) => return Ok(values.into_iter().map(Ok).collect()),
            // The standard has a module go on after an attribute it does not know; not every one
            // does. SoftHSM 2.6 fails as a whole over the dates of private keys, which it stores in
            // clear and decrypts when asked for them. Then one by one.
            Ok((_, false)) | Err(CallError { code: CKR_GENERAL_ERROR, .. }) => {}
            Err(error) => return Err(error),
        }
        let one = |one| {
            self.attributes_once(session, object, &[one])
                .map(|(mut value, _)| value.pop().flatten())
        };
        Ok(wanted.iter().copied().map(one).collect())
    }

    /// The values, and whether the module had no reservations about any of them.
    fn attributes_once(
        &self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        wanted: &[(CK_ATTRIBUTE_TYPE, usize)],
    ) -> Result<(Vec<Option<Bytes>>, bool), CallError> {
        let function =
            self.list.C_GetAttributeValue.ok_or(CallError::unsupported(Call::GetAttributeValue))?;
        let mut buffers: Vec<Vec<u8>> =
            wanted.iter().map(|(_, bytes_max)| vec![0; *bytes_max]).collect();
        let mut template: Vec<CK_ATTRIBUTE> = wanted
            .iter()
            .zip(&mut buffers)
            .map(|((type_, bytes_max), buffer)| CK_ATTRIBUTE {
                type_: *type_,
                pValue: buffer.as_mut_ptr().cast(),
                ulValueLen: *bytes_max as CK_ULONG,
            })
            .collect();
        // SAFETY: the template holds `template.len()` attributes, each with a buffer writable for
        // its ulValueLen; both live through the call.
        let code =
            unsafe { function(session, object, template.as_mut_ptr(), template.len() as CK_ULONG) };
        match code {
            CKR_OK
            | CKR_ATTRIBUTE_SENSITIVE
            | CKR_ATTRIBUTE_TYPE_INVALID
            | CKR_BUFFER_TOO_SMALL => {}
            _ => return Err(CallError { call: Call::GetAttributeValue, code }),
        }
        let refused = code != CKR_OK && wanted.len() == 1;
        let values = template
            .iter()
            .zip(buffers)
            .map(|(attribute, mut buffer)| {
                let length = usize::try_from(attribute.ulValueLen).unwrap_or(usize::MAX);
                // CK_UNAVAILABLE_INFORMATION is the largest number, so it falls out here too.
                if refused || length > buffer.len() {
                    return None;
                }
                buffer.truncate(length);
                Some(buffer)
            })
            .collect();
        Ok((values, code == CKR_OK))
    }
}
