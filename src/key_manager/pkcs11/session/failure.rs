//! How an attempt at a job fails.

use std::fmt;
use std::time::Instant;

use super::super::errors::CallError;
use crate::key_manager::Fault;

/// Why an attempt at a job failed.
pub(super) enum Failure {
    /// A call on the job's key or under it failed. Whose fault that is, `attribution` finds out.
    Call(CallError),
    /// What was encrypted is not what it should be.
    Unverified(Unverified),
    /// The outcome.
    Fault(Fault),
}

/// What is wrong with a ciphertext that was just made.
pub(super) enum Unverified {
    /// It does not decrypt, as often as it was tried.
    Refused(CallError),
    /// It decrypts to something else.
    Differs,
    /// It is no ciphertext.
    Unwritten(&'static str),
}

impl fmt::Display for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("integrity check: ")?;
        match self {
            Unverified::Refused(error) => {
                write!(f, "what was encrypted does not decrypt: {error}")
            }
            Unverified::Differs => f.write_str("what was encrypted decrypts to something else"),
            Unverified::Unwritten(what) => write!(f, "C_Encrypt: {what}"),
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        Failure::Fault(fault)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        Failure::Call(error)
    }
}

/// To be asked between two HSM calls; never between an Init and what it begins, which would leave
/// an operation active.
pub(super) fn in_time(deadline: Option<Instant>) -> Result<(), Fault> {
    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        Err(Fault::Timeout)
    } else {
        Ok(())
    }
}
