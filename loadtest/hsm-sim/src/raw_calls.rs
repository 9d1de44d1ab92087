//! What the programs of this crate have in common: raw calls of a module, and a way to its token.

// Of `call!`: its arguments are values.
#![allow(clippy::macro_metavars_in_unsafe)]

use std::ffi::c_void;
use std::path::Path;
use std::ptr;

use cryptoki_sys::*;

use crate::codes;
use crate::real::{self, Functions};

/// Calls the function; an error names it.
#[macro_export]
macro_rules! call {
    ($functions:expr, $name:ident $(, $argument:expr)*) => {{
        let function = $functions.$name.ok_or_else(|| format!("{}: not there", stringify!($name)))?;
        // SAFETY: pointers among the arguments are to live values of the lengths given with them.
        let code = unsafe { function($($argument),*) };
        if code == cryptoki_sys::CKR_OK {
            Ok(())
        } else {
            Err(format!("{}: {}", stringify!($name), $crate::codes::name(code)))
        }
    }};
}

/// Loads and initialises the module.
pub fn initialize(
    module: &Path,
    library_parameters: Option<&str>,
) -> Result<&'static Functions, String> {
    let functions = real::load(module)?;
    let mut arguments = CK_C_INITIALIZE_ARGS { flags: CKF_OS_LOCKING_OK, ..Default::default() };
    // SAFETY: the arguments of the standard.
    let code =
        unsafe { real::initialize(functions, (&raw mut arguments).cast(), library_parameters) };
    if code == CKR_OK { Ok(functions) } else { Err(format!("C_Initialize: {}", codes::name(code))) }
}

/// C_Login as the user.
pub fn log_in(functions: &Functions, session: CK_SESSION_HANDLE, pin: &str) -> Result<(), String> {
    let mut pin = pin.as_bytes().to_vec();
    call!(functions, C_Login, session, CKU_USER, pin.as_mut_ptr(), pin.len() as CK_ULONG)
}

/// The slot of the token with this label.
pub fn slot_of(functions: &Functions, token: &str) -> Result<CK_SLOT_ID, String> {
    let mut count = 0;
    call!(functions, C_GetSlotList, CK_TRUE, ptr::null_mut(), &mut count)?;
    let mut slots = vec![0; count as usize];
    call!(functions, C_GetSlotList, CK_TRUE, slots.as_mut_ptr(), &mut count)?;
    for slot in slots.into_iter().take(count as usize) {
        let mut info = CK_TOKEN_INFO::default();
        call!(functions, C_GetTokenInfo, slot, &mut info)?;
        if String::from_utf8_lossy(&info.label).trim_end() == token {
            return Ok(slot);
        }
    }
    Err(format!("no token with label {token:?}"))
}

/// A read/write session.
pub fn open(functions: &Functions, slot: CK_SLOT_ID) -> Result<CK_SESSION_HANDLE, String> {
    let mut session = 0;
    let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
    call!(functions, C_OpenSession, slot, flags, ptr::null_mut(), None, &mut session)?;
    Ok(session)
}

/// An attribute with the value that is stored here.
pub fn attribute<T: ?Sized>(kind: CK_ATTRIBUTE_TYPE, value: &mut T) -> CK_ATTRIBUTE {
    let length = size_of_val(value) as CK_ULONG;
    CK_ATTRIBUTE { type_: kind, pValue: ptr::from_mut(value).cast::<c_void>(), ulValueLen: length }
}
