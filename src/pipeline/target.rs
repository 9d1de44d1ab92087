//! What a request is for: a key store and a key of it, as far as they may be used now.

use std::time::Instant;

use crate::api::{ApiError, ErrorName, Operation, Route};
use crate::keystore::{Key, KeyStore};

/// A key store, one of its keys, and until when.
pub(super) struct Target<'a> {
    pub(super) store: &'a KeyStore,
    /// `None` for health, which is of the key store.
    key: Option<&'a Key>,
    /// The request's body, as it was decoded: another try decodes it once more.
    pub(super) body: &'a [u8],
    pub(super) deadline: Instant,
}

impl<'a> Target<'a> {
    /// What `route` leads to.
    ///
    /// # Errors
    /// Where it does not exist, is disabled, or `deadline` is over.
    pub(super) fn find(
        store: &'a KeyStore,
        route: &Route<'_>,
        body: &'a [u8],
        deadline: Instant,
    ) -> Result<Target<'a>, ApiError> {
        if !store.enabled {
            return Err(disabled("this key store is disabled in the proxy's configuration"));
        }
        if Instant::now() >= deadline {
            let message = "the request took longer to arrive than it may take to answer";
            return Err(ApiError::new(ErrorName::DependencyTimeoutException, message));
        }
        let found = || store.keys.get(route.key_id).ok_or_else(no_such_key);
        let key = match route.operation {
            Operation::Health => None,
            // Of a disabled key too: the answer says that it is.
            Operation::Metadata => Some(found()?),
            Operation::Encrypt | Operation::Decrypt => {
                let key = found()?;
                if !key.enabled {
                    let message = "this external key is disabled in the proxy's configuration";
                    return Err(disabled(message));
                }
                Some(key)
            }
        };
        Ok(Target { store, key, body, deadline })
    }

    /// The key.
    ///
    /// # Errors
    /// Where the request is for none.
    pub(super) fn key(&self) -> Result<&'a Key, ApiError> {
        self.key.ok_or_else(no_such_key)
    }
}

fn disabled(message: &'static str) -> ApiError {
    ApiError::new(ErrorName::InvalidStateException, message)
}

fn no_such_key() -> ApiError {
    ApiError::new(ErrorName::KeyNotFoundException, "this key store has no such external key")
}
