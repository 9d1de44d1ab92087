//! The module's function list, called directly.
//!
//! There is one list for each module: p11-kit's modules make another instance of the library with
//! each C_GetFunctionList, and only the one that was initialised works.
//!
//! The only place of the key managers with `unsafe`. Every function here takes slices and
//! gives lengths back, so that no pointer outlives a call.

#![allow(unsafe_code)]

pub(super) mod attributes;
pub(super) mod objects;
pub(super) mod token;

use std::ffi::{CStr, c_void};
use std::path::Path;
use std::ptr;

use cryptoki_sys::*;

use super::errors::{Call, CallError};
use crate::limits::{IV_BYTES_MAX, TAG_BYTES};

/// A PKCS#11 module's functions, as its C_GetFunctionList gave them.
pub(super) struct Functions {
    list: CK_FUNCTION_LIST,
    messages: Option<MessageFunctions>,
}

/// PKCS#11 3.0's message interface.
struct MessageFunctions {
    encrypt: MessageDirection,
    decrypt: MessageDirection,
}

/// One direction of it; C_EncryptMessage and C_DecryptMessage have one type.
struct MessageDirection {
    init: unsafe extern "C" fn(CK_SESSION_HANDLE, *mut CK_MECHANISM, CK_OBJECT_HANDLE) -> CK_RV,
    message: Message,
    end: unsafe extern "C" fn(CK_SESSION_HANDLE) -> CK_RV,
}

type Message = unsafe extern "C" fn(
    CK_SESSION_HANDLE,
    *mut c_void,
    CK_ULONG,
    *mut CK_BYTE,
    CK_ULONG,
    *mut CK_BYTE,
    CK_ULONG,
    *mut CK_BYTE,
    *mut CK_ULONG,
) -> CK_RV;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageKind {
    Encrypt,
    Decrypt,
}

/// The message interface, if the module itself has one. The dynamic linker also finds a
/// C_GetInterface in what the module is linked to: its functions are not the module's, and know
/// nothing of its sessions. So the module's own C_EncryptInit must be in the list, too.
fn message_functions(
    library: &libloading::Library,
    own: &CK_FUNCTION_LIST,
) -> Option<MessageFunctions> {
    type GetInterface = unsafe extern "C" fn(
        *mut CK_UTF8CHAR,
        *mut CK_VERSION,
        *mut *mut CK_INTERFACE,
        CK_FLAGS,
    ) -> CK_RV;
    // SAFETY: PKCS#11 3.0 fixes the type of the symbol of this name.
    let get = unsafe { library.get::<GetInterface>(b"C_GetInterface\0") }.ok()?;
    let mut version = CK_VERSION { major: 3, minor: 0 };
    let mut interface: *mut CK_INTERFACE = ptr::null_mut();
    // SAFETY: a name that ends with NUL, a version, and room for one pointer, all alive during the
    // call; names are not written.
    let code =
        unsafe { get(c"PKCS 11".as_ptr().cast_mut().cast(), &mut version, &mut interface, 0) };
    // SAFETY: after CKR_OK it is null or points to the interface, which lives as long as the
    // module.
    let interface = unsafe { interface.as_ref() }.filter(|_| code == CKR_OK)?;
    // SAFETY: as the interface of version 3.0 was asked for, its list is this one; it lives as long
    // as the module.
    let list = unsafe { interface.pFunctionList.cast::<CK_FUNCTION_LIST_3_0>().as_ref() }
        .filter(|list| list.version.major == 3)?;
    let same = |one: Option<usize>, other: Option<usize>| one.is_some() && one == other;
    if !same(
        list.C_EncryptInit.map(|function| function as usize),
        own.C_EncryptInit.map(|function| function as usize),
    ) {
        return None;
    }
    Some(MessageFunctions {
        encrypt: MessageDirection {
            init: list.C_MessageEncryptInit?,
            message: list.C_EncryptMessage?,
            end: list.C_MessageEncryptFinal?,
        },
        decrypt: MessageDirection {
            init: list.C_MessageDecryptInit?,
            message: list.C_DecryptMessage?,
            end: list.C_MessageDecryptFinal?,
        },
    })
}

/// CK_C_INITIALIZE_ARGS as NSS declares it: PKCS#11's pReserved is its parameter text, and one more
/// pointer follows that it reads when there is a text. The leading fields are the standard's, so
/// every module may be given this.
#[repr(C)]
struct InitializeArgs {
    standard: CK_C_INITIALIZE_ARGS,
    nss_reserved: *mut c_void,
}

/// Given instead of a dangling pointer where a text is empty: some modules refuse null, and a
/// client library may read before it looks at the length.
static EMPTY: [u8; 1] = [0];

/// A pointer a module may read `data.len()` bytes from. PKCS#11 declares inputs as mutable
/// pointers; they are not written.
fn input(data: &[u8]) -> *mut CK_BYTE {
    if data.is_empty() { EMPTY.as_ptr().cast_mut() } else { data.as_ptr().cast_mut() }
}

impl Functions {
    /// Loads the library and asks it for its functions; the error is for the operator.
    pub(super) fn load(path: &Path) -> Result<Functions, String> {
        // SAFETY: loading runs the library's initialisers; the operator names the PKCS#11 module to
        // be trusted in the configuration.
        let library =
            unsafe { libloading::Library::new(path) }.map_err(|error| error.to_string())?;
        let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
        {
            // SAFETY: PKCS#11 fixes the type of the symbol of this name.
            let get = unsafe {
                library.get::<unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV>(
                    b"C_GetFunctionList\0",
                )
            }
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
        // SAFETY: the module answered CKR_OK with a pointer to its list, which every version of the
        // standard begins with this structure.
        let list = unsafe { *list };
        let messages = message_functions(&library, &list);
        // Never unloaded: the module may have its own threads, and `list` points into it.
        std::mem::forget(library);
        Ok(Functions { list, messages })
    }

    /// C_Initialize with native locking allowed; `parameters` go where NSS wants them.
    pub(super) fn initialize(&self, parameters: Option<&CStr>) -> Result<(), CallError> {
        let mut args = InitializeArgs {
            standard: CK_C_INITIALIZE_ARGS {
                flags: CKF_OS_LOCKING_OK,
                pReserved: parameters
                    .map_or(ptr::null_mut(), |text| text.as_ptr().cast_mut().cast()),
                ..CK_C_INITIALIZE_ARGS::default()
            },
            nss_reserved: ptr::null_mut(),
        };
        let function = self.list.C_Initialize.ok_or(CallError::unsupported(Call::Initialize))?;
        // SAFETY: `args` begins with the standard's structure and lives through the call, as does
        // the text.
        check(Call::Initialize, unsafe { function(ptr::from_mut(&mut args).cast()) })
    }

    /// C_Finalize. No thread may be inside the module, nor come in until [`Functions::initialize`]
    /// has returned: the standard leaves open what happens then.
    pub(super) fn finalize(&self) -> Result<(), CallError> {
        let function = self.list.C_Finalize.ok_or(CallError::unsupported(Call::Finalize))?;
        // SAFETY: the reserved argument is null, as the standard demands; the caller keeps all
        // others out.
        check(Call::Finalize, unsafe { function(ptr::null_mut()) })
    }

    /// C_EncryptInit and C_Encrypt with CKM_AES_GCM: ciphertext ‖ tag into `out`, with what the
    /// module appends; the length of all returned. `iv` is writable because some modules put theirs
    /// there; empty, it is given as null.
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
        // SAFETY: mechanism, parameters, IV and AAD live to the end of this function, beyond both
        // calls (a module may keep pointers to them until C_Encrypt).
        check(Call::EncryptInit, unsafe { init(session, &mut mechanism, key) })?;
        let mut length = out.len() as CK_ULONG;
        // SAFETY: `data` is readable for its length, `out` writable for `length`, which says so.
        check(Call::Encrypt, unsafe {
            encrypt(session, input(data), data.len() as CK_ULONG, out.as_mut_ptr(), &mut length)
        })?;
        within(Call::Encrypt, length, out.len())
    }

    /// C_DecryptInit and C_Decrypt with CKM_AES_GCM: `data` is ciphertext ‖ tag; plaintext into
    /// `out`, its length returned.
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
        // A copy, since the standard's pointer is mutable and the caller's IV is not ours to have
        // overwritten.
        let mut copy = [0; IV_BYTES_MAX];
        let copy = copy
            .get_mut(..iv.len())
            .ok_or(CallError { call: Call::DecryptInit, code: CKR_MECHANISM_PARAM_INVALID })?;
        copy.copy_from_slice(iv);
        let mut gcm = gcm(copy, aad);
        let mut mechanism = mechanism(&mut gcm);
        // SAFETY: mechanism, parameters, IV and AAD live to the end of this function, beyond both
        // calls.
        check(Call::DecryptInit, unsafe { init(session, &mut mechanism, key) })?;
        let mut length = out.len() as CK_ULONG;
        // SAFETY: `data` is readable for its length, `out` writable for `length`, which says so.
        check(Call::Decrypt, unsafe {
            decrypt(session, input(data), data.len() as CK_ULONG, out.as_mut_ptr(), &mut length)
        })?;
        within(Call::Decrypt, length, out.len())
    }

    /// Whether the module has PKCS#11 3.0's message interface.
    pub(super) fn has_messages(&self) -> bool {
        self.messages.is_some()
    }

    fn message_direction(&self, kind: MessageKind) -> Option<(&MessageDirection, Call, Call)> {
        let messages = self.messages.as_ref()?;
        Some(match kind {
            MessageKind::Encrypt => {
                (&messages.encrypt, Call::MessageEncryptInit, Call::EncryptMessage)
            }
            MessageKind::Decrypt => {
                (&messages.decrypt, Call::MessageDecryptInit, Call::DecryptMessage)
            }
        })
    }

    /// C_MessageEncryptInit or C_MessageDecryptInit with CKM_AES_GCM: messages under `key` from now
    /// on.
    pub(super) fn begin_messages(
        &self,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
        kind: MessageKind,
    ) -> Result<(), CallError> {
        let (direction, call, _) =
            self.message_direction(kind).ok_or(CallError::unsupported(Call::MessageEncryptInit))?;
        // The parameters come with each message.
        let mut mechanism =
            CK_MECHANISM { mechanism: CKM_AES_GCM, pParameter: ptr::null_mut(), ulParameterLen: 0 };
        // SAFETY: the mechanism lives through the call, and has no parameters.
        check(call, unsafe { (direction.init)(session, &mut mechanism, key) })
    }

    /// C_MessageEncryptFinal or C_MessageDecryptFinal. What it says does not matter: there may be
    /// nothing to end.
    pub(super) fn end_messages(&self, session: CK_SESSION_HANDLE, kind: MessageKind) {
        if let Some((direction, ..)) = self.message_direction(kind) {
            // SAFETY: takes a number.
            let _ = unsafe { (direction.end)(session) };
        }
    }

    /// C_EncryptMessage or C_DecryptMessage: `data` without the tag into `out`, its length
    /// returned. `iv` and `tag` are writable because the standard has them so; a decryption does
    /// not change the tag.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn message(
        &self,
        session: CK_SESSION_HANDLE,
        kind: MessageKind,
        iv: &mut [u8],
        tag: &mut [u8; TAG_BYTES],
        aad: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CallError> {
        let (direction, _, call) =
            self.message_direction(kind).ok_or(CallError::unsupported(Call::EncryptMessage))?;
        let mut parameters = CK_GCM_MESSAGE_PARAMS {
            pIv: iv.as_mut_ptr(),
            ulIvLen: iv.len() as CK_ULONG,
            ulIvFixedBits: 0,
            ivGenerator: CKG_NO_GENERATE,
            pTag: tag.as_mut_ptr(),
            ulTagBits: (TAG_BYTES * 8) as CK_ULONG,
        };
        let mut length = out.len() as CK_ULONG;
        // SAFETY: parameters, IV and tag live through the call and are writable; AAD and data are
        // readable for their lengths, `out` is writable for `length`, which says so.
        let code = unsafe {
            (direction.message)(
                session,
                ptr::from_mut(&mut parameters).cast(),
                size_of::<CK_GCM_MESSAGE_PARAMS>() as CK_ULONG,
                input(aad),
                aad.len() as CK_ULONG,
                input(data),
                data.len() as CK_ULONG,
                out.as_mut_ptr(),
                &mut length,
            )
        };
        check(call, code)?;
        within(call, length, out.len())
    }

    /// C_GenerateRandom: fills `out`.
    pub(super) fn generate_random(
        &self,
        session: CK_SESSION_HANDLE,
        out: &mut [u8],
    ) -> Result<(), CallError> {
        let function =
            self.list.C_GenerateRandom.ok_or(CallError::unsupported(Call::GenerateRandom))?;
        // SAFETY: `out` is writable for the length given.
        check(Call::GenerateRandom, unsafe {
            function(session, out.as_mut_ptr(), out.len() as CK_ULONG)
        })
    }
}

fn gcm(iv: &mut [u8], aad: &[u8]) -> CK_GCM_PARAMS {
    CK_GCM_PARAMS {
        pIv: if iv.is_empty() { ptr::null_mut() } else { iv.as_mut_ptr() },
        ulIvLen: iv.len() as CK_ULONG,
        ulIvBits: (iv.len() * 8) as CK_ULONG,
        pAAD: if aad.is_empty() { ptr::null_mut() } else { aad.as_ptr().cast_mut() },
        ulAADLen: aad.len() as CK_ULONG,
        ulTagBits: (TAG_BYTES * 8) as CK_ULONG,
    }
}

fn mechanism(gcm: &mut CK_GCM_PARAMS) -> CK_MECHANISM {
    CK_MECHANISM {
        mechanism: CKM_AES_GCM,
        pParameter: ptr::from_mut(gcm).cast(),
        ulParameterLen: size_of::<CK_GCM_PARAMS>() as CK_ULONG,
    }
}

fn check(call: Call, code: CK_RV) -> Result<(), CallError> {
    if code == CKR_OK { Ok(()) } else { Err(CallError { call, code }) }
}

/// A module that claims to have written more than there was room for has not ended its operation,
/// whatever it says.
fn within(call: Call, length: CK_ULONG, capacity: usize) -> Result<usize, CallError> {
    usize::try_from(length)
        .ok()
        .filter(|length| *length <= capacity)
        .ok_or(CallError { call, code: CKR_BUFFER_TOO_SMALL })
}
