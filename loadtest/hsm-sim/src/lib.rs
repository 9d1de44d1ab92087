//! A PKCS#11 module that behaves like a network HSM, forwarding to a real one. `README.md` tells
//! how to use it.
//!
//! A call's way: [`ffi`] (the function list) → `boundary` (counting, panics) → [`instance`]
//! (session, faults, waiting) → [`gcm`] where AES-GCM differs between makers → the real module.

pub mod calls;
pub mod clock;
pub mod codes;
pub mod config;
pub mod control;
pub mod device;
pub mod ffi;
pub mod gcm;
pub mod instance;
pub mod lifecycle;
pub mod mechanism;
pub mod random;
pub mod real;
pub mod stats;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use cryptoki_sys::{CK_RV, CKR_GENERAL_ERROR, CKR_OK};

use crate::calls::Call;
use crate::stats::STATS;

/// Counts the call and its result, and turns a panic into an error: unwinding out of an `extern
/// "C"` function aborts the process under test.
pub(crate) fn boundary(call: Call, body: impl FnOnce() -> Result<(), CK_RV>) -> CK_RV {
    STATS.enter(call);
    let code = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => CKR_OK,
        Ok(Err(code)) => code,
        Err(_) => CKR_GENERAL_ERROR,
    };
    STATS.leave(call, code);
    code
}

/// To the person who runs the program under test. A standard error that is closed is no reason to
/// fail.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "hsm-sim: {message}");
}

// Locks of this module guard values that are whole at every instant, so a panic elsewhere does not
// make them unusable.

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
