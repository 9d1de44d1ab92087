//! The module's function list, called directly: what the hot path needs, and what the `cryptoki` crate does not pass on.
//!
//! The only file of the crate's key managers with `unsafe`. Every function here takes slices and gives lengths back, so that no pointer
//! outlives a call.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::path::Path;
use std::ptr;

use cryptoki_sys::*;

use super::errors::{Call, CallError};

/// A PKCS#11 module's functions, as its C_GetFunctionList gave them.
pub(super) struct Functions {
    list: CK_FUNCTION_LIST,
}

/// CK_C_INITIALIZE_ARGS as NSS declares it: PKCS#11's pReserved is its parameter text, and one more pointer follows that it reads when
/// there is a text. The leading fields are the standard's, so every module may be given this.
#[repr(C)]
struct InitializeArgs {
    standard: CK_C_INITIALIZE_ARGS,
    nss_reserved: *mut c_void,
}

/// An attribute's value, as bytes.
type Bytes = Vec<u8>;

/// What became of one attribute: there, not there, or the module failed on it.
pub(super) type Value = Result<Option<Bytes>, CallError>;

/// Given instead of a dangling pointer where a text is empty: some modules refuse null, and a client library may read before it looks at
/// the length.
static EMPTY: [u8; 1] = [0];

/// A pointer a module may read `data.len()` bytes from. PKCS#11 declares inputs as mutable pointers; they are not written.
fn input(data: &[u8]) -> *mut CK_BYTE {
    if data.is_empty() { EMPTY.as_ptr().cast_mut() } else { data.as_ptr().cast_mut() }
}

impl Functions {
    /// Loads the library and asks it for its functions; the error is for the operator.
    pub(super) fn load(path: &Path) -> Result<Functions, String> {
        // SAFETY: loading runs the library's initialisers; the operator names the PKCS#11 module to be trusted in the configuration.
        let library = unsafe { libloading::Library::new(path) }.map_err(|error| error.to_string())?;
        let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
        {
            // SAFETY: PKCS#11 fixes the type of the symbol of this name.
            let get = unsafe { library.get::<unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV>(b"C_GetFunctionList\0") }
                .map_err(|_| "not a PKCS#11 module: no C_GetFunctionList".to_owned())?;
            // SAFETY: `list` is valid for the write of one pointer.
            let code = unsafe { get(&mut list) };
            if code != CKR_OK {
                return Err(CallError { call: Call::GetFunctionList, code }.to_string());
            }
        }
        if list.is_null() {
            return Err("C_GetFunctionList: no list".to_owned());
        }
        // SAFETY: the module answered CKR_OK with a pointer to its list, which every version of the standard begins with this structure.
        let list = unsafe { *list };
        // Never unloaded: the module may have threads of its own, and `list` points into it.
        std::mem::forget(library);
        Ok(Functions { list })
    }

    /// C_Initialize with native locking allowed; `parameters` go where NSS wants them.
    pub(super) fn initialize(&self, parameters: Option<&CStr>) -> Result<(), CallError> {
        let mut args = InitializeArgs {
            standard: CK_C_INITIALIZE_ARGS {
                flags: CKF_OS_LOCKING_OK,
                pReserved: parameters.map_or(ptr::null_mut(), |text| text.as_ptr().cast_mut().cast()),
                ..CK_C_INITIALIZE_ARGS::default()
            },
            nss_reserved: ptr::null_mut(),
        };
        let function = self.list.C_Initialize.ok_or(CallError::unsupported(Call::Initialize))?;
        // SAFETY: `args` begins with the standard's structure and lives through the call, as does the text.
        check(Call::Initialize, unsafe { function(ptr::from_mut(&mut args).cast()) })
    }

    /// C_Finalize.
    pub(super) fn finalize(&self) -> Result<(), CallError> {
        let function = self.list.C_Finalize.ok_or(CallError::unsupported(Call::Finalize))?;
        // SAFETY: the argument is reserved, and null.
        check(Call::Finalize, unsafe { function(ptr::null_mut()) })
    }

    /// C_EncryptInit and C_Encrypt with CKM_AES_GCM: ciphertext ‖ tag into `out`, their length returned. `iv` is the caller's, writable
    /// because some modules put another one there.
    pub(super) fn encrypt_gcm(
        &self,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
        iv: &mut [u8],
        aad: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CallError> {
        let init = self.list.C_EncryptInit.ok_or(CallError::unsupported(Call::EncryptInit))?;
        let encrypt = self.list.C_Encrypt.ok_or(CallError::unsupported(Call::Encrypt))?;
        let mut gcm = gcm(iv, aad);
        let mut mechanism = mechanism(&mut gcm);
        // SAFETY: mechanism, parameters, IV and AAD live to the end of this function, beyond both calls (a module may keep pointers to
        // them until C_Encrypt).
        check(Call::EncryptInit, unsafe { init(session, &mut mechanism, key) })?;
        let mut length = out.len() as CK_ULONG;
        // SAFETY: `data` is readable for its length, `out` writable for `length`, which says so.
        check(Call::Encrypt, unsafe { encrypt(session, input(data), data.len() as CK_ULONG, out.as_mut_ptr(), &mut length) })?;
        within(Call::Encrypt, length, out.len())
    }

    /// C_DecryptInit and C_Decrypt with CKM_AES_GCM: `data` is ciphertext ‖ tag; plaintext into `out`, its length returned.
    pub(super) fn decrypt_gcm(
        &self,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
        iv: &[u8],
        aad: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CallError> {
        let init = self.list.C_DecryptInit.ok_or(CallError::unsupported(Call::DecryptInit))?;
        let decrypt = self.list.C_Decrypt.ok_or(CallError::unsupported(Call::Decrypt))?;
        // A copy, since the standard's pointer is mutable and the caller's IV is not ours to have overwritten.
        let mut iv = iv.to_vec();
        let mut gcm = gcm(&mut iv, aad);
        let mut mechanism = mechanism(&mut gcm);
        // SAFETY: mechanism, parameters, IV and AAD live to the end of this function, beyond both calls.
        check(Call::DecryptInit, unsafe { init(session, &mut mechanism, key) })?;
        let mut length = out.len() as CK_ULONG;
        // SAFETY: `data` is readable for its length, `out` writable for `length`, which says so.
        check(Call::Decrypt, unsafe { decrypt(session, input(data), data.len() as CK_ULONG, out.as_mut_ptr(), &mut length) })?;
        within(Call::Decrypt, length, out.len())
    }

    /// C_GenerateRandom: fills `out`.
    pub(super) fn generate_random(&self, session: CK_SESSION_HANDLE, out: &mut [u8]) -> Result<(), CallError> {
        let function = self.list.C_GenerateRandom.ok_or(CallError::unsupported(Call::GenerateRandom))?;
        // SAFETY: `out` is writable for the length given.
        check(Call::GenerateRandom, unsafe { function(session, out.as_mut_ptr(), out.len() as CK_ULONG) })
    }

    /// C_GetAttributeValue of several attributes (type and the most bytes expected of it). One that the object does not have, does not
    /// show, or that is longer, is `None`; a module may also fail on single ones.
    pub(super) fn attributes(
        &self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        wanted: &[(CK_ATTRIBUTE_TYPE, usize)],
    ) -> Result<Vec<Value>, CallError> {
        match self.attributes_once(session, object, wanted) {
            Ok((values, true)) => return Ok(values.into_iter().map(Ok).collect()),
            // The standard has a module go on after an attribute it does not know; not every one does. SoftHSM 2.6 fails as a whole over
            // the dates of private keys, which it stores in clear and decrypts when asked for them. Then one by one.
            Ok((_, false)) | Err(CallError { code: CKR_GENERAL_ERROR, .. }) => {}
            Err(error) => return Err(error),
        }
        let one = |one| self.attributes_once(session, object, &[one]).map(|(mut value, _)| value.pop().flatten());
        Ok(wanted.iter().copied().map(one).collect())
    }

    /// The values, and whether the module had no reservations about any of them.
    fn attributes_once(
        &self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        wanted: &[(CK_ATTRIBUTE_TYPE, usize)],
    ) -> Result<(Vec<Option<Bytes>>, bool), CallError> {
        let function = self.list.C_GetAttributeValue.ok_or(CallError::unsupported(Call::GetAttributeValue))?;
        let mut buffers: Vec<Vec<u8>> = wanted.iter().map(|(_, bytes_max)| vec![0; *bytes_max]).collect();
        let mut template: Vec<CK_ATTRIBUTE> = wanted
            .iter()
            .zip(&mut buffers)
            .map(|((type_, bytes_max), buffer)| CK_ATTRIBUTE {
                type_: *type_,
                pValue: buffer.as_mut_ptr().cast(),
                ulValueLen: *bytes_max as CK_ULONG,
            })
            .collect();
        // SAFETY: the template holds `template.len()` attributes, each with a buffer writable for its ulValueLen; both live through the call.
        let code = unsafe { function(session, object, template.as_mut_ptr(), template.len() as CK_ULONG) };
        match code {
            CKR_OK | CKR_ATTRIBUTE_SENSITIVE | CKR_ATTRIBUTE_TYPE_INVALID | CKR_BUFFER_TOO_SMALL => {}
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

fn gcm(iv: &mut [u8], aad: &[u8]) -> CK_GCM_PARAMS {
    CK_GCM_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: iv.len() as CK_ULONG,
        ulIvBits: (iv.len() * 8) as CK_ULONG,
        pAAD: if aad.is_empty() { ptr::null_mut() } else { aad.as_ptr().cast_mut() },
        ulAADLen: aad.len() as CK_ULONG,
        ulTagBits: (crate::limits::TAG_BYTES * 8) as CK_ULONG,
    }
}

fn mechanism(gcm: &mut CK_GCM_PARAMS) -> CK_MECHANISM {
    CK_MECHANISM { mechanism: CKM_AES_GCM, pParameter: ptr::from_mut(gcm).cast(), ulParameterLen: size_of::<CK_GCM_PARAMS>() as CK_ULONG }
}

fn check(call: Call, code: CK_RV) -> Result<(), CallError> {
    if code == CKR_OK { Ok(()) } else { Err(CallError { call, code }) }
}

/// A module that claims to have written more than there was room for has not ended its operation, whatever it says.
fn within(call: Call, length: CK_ULONG, room: usize) -> Result<usize, CallError> {
    usize::try_from(length).ok().filter(|length| *length <= room).ok_or(CallError { call, code: CKR_BUFFER_TOO_SMALL })
}
