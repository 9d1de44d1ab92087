//! The edge between C and Rust.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cryptoki_sys::{CK_RV, CKR_GENERAL_ERROR, CKR_OK};

use crate::calls::Call;
use crate::stats::STATS;

/// Counts the call and its result, and turns a panic into an error: unwinding out of an `extern
/// "C"` function aborts the process under test.
pub fn boundary(call: Call, body: impl FnOnce() -> Result<(), CK_RV>) -> CK_RV {
    STATS.enter(call);
    let code = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => CKR_OK,
        Ok(Err(code)) => code,
        Err(_) => CKR_GENERAL_ERROR,
    };
    STATS.leave(call, code);
    code
}
