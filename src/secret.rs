//! Text that is secret: credentials and PINs, in memory that is locked and wiped.

use std::fmt;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secret_memory::{Arena, Bytes, Error, Wanted};
use zeroize::Zeroizing;

/// For what the process itself must know to serve. It stays until the process ends: secrets come
/// and go by reloads.
static ARENA: LazyLock<Result<Arena, Error>> = LazyLock::new(|| Arena::new(Wanted::Prefer));

/// The process's arena for secrets that are no keys of a key manager.
///
/// # Errors
/// What the kernel refused.
pub fn arena() -> Result<&'static Arena, Error> {
    ARENA.as_ref().map_err(Clone::clone)
}

/// Text of which there is one copy, however often it is cloned. `Debug` does not show it.
#[derive(Clone)]
pub struct SecretString(Arc<Bytes>);

impl SecretString {
    /// The caller's copy remains the caller's to overwrite.
    ///
    /// # Errors
    /// When there is no memory for secrets, or not so much.
    pub fn new(text: &str) -> Result<SecretString, Error> {
        Ok(SecretString(Arc::new(arena()?.copy(text.as_bytes())?)))
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.0).expect("made of a str")
    }

    /// The bytes that it is the base64 of.
    pub fn base64(&self) -> Option<Zeroizing<Vec<u8>>> {
        STANDARD.decode(self.expose()).map(Zeroizing::new).ok()
    }
}

impl PartialEq for SecretString {
    fn eq(&self, other: &SecretString) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for SecretString {}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretString(…)")
    }
}
