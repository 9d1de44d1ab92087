//! A key as KMS names it, and the versions of it that a key manager holds.

use std::sync::Arc;

use crate::key_manager::KeyRef;
use crate::policy::quota::Quota;

/// One key as KMS names it.
pub struct Key {
    /// Its name in the key manager.
    label: Arc<str>,
    /// False: answered InvalidStateException.
    pub enabled: bool,
    /// How many requests it may have, within those of its key store.
    pub quota: Option<Arc<Quota>>,
}

impl Key {
    /// One with a single version, [`KeyRef::first`].
    pub fn new(label: &str, enabled: bool) -> Key {
        Key { label: label.into(), enabled, quota: None }
    }

    /// The version to encrypt with.
    pub fn primary(&self) -> KeyRef {
        self.first()
    }

    /// The version that a ciphertext's metadata names; `None` where there is none of this number.
    pub fn version(&self, number: u16) -> Option<KeyRef> {
        Some(self.first()).filter(|first| first.version == number)
    }

    /// The version that ciphertext of other proxies was made with, which know no versions.
    pub fn first(&self) -> KeyRef {
        KeyRef::first(self.label.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_0_is_the_only_one() {
        let key = Key::new("foo", true);
        let first = KeyRef { label: "foo".into(), version: 0 };
        assert_eq!(
            (key.primary(), key.first(), key.version(0)),
            (first.clone(), first.clone(), Some(first))
        );
        assert!([1, 256, u16::MAX].iter().all(|&number| key.version(number).is_none()));
    }
}
