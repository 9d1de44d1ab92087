//! Which error AWS KMS is told for what went wrong behind the pipeline.
//!
//! KMS retries InternalException, DependencyTimeoutException and ThrottlingException, and counts only these against the
//! key store: so a device fault is never told as bad ciphertext, nor the reverse.

use crate::api::{ApiError, ErrorName};
use crate::hsm::Fault;
use crate::sched::Refused;

/// The error for a key manager's fault; what only the operator may see goes to `detail`.
pub(super) fn to_api_error(fault: Fault, detail: &mut String) -> ApiError {
    match fault {
        Fault::KeyNotFound { detail: why } => {
            *detail = why;
            ApiError::new(ErrorName::KeyNotFoundException, "the key manager does not hold exactly one key of this name")
        }
        Fault::KeyDisabled => ApiError::new(ErrorName::InvalidStateException, "the key is disabled, or outside its start and end date"),
        Fault::KeyUsage => ApiError::new(ErrorName::InvalidKeyUsageException, "the key is not an AES-256 key that allows this operation"),
        Fault::BadCiphertext => ApiError::new(
            ErrorName::InvalidCiphertextException,
            "ciphertext, initialization vector, tag, metadata or additional authenticated data are not what was encrypted under this key",
        ),
        Fault::Device { detail: why } => {
            *detail = why;
            ApiError::new(ErrorName::InternalException, "the key manager failed; the proxy's log says how")
        }
        Fault::Busy => ApiError::new(ErrorName::ThrottlingException, "the key manager has too much to do"),
        Fault::Timeout => ApiError::new(ErrorName::DependencyTimeoutException, "the key manager did not answer in time"),
    }
}

/// The error for a job that no key manager took.
pub(super) fn refused(refused: Option<Refused>, detail: &mut String) -> ApiError {
    match refused {
        Some(Refused::NoLanes(last_fault)) => {
            *detail = last_fault.as_deref().unwrap_or("no session was ever open").to_string();
            ApiError::new(ErrorName::InternalException, "no session with the key manager is open; the proxy's log says why")
        }
        Some(why @ (Refused::QueueFull | Refused::CannotMakeIt)) => {
            *detail = format!("{why:?}");
            ApiError::new(ErrorName::ThrottlingException, "the key manager cannot do more requests in time")
        }
        None => ApiError::new(ErrorName::InternalException, "this key store has no key manager"),
    }
}

/// A key manager answered something else than was asked: never to be passed on.
pub(super) fn wrong_answer() -> ApiError {
    ApiError::new(ErrorName::InternalException, "the key manager answered another question")
}
