//! The real module: loading it and starting it.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::ptr;

use cryptoki_sys::*;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// The real module's functions.
pub type Functions = CK_FUNCTION_LIST;

/// Loads the module and gives its function list. The module is never unloaded: calls may still be
/// in it.
///
/// It is loaded locally, not linked, so that neither its C_GetInterface nor anything else of it can
/// be found through this module. RTLD_DEEPBIND is left out: it takes the module away from
/// allocators and sanitizers that the program under test brings along.
pub fn load(path: &Path) -> Result<&'static Functions, String> {
    let in_file = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    // SAFETY: loading runs the module's constructors. Whoever configured it as the PKCS#11 module
    // trusts them.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| in_file(&error))?;
    // SAFETY: the type is that of C_GetFunctionList in every version of the standard.
    let symbol = unsafe {
        library.get::<unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV>(
            b"C_GetFunctionList\0",
        )
    };
    let get_function_list = *symbol.map_err(|error| in_file(&error))?;
    let mut list = ptr::null_mut();
    // SAFETY: `list` is a valid pointer to be written.
    let code = unsafe { get_function_list(&mut list) };
    std::mem::forget(library);
    if code != CKR_OK || list.is_null() {
        return Err(in_file(&format!("C_GetFunctionList: {}", crate::codes::name(code))));
    }
    // SAFETY: the standard says that the list is the module's and lives as long as the module,
    // which is never unloaded.
    Ok(unsafe { &*list })
}

/// CK_C_INITIALIZE_ARGS as NSS has it: one member more.
#[repr(C)]
struct NssInitializeArgs {
    common: Common,
    library_parameters: *mut c_char,
    reserved: *mut c_void,
}

/// What NSS's structure and the standard's begin with.
#[repr(C)]
#[derive(Clone, Copy)]
struct Common {
    mutexes: [*mut c_void; 4],
    flags: CK_FLAGS,
}

/// The real C_Initialize: with the caller's arguments, or with NSS's library parameters added to
/// them.
///
/// # Safety
/// `arguments` is null or what C_Initialize takes.
pub unsafe fn initialize(
    functions: &Functions,
    arguments: *mut c_void,
    library_parameters: Option<&str>,
) -> CK_RV {
    let Some(initialize) = functions.C_Initialize else { return CKR_FUNCTION_NOT_SUPPORTED };
    let Some(parameters) = library_parameters else {
        // SAFETY: the caller's arguments, unread.
        return unsafe { initialize(arguments) };
    };
    let Ok(parameters) = CString::new(parameters) else { return CKR_ARGUMENTS_BAD };
    let common = if arguments.is_null() {
        Common { mutexes: [ptr::null_mut(); 4], flags: CKF_OS_LOCKING_OK }
    } else {
        // SAFETY: CK_C_INITIALIZE_ARGS begins with four function pointers, null or not, and the
        // flags.
        unsafe { *arguments.cast::<Common>() }
    };
    let mut nss = NssInitializeArgs {
        common,
        library_parameters: parameters.as_ptr().cast_mut(),
        reserved: ptr::null_mut(),
    };
    // SAFETY: a structure of the layout that NSS reads; it keeps copies of what it needs.
    unsafe { initialize((&raw mut nss).cast()) }
}
