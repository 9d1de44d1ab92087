//! The function list of PKCS#11 2.40. C_GetFunctionList is all that this module exports.

use std::ffi::c_void;
use std::ptr;

use cryptoki_sys::*;

use crate::boundary::boundary;
use crate::calls::Call;
use crate::config::Config;
use crate::gcm::{self, Buffers};
use crate::instance::{Instance, result_of};
use crate::lifecycle::{self, current};
use crate::real::Functions;
use crate::session::Session;

/// A call with a session that the real module does as it is.
fn session_call(
    call: Call,
    handle: CK_SESSION_HANDLE,
    forward: impl FnOnce(&Functions, &Session) -> CK_RV,
) -> CK_RV {
    boundary(call, || {
        let instance = current()?;
        let session = instance.session(handle)?;
        instance.simulate(call, Some(&session))?;
        let inside = instance.enter_with(&session)?;
        result_of(forward(inside.functions, &session))
    })
}

/// A call about a token that the real module does as it is.
fn token_call(call: Call, forward: impl FnOnce(&Functions, &Config) -> CK_RV) -> CK_RV {
    boundary(call, || {
        let instance = current()?;
        instance.simulate(call, None)?;
        instance.token_is_present()?;
        let inside = instance.enter()?;
        result_of(forward(inside.functions, &instance.config))
    })
}

/// Calls the function of the real module's list, if it has it.
macro_rules! real {
    ($functions:expr, $name:ident, $($argument:expr),*) => {
        match $functions.$name {
            // SAFETY: the arguments are the caller's, passed on unread: it is to the real module
            // that the caller answers for them.
            Some(function) => unsafe { function($($argument),*) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        }
    };
}

/// Functions whose first argument is a session; the others go to the real module unread, and have
/// letters for names.
macro_rules! session_functions {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        #[allow(non_snake_case)]
        unsafe extern "C" fn $name(session: CK_SESSION_HANDLE $(, $argument: $type)*) -> CK_RV {
            session_call(Call::$name, session, |functions, session| {
                real!(functions, $name, session.real $(, $argument)*)
            })
        }
    )*};
}

/// Functions whose first argument is a slot with a token in it.
macro_rules! token_functions {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        #[allow(non_snake_case)]
        unsafe extern "C" fn $name(slot: CK_SLOT_ID $(, $argument: $type)*) -> CK_RV {
            token_call(Call::$name, |functions, _| real!(functions, $name, slot $(, $argument)*))
        }
    )*};
}

token_functions! {
    C_GetTokenInfo(a: *mut CK_TOKEN_INFO);
    C_InitToken(a: *mut CK_UTF8CHAR, b: CK_ULONG, c: *mut CK_UTF8CHAR);
}

session_functions! {
    C_InitPIN(a: *mut CK_UTF8CHAR, b: CK_ULONG);
    C_SetPIN(a: *mut CK_UTF8CHAR, b: CK_ULONG, c: *mut CK_UTF8CHAR, d: CK_ULONG);
    C_GetSessionInfo(a: *mut CK_SESSION_INFO);
    C_GetOperationState(a: *mut CK_BYTE, b: *mut CK_ULONG);
    C_SetOperationState(a: *mut CK_BYTE, b: CK_ULONG, c: CK_OBJECT_HANDLE, d: CK_OBJECT_HANDLE);
    C_Logout();
    C_CreateObject(a: *mut CK_ATTRIBUTE, b: CK_ULONG, c: *mut CK_OBJECT_HANDLE);
    C_CopyObject(a: CK_OBJECT_HANDLE, b: *mut CK_ATTRIBUTE, c: CK_ULONG, d: *mut CK_OBJECT_HANDLE);
    C_DestroyObject(a: CK_OBJECT_HANDLE);
    C_GetObjectSize(a: CK_OBJECT_HANDLE, b: *mut CK_ULONG);
    C_GetAttributeValue(a: CK_OBJECT_HANDLE, b: *mut CK_ATTRIBUTE, c: CK_ULONG);
    C_SetAttributeValue(a: CK_OBJECT_HANDLE, b: *mut CK_ATTRIBUTE, c: CK_ULONG);
    C_FindObjectsInit(a: *mut CK_ATTRIBUTE, b: CK_ULONG);
    C_FindObjects(a: *mut CK_OBJECT_HANDLE, b: CK_ULONG, c: *mut CK_ULONG);
    C_FindObjectsFinal();
    C_EncryptUpdate(a: *mut CK_BYTE, b: CK_ULONG, c: *mut CK_BYTE, d: *mut CK_ULONG);
    C_DecryptUpdate(a: *mut CK_BYTE, b: CK_ULONG, c: *mut CK_BYTE, d: *mut CK_ULONG);
    C_DigestInit(a: *mut CK_MECHANISM);
    C_Digest(a: *mut CK_BYTE, b: CK_ULONG, c: *mut CK_BYTE, d: *mut CK_ULONG);
    C_DigestUpdate(a: *mut CK_BYTE, b: CK_ULONG);
    C_DigestKey(a: CK_OBJECT_HANDLE);
    C_DigestFinal(a: *mut CK_BYTE, b: *mut CK_ULONG);
    C_SignInit(a: *mut CK_MECHANISM, b: CK_OBJECT_HANDLE);
    C_Sign(a: *mut CK_BYTE, b: CK_ULONG, c: *mut CK_BYTE, d: *mut CK_ULONG);
    C_SignUpdate(a: *mut CK_BYTE, b: CK_ULONG);
    C_SignFinal(a: *mut CK_BYTE, b: *mut CK_ULONG);
    C_SignRecoverInit(a: *mut CK_MECHANISM, b: CK_OBJECT_HANDLE);
    C_SignRecover(a: *mut CK_BYTE, b: CK_ULONG, c: *mut CK_BYTE, d: *mut CK_ULONG);
    C_VerifyInit(a: *mut CK_MECHANISM, b: CK_OBJECT_HANDLE);
    C_Verify(a: *mut CK_BYTE, b: CK_ULONG, c: *mut CK_BYTE, d: CK_ULONG);
    C_VerifyUpdate(a: *mut CK_BYTE, b: CK_ULONG);
    C_VerifyFinal(a: *mut CK_BYTE, b: CK_ULONG);
    C_VerifyRecoverInit(a: *mut CK_MECHANISM, b: CK_OBJECT_HANDLE);
    C_VerifyRecover(a: *mut CK_BYTE, b: CK_ULONG, c: *mut CK_BYTE, d: *mut CK_ULONG);
    C_DigestEncryptUpdate(a: *mut CK_BYTE, b: CK_ULONG, c: *mut CK_BYTE, d: *mut CK_ULONG);
    C_DecryptDigestUpdate(a: *mut CK_BYTE, b: CK_ULONG, c: *mut CK_BYTE, d: *mut CK_ULONG);
    C_SignEncryptUpdate(a: *mut CK_BYTE, b: CK_ULONG, c: *mut CK_BYTE, d: *mut CK_ULONG);
    C_DecryptVerifyUpdate(a: *mut CK_BYTE, b: CK_ULONG, c: *mut CK_BYTE, d: *mut CK_ULONG);
    C_GenerateKey(
        a: *mut CK_MECHANISM, b: *mut CK_ATTRIBUTE, c: CK_ULONG, d: *mut CK_OBJECT_HANDLE
    );
    C_GenerateKeyPair(
        a: *mut CK_MECHANISM, b: *mut CK_ATTRIBUTE, c: CK_ULONG, d: *mut CK_ATTRIBUTE, e: CK_ULONG,
        f: *mut CK_OBJECT_HANDLE, g: *mut CK_OBJECT_HANDLE
    );
    C_WrapKey(
        a: *mut CK_MECHANISM, b: CK_OBJECT_HANDLE, c: CK_OBJECT_HANDLE, d: *mut CK_BYTE,
        e: *mut CK_ULONG
    );
    C_UnwrapKey(
        a: *mut CK_MECHANISM, b: CK_OBJECT_HANDLE, c: *mut CK_BYTE, d: CK_ULONG,
        e: *mut CK_ATTRIBUTE, f: CK_ULONG, g: *mut CK_OBJECT_HANDLE
    );
    C_DeriveKey(
        a: *mut CK_MECHANISM, b: CK_OBJECT_HANDLE, c: *mut CK_ATTRIBUTE, d: CK_ULONG,
        e: *mut CK_OBJECT_HANDLE
    );
    C_SeedRandom(a: *mut CK_BYTE, b: CK_ULONG);
    C_GenerateRandom(a: *mut CK_BYTE, b: CK_ULONG);
    C_GetFunctionStatus();
    C_CancelFunction();
}

/// The standard's version that the list is of.
const VERSION: CK_VERSION = CK_VERSION { major: 2, minor: 40 };

static FUNCTIONS: CK_FUNCTION_LIST = CK_FUNCTION_LIST {
    version: VERSION,
    C_Initialize: Some(C_Initialize),
    C_Finalize: Some(C_Finalize),
    C_GetInfo: Some(C_GetInfo),
    C_GetFunctionList: Some(C_GetFunctionList),
    C_GetSlotList: Some(C_GetSlotList),
    C_GetSlotInfo: Some(C_GetSlotInfo),
    C_GetTokenInfo: Some(C_GetTokenInfo),
    C_GetMechanismList: Some(C_GetMechanismList),
    C_GetMechanismInfo: Some(C_GetMechanismInfo),
    C_InitToken: Some(C_InitToken),
    C_InitPIN: Some(C_InitPIN),
    C_SetPIN: Some(C_SetPIN),
    C_OpenSession: Some(C_OpenSession),
    C_CloseSession: Some(C_CloseSession),
    C_CloseAllSessions: Some(C_CloseAllSessions),
    C_GetSessionInfo: Some(C_GetSessionInfo),
    C_GetOperationState: Some(C_GetOperationState),
    C_SetOperationState: Some(C_SetOperationState),
    C_Login: Some(C_Login),
    C_Logout: Some(C_Logout),
    C_CreateObject: Some(C_CreateObject),
    C_CopyObject: Some(C_CopyObject),
    C_DestroyObject: Some(C_DestroyObject),
    C_GetObjectSize: Some(C_GetObjectSize),
    C_GetAttributeValue: Some(C_GetAttributeValue),
    C_SetAttributeValue: Some(C_SetAttributeValue),
    C_FindObjectsInit: Some(C_FindObjectsInit),
    C_FindObjects: Some(C_FindObjects),
    C_FindObjectsFinal: Some(C_FindObjectsFinal),
    C_EncryptInit: Some(C_EncryptInit),
    C_Encrypt: Some(C_Encrypt),
    C_EncryptUpdate: Some(C_EncryptUpdate),
    C_EncryptFinal: Some(C_EncryptFinal),
    C_DecryptInit: Some(C_DecryptInit),
    C_Decrypt: Some(C_Decrypt),
    C_DecryptUpdate: Some(C_DecryptUpdate),
    C_DecryptFinal: Some(C_DecryptFinal),
    C_DigestInit: Some(C_DigestInit),
    C_Digest: Some(C_Digest),
    C_DigestUpdate: Some(C_DigestUpdate),
    C_DigestKey: Some(C_DigestKey),
    C_DigestFinal: Some(C_DigestFinal),
    C_SignInit: Some(C_SignInit),
    C_Sign: Some(C_Sign),
    C_SignUpdate: Some(C_SignUpdate),
    C_SignFinal: Some(C_SignFinal),
    C_SignRecoverInit: Some(C_SignRecoverInit),
    C_SignRecover: Some(C_SignRecover),
    C_VerifyInit: Some(C_VerifyInit),
    C_Verify: Some(C_Verify),
    C_VerifyUpdate: Some(C_VerifyUpdate),
    C_VerifyFinal: Some(C_VerifyFinal),
    C_VerifyRecoverInit: Some(C_VerifyRecoverInit),
    C_VerifyRecover: Some(C_VerifyRecover),
    C_DigestEncryptUpdate: Some(C_DigestEncryptUpdate),
    C_DecryptDigestUpdate: Some(C_DecryptDigestUpdate),
    C_SignEncryptUpdate: Some(C_SignEncryptUpdate),
    C_DecryptVerifyUpdate: Some(C_DecryptVerifyUpdate),
    C_GenerateKey: Some(C_GenerateKey),
    C_GenerateKeyPair: Some(C_GenerateKeyPair),
    C_WrapKey: Some(C_WrapKey),
    C_UnwrapKey: Some(C_UnwrapKey),
    C_DeriveKey: Some(C_DeriveKey),
    C_SeedRandom: Some(C_SeedRandom),
    C_GenerateRandom: Some(C_GenerateRandom),
    C_GetFunctionStatus: Some(C_GetFunctionStatus),
    C_CancelFunction: Some(C_CancelFunction),
    C_WaitForSlotEvent: Some(C_WaitForSlotEvent),
};

/// The one entry point.
///
/// # Safety
/// `list` is null or points to where the list's address is to be written.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    boundary(Call::C_GetFunctionList, || {
        // SAFETY: as this function says.
        let list = unsafe { list.as_mut() }.ok_or(CKR_ARGUMENTS_BAD)?;
        *list = (&raw const FUNCTIONS).cast_mut();
        Ok(())
    })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_Initialize(arguments: *mut c_void) -> CK_RV {
    // SAFETY: the caller's argument, passed on.
    boundary(Call::C_Initialize, || unsafe { lifecycle::initialize(arguments) })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_Finalize(reserved: *mut c_void) -> CK_RV {
    // SAFETY: the caller's argument, passed on.
    boundary(Call::C_Finalize, || unsafe { lifecycle::finalize(reserved) })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_GetInfo(info: *mut CK_INFO) -> CK_RV {
    boundary(Call::C_GetInfo, || {
        let instance = current()?;
        instance.simulate(Call::C_GetInfo, None)?;
        let inside = instance.enter()?;
        result_of(real!(inside.functions, C_GetInfo, info))?;
        // SAFETY: the real module has just written it.
        if let Some(info) = unsafe { info.as_mut() } {
            // A real module of 3.x has more functions than this list.
            info.cryptokiVersion = VERSION;
        }
        Ok(())
    })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_GetSlotList(
    token_present: CK_BBOOL,
    slots: *mut CK_SLOT_ID,
    count: *mut CK_ULONG,
) -> CK_RV {
    boundary(Call::C_GetSlotList, || {
        let instance = current()?;
        instance.simulate(Call::C_GetSlotList, None)?;
        if token_present != CK_FALSE && instance.token_is_present().is_err() {
            // SAFETY: null, or where the caller wants the number of slots.
            let count = unsafe { count.as_mut() }.ok_or(CKR_ARGUMENTS_BAD)?;
            *count = 0;
            return Ok(());
        }
        let inside = instance.enter()?;
        result_of(real!(inside.functions, C_GetSlotList, token_present, slots, count))
    })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) -> CK_RV {
    boundary(Call::C_GetSlotInfo, || {
        let instance = current()?;
        instance.simulate(Call::C_GetSlotInfo, None)?;
        let removed = instance.token_is_present().is_err();
        let inside = instance.enter()?;
        result_of(real!(inside.functions, C_GetSlotInfo, slot, info))?;
        // SAFETY: the real module has just written it.
        if let Some(info) = unsafe { info.as_mut() }.filter(|_| removed) {
            info.flags &= !CKF_TOKEN_PRESENT;
        }
        Ok(())
    })
}

/// Notifications are not passed on: the real module would name its own session handle in them.
#[allow(non_snake_case)]
unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    _application: *mut c_void,
    _notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    boundary(Call::C_OpenSession, || {
        let instance = current()?;
        instance.simulate(Call::C_OpenSession, None)?;
        instance.token_is_present()?;
        // SAFETY: null, or where the caller wants the handle.
        let session = unsafe { session.as_mut() }.ok_or(CKR_ARGUMENTS_BAD)?;
        let read_write = flags & CKF_RW_SESSION != 0;
        *session = instance.open_session(slot, read_write, |functions, real| {
            real!(functions, C_OpenSession, slot, flags, ptr::null_mut(), None, real)
        })?;
        Ok(())
    })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_CloseSession(handle: CK_SESSION_HANDLE) -> CK_RV {
    boundary(Call::C_CloseSession, || {
        let instance = current()?;
        let session = instance.session(handle)?;
        instance.simulate(Call::C_CloseSession, Some(&session))?;
        instance.close_session(handle)
    })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    boundary(Call::C_CloseAllSessions, || {
        let instance = current()?;
        instance.simulate(Call::C_CloseAllSessions, None)?;
        instance.token_is_present()?;
        instance.close_slot(slot)
    })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_Login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    pin_len: CK_ULONG,
) -> CK_RV {
    boundary(Call::C_Login, || {
        let instance = current()?;
        let session = instance.session(session)?;
        instance.simulate(Call::C_Login, Some(&session))?;
        if let Some(code) = instance.control.faults().login_fails {
            return Err(code.0);
        }
        let inside = instance.enter_with(&session)?;
        result_of(real!(inside.functions, C_Login, session.real, user, pin, pin_len))
    })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_GetMechanismList(
    slot: CK_SLOT_ID,
    mechanisms: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    token_call(Call::C_GetMechanismList, |functions, config| {
        let code = real!(functions, C_GetMechanismList, slot, mechanisms, count);
        if code == CKR_OK && config.gcm.absent {
            // SAFETY: the caller's list, which the real module has just written.
            unsafe { gcm::strike_out(mechanisms, count) };
        }
        code
    })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_GetMechanismInfo(
    slot: CK_SLOT_ID,
    mechanism: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    token_call(Call::C_GetMechanismInfo, |functions, config| {
        if mechanism == CKM_AES_GCM && config.gcm.absent {
            return CKR_MECHANISM_INVALID;
        }
        real!(functions, C_GetMechanismInfo, slot, mechanism, info)
    })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_EncryptInit(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    boundary(Call::C_EncryptInit, || {
        let instance = current()?;
        let session = instance.session(session)?;
        instance.simulate(Call::C_EncryptInit, Some(&session))?;
        let inside = instance.enter_with(&session)?;
        // SAFETY: the caller's arguments, passed on.
        result_of(unsafe {
            gcm::encrypt_init(inside.functions, &session, &instance.config.gcm, mechanism, key)
        })
    })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_DecryptInit(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    boundary(Call::C_DecryptInit, || {
        let instance = current()?;
        let session = instance.session(session)?;
        instance.simulate(Call::C_DecryptInit, Some(&session))?;
        let inside = instance.enter_with(&session)?;
        // SAFETY: the caller's arguments, passed on.
        result_of(unsafe {
            gcm::decrypt_init(inside.functions, &session, &instance.config.gcm, mechanism, key)
        })
    })
}

/// C_Encrypt or C_Decrypt: as any call with a session, but an error in its place ends the
/// operation.
fn transform(
    call: Call,
    handle: CK_SESSION_HANDLE,
    buffers: Buffers,
    forward: impl FnOnce(&Functions, &Session, &Instance) -> CK_RV,
) -> CK_RV {
    boundary(call, || {
        let instance = current()?;
        let session = instance.session(handle)?;
        let simulated = instance.simulate(call, Some(&session));
        let inside = instance.enter_with(&session)?;
        if let Err(injected) = simulated {
            if !injected.leaves_operation {
                let function = if call == Call::C_Encrypt {
                    inside.functions.C_Encrypt
                } else {
                    inside.functions.C_Decrypt
                };
                // SAFETY: the caller's buffers of this very call.
                unsafe { gcm::discard(function, &session, buffers) };
            }
            return Err(injected.code);
        }
        result_of(forward(inside.functions, &session, &instance))
    })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_Encrypt(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    data_len: CK_ULONG,
    out: *mut CK_BYTE,
    out_len: *mut CK_ULONG,
) -> CK_RV {
    let buffers = Buffers { data, data_len, out, out_len };
    transform(Call::C_Encrypt, session, buffers, |functions, session, instance| {
        // SAFETY: the caller's arguments, passed on.
        unsafe { gcm::encrypt(functions, session, &instance.control.faults(), buffers) }
    })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_EncryptFinal(
    session: CK_SESSION_HANDLE,
    out: *mut CK_BYTE,
    out_len: *mut CK_ULONG,
) -> CK_RV {
    session_call(Call::C_EncryptFinal, session, |functions, session| {
        // SAFETY: the caller's arguments, passed on.
        unsafe { gcm::encrypt_final(functions, session, out, out_len) }
    })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_Decrypt(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    data_len: CK_ULONG,
    out: *mut CK_BYTE,
    out_len: *mut CK_ULONG,
) -> CK_RV {
    let buffers = Buffers { data, data_len, out, out_len };
    transform(Call::C_Decrypt, session, buffers, |functions, session, instance| {
        // SAFETY: the caller's arguments, passed on.
        unsafe {
            gcm::decrypt(
                functions,
                session,
                &instance.config.gcm,
                &instance.control.faults(),
                buffers,
            )
        }
    })
}

#[allow(non_snake_case)]
unsafe extern "C" fn C_DecryptFinal(
    session: CK_SESSION_HANDLE,
    out: *mut CK_BYTE,
    out_len: *mut CK_ULONG,
) -> CK_RV {
    boundary(Call::C_DecryptFinal, || {
        let instance = current()?;
        let session = instance.session(session)?;
        instance.simulate(Call::C_DecryptFinal, Some(&session))?;
        let inside = instance.enter_with(&session)?;
        let code = real!(inside.functions, C_DecryptFinal, session.real, out, out_len);
        result_of(gcm::bad_tag(code, &session, &instance.config.gcm))
    })
}

/// Only the question whether there was an event already: the real module must not wait inside.
#[allow(non_snake_case)]
unsafe extern "C" fn C_WaitForSlotEvent(
    flags: CK_FLAGS,
    slot: *mut CK_SLOT_ID,
    reserved: *mut c_void,
) -> CK_RV {
    boundary(Call::C_WaitForSlotEvent, || {
        let instance = current()?;
        instance.simulate(Call::C_WaitForSlotEvent, None)?;
        if flags & CKF_DONT_BLOCK == 0 {
            return Err(CKR_FUNCTION_NOT_SUPPORTED);
        }
        let inside = instance.enter()?;
        result_of(real!(inside.functions, C_WaitForSlotEvent, flags, slot, reserved))
    })
}
