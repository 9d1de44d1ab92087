//! PINs that tokens of a module have refused: each try of one counts towards locking the token, by
//! whichever key manager, also by one that takes the place of another.

use std::sync::{Mutex, PoisonError};

use super::errors::CallError;
use crate::secret::SecretString;

/// By token.
#[derive(Default)]
pub(super) struct RefusedPins(Mutex<Vec<(String, SecretString, CallError)>>);

impl RefusedPins {
    /// What the token said to this PIN, if it has refused it.
    pub(super) fn find(&self, token: &str, pin: &SecretString) -> Option<CallError> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().find(|(of, refused, _)| of == token && refused == pin);
        found.map(|(_, _, error)| *error)
    }

    pub(super) fn add(&self, token: &str, pin: &SecretString, error: CallError) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((token.to_owned(), pin.clone(), error));
    }
}
