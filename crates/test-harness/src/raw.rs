//! Calls that the `cryptoki` crate does not offer.

use std::mem::ManuallyDrop;
use std::path::Path;

use cryptoki::slot::Slot;
use cryptoki_sys::{CK_FUNCTION_LIST, CK_MECHANISM, CKM_SHA256, CKR_OK};

/// The function list of a module, which stays loaded for the life of the process.
fn function_list(module: &Path) -> *mut CK_FUNCTION_LIST {
    // SAFETY: a PKCS#11 module, whose loading runs nothing but its constructors.
    let library = ManuallyDrop::new(unsafe { cryptoki_sys::Pkcs11::new(module) }.expect("loads"));
    let mut list: *mut CK_FUNCTION_LIST = std::ptr::null_mut();
    // SAFETY: `list` is valid for the write of one pointer.
    assert_eq!(unsafe { library.C_GetFunctionList(&mut list) }, CKR_OK);
    list
}

/// The functions of a module.
pub fn functions(module: &Path) -> CK_FUNCTION_LIST {
    // SAFETY: the module gave this pointer with CKR_OK, and stays loaded.
    unsafe { *function_list(module) }
}

/// Puts functions in front of the module's own, for whoever loads it after this; gives the module's
/// own.
pub fn intercept(module: &Path, change: impl FnOnce(&mut CK_FUNCTION_LIST)) -> CK_FUNCTION_LIST {
    let list = function_list(module);
    // SAFETY: as in `functions`; SoftHSM keeps its list in writable memory, and nobody else reads
    // it yet.
    unsafe {
        let own = *list;
        change(&mut *list);
        own
    }
}

/// C_CloseAllSessions: what a token that goes away does to its sessions.
pub fn close_all_sessions(module: &Path, slot: Slot) {
    let close = functions(module).C_CloseAllSessions.expect("a function");
    // SAFETY: takes a number; sessions in use elsewhere become invalid, which is the purpose.
    let code = unsafe { close(slot.into()) };
    assert_eq!(code, CKR_OK);
}

/// Leaves every session there is with an operation that is not finished.
pub fn begin_a_digest_in_every_session(module: &Path) {
    let begin = functions(module).C_DigestInit.expect("a function");
    let mut mechanism =
        CK_MECHANISM { mechanism: CKM_SHA256, pParameter: std::ptr::null_mut(), ulParameterLen: 0 };
    // SAFETY: the mechanism lives through the calls; handles that are none are refused.
    let begun =
        (1..100).filter(|session| unsafe { begin(*session, &mut mechanism) } == CKR_OK).count();
    assert!(begun > 0);
}
