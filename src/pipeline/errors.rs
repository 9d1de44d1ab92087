//! Which error AWS KMS gets for what went wrong behind the pipeline.
//!
//! KMS retries InternalException, DependencyTimeoutException and ThrottlingException, and counts
//! only these against the key store: so a device fault is never reported as bad ciphertext, nor the
//! reverse.

use crate::api::{ApiError, ErrorName};
use crate::key_manager::Fault;
use crate::keystore::NoVersion;
use crate::policy::budget::NoBudget;
use crate::sched::Refused;

/// The error for a key manager's fault; what only the operator may see goes to `detail`, which may
/// hold what an earlier try left. `begun`: the key manager had begun with it.
pub(super) fn to_api_error(fault: Fault, begun: bool, detail: &mut String) -> ApiError {
    detail.clear();
    match fault {
        Fault::KeyNotFound { detail: why } => {
            *detail = why;
            ApiError::new(
                ErrorName::KeyNotFoundException,
                "the key manager does not hold exactly one key of this name",
            )
        }
        Fault::KeyDisabled => ApiError::new(
            ErrorName::InvalidStateException,
            "the key is disabled, or outside its start and end date",
        ),
        Fault::KeyUsage => ApiError::new(
            ErrorName::InvalidKeyUsageException,
            "the key is not an AES-256 key that allows this operation",
        ),
        Fault::KeyRefused { detail: why } => {
            *detail = why;
            ApiError::new(
                ErrorName::InvalidKeyUsageException,
                "the key manager refuses this operation with this key; the proxy's log says how",
            )
        }
        Fault::BadCiphertext => ApiError::new(
            ErrorName::InvalidCiphertextException,
            "ciphertext, initialization vector, tag, metadata or additional authenticated data are \
             not what was encrypted under this key",
        ),
        Fault::Device { detail: why } => {
            *detail = why;
            ApiError::new(
                ErrorName::InternalException,
                "the key manager failed; the proxy's log says how",
            )
        }
        Fault::Sealed { detail: why, by_hsm } => {
            *detail = why;
            ApiError::new(
                ErrorName::InvalidStateException,
                if by_hsm {
                    "the HSM refuses to open the key; the proxy's log says why"
                } else {
                    "an operator has sealed the key manager; the proxy's log says why"
                },
            )
        }
        Fault::Busy => {
            ApiError::new(ErrorName::ThrottlingException, "the key manager has too much to do")
        }
        Fault::Timeout => {
            let why = if begun {
                "a call into the key manager's library did not return in time"
            } else {
                "no session came free in time"
            };
            detail.push_str(why);
            ApiError::new(
                ErrorName::DependencyTimeoutException,
                "the key manager did not answer in time",
            )
        }
    }
}

/// The error for a job that a key manager did not take.
pub(super) fn refused(why: &Refused, detail: &mut String) -> ApiError {
    match why {
        Refused::NoSession(last_fault) => {
            *detail = last_fault.as_deref().unwrap_or("no session was ever open").to_string();
            ApiError::new(
                ErrorName::InternalException,
                "the key manager does not serve; the proxy's log says why",
            )
        }
        Refused::Hung => {
            *detail = "calls into the key manager's library hang".to_owned();
            ApiError::new(ErrorName::DependencyTimeoutException, "the key manager does not answer")
        }
        Refused::QueueFull | Refused::DeadlineUnreachable => {
            let full = matches!(why, Refused::QueueFull);
            *detail = if full {
                "its queue is full"
            } else {
                "with what waits already it would not be done by its deadline"
            }
            .to_owned();
            ApiError::new(
                ErrorName::ThrottlingException,
                "the key manager cannot do more requests in time",
            )
        }
    }
}

/// The error of an encryption for which the key's version has no budget.
pub(super) fn no_budget(why: NoBudget, detail: &mut String) -> ApiError {
    detail.clear();
    match why {
        // As a key that is disabled: KMS does not try again, and does not count it against the key
        // store. Only an operator can end it.
        NoBudget::Spent => {
            detail.push_str("the invocation budget of the key's version is used up");
            ApiError::new(
                ErrorName::InvalidStateException,
                "the version of the external key has encrypted as often as it may: rotate it in \
                 the proxy; it still decrypts",
            )
        }
        NoBudget::NotReserved => {
            detail.push_str("the state directory cannot be written: no encryption is reserved");
            ApiError::new(
                ErrorName::InternalException,
                "the proxy cannot count encryptions; the proxy's log says why",
            )
        }
    }
}

/// The error of a ciphertext whose version of the key cannot be used.
pub(super) fn no_version(why: NoVersion) -> ApiError {
    match why {
        NoVersion::Disabled => ApiError::new(
            ErrorName::InvalidStateException,
            "the version of the key that made this ciphertext is disabled or destroyed",
        ),
        // Retried by KMS: it is another instance's, and this one will know it soon.
        NoVersion::Newer => ApiError::new(
            ErrorName::InternalException,
            "ciphertextMetadata names a newer key version than this instance knows",
        ),
        NoVersion::Unknown => ApiError::new(
            ErrorName::InvalidCiphertextException,
            "ciphertextMetadata names a key version that does not exist",
        ),
    }
}

/// The error where the system gives no random bytes.
pub(super) fn no_random(fault: Fault) -> ApiError {
    to_api_error(fault, false, &mut String::new())
}

/// The error of a key store without a key manager, which the configuration does not allow.
pub(super) fn no_manager() -> ApiError {
    ApiError::new(ErrorName::InternalException, "this key store has no key manager")
}

/// A key manager answered something else than was asked: never to be passed on.
pub(super) fn wrong_answer() -> ApiError {
    ApiError::new(ErrorName::InternalException, "the key manager gave an answer of the wrong kind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_an_earlier_try_is_told_of_a_later_one() {
        let told = |fault| {
            let mut detail = "the token of another replica has no such key".to_owned();
            to_api_error(fault, false, &mut detail);
            detail
        };
        for fault in [Fault::KeyDisabled, Fault::KeyUsage, Fault::BadCiphertext, Fault::Busy] {
            assert_eq!(told(fault), "");
        }
        assert_eq!(told(Fault::Device { detail: "C_Sign".to_owned() }), "C_Sign");
    }

    #[test]
    fn a_timeout_tells_whether_the_key_manager_had_begun() {
        let mut detail = String::new();
        to_api_error(Fault::Timeout, true, &mut detail);
        assert_eq!(detail, "a call into the key manager's library did not return in time");
        to_api_error(Fault::Timeout, false, &mut detail);
        assert_eq!(detail, "no session came free in time");
    }
}
