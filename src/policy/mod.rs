//! Whether a request that is authenticated and valid is permitted. Pure: what it decides by is
//! passed in, the time too.
//!
//! [`Permit`] is the only thing that the pipeline executes, and only [`decide`] makes one.

pub mod blocklist;
pub mod cedar;
pub mod quota;

use crate::api::{Call, ValidRequest};
use crate::sigv4::Authenticated;

/// A request that is authenticated, valid and permitted, and what it is for.
#[derive(Debug)]
pub struct Permit<T> {
    authenticated: Authenticated,
    call: Call,
    target: T,
}

impl<T> Permit<T> {
    /// Who signed the request.
    pub fn authenticated(&self) -> &Authenticated {
        &self.authenticated
    }

    /// Taken apart, to be executed.
    pub fn into_parts(self) -> (Call, T) {
        (self.call, self.target)
    }
}

/// Decides on a request for `target`. There are no policies yet: what is authenticated and valid is
/// permitted.
pub fn decide<T>(authenticated: Authenticated, request: ValidRequest<'_>, target: T) -> Permit<T> {
    let (_, call) = request.into_parts();
    Permit { authenticated, call, target }
}
