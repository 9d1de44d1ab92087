//! A key as KMS names it, and the versions of it that a key manager holds.

use std::sync::Arc;

use crate::key_manager::KeyRef;
use crate::policy::quota::Quota;

/// What a version of a key may be used for. It goes from each to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionState {
    /// Decrypts, and is not encrypted with yet: until every instance knows it.
    Staged,
    /// Encrypts and decrypts. One version of a key is.
    Primary,
    /// Decrypts what it once encrypted.
    DecryptOnly,
    /// Is not used; may be taken back.
    Disabled,
    /// Its material is gone. Its number is never used again.
    Destroyed,
}

impl VersionState {
    /// All of them, in their order.
    pub const ALL: [Self; 5] =
        [Self::Staged, Self::Primary, Self::DecryptOnly, Self::Disabled, Self::Destroyed];

    /// As it stands in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Primary => "primary",
            Self::DecryptOnly => "decrypt_only",
            Self::Disabled => "disabled",
            Self::Destroyed => "destroyed",
        }
    }

    /// Whether a ciphertext of the version opens.
    pub fn decrypts(self) -> bool {
        matches!(self, Self::Staged | Self::Primary | Self::DecryptOnly)
    }
}

/// A version, and what it may be used for.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its number, and its label in the key manager.
    pub key: KeyRef,
    /// What it may be used for.
    pub state: VersionState,
}

/// One key as KMS names it.
pub struct Key {
    /// By number, ascending.
    versions: Box<[Version]>,
    /// Index of the primary one.
    primary: usize,
    /// False: answered InvalidStateException.
    pub enabled: bool,
    /// How many requests it may have, within those of its key store.
    pub quota: Option<Arc<Quota>>,
}

/// Why a version cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoVersion {
    /// It is disabled or destroyed.
    Disabled,
    /// Its number is above those that are known: another instance may know it already.
    Newer,
    /// There is none of this number.
    Unknown,
}

impl Key {
    /// One with a single version, [`KeyRef::first`].
    pub fn new(label: &str, enabled: bool) -> Key {
        let only = Version { key: KeyRef::first(label), state: VersionState::Primary };
        Key { versions: [only].into(), primary: 0, enabled, quota: None }
    }

    /// One with these versions; `None` unless exactly one is primary.
    pub fn with_versions(mut versions: Vec<Version>, enabled: bool) -> Option<Key> {
        versions.sort_by_key(|version| version.key.version);
        let is_primary = |version: &Version| version.state == VersionState::Primary;
        let primary = versions.iter().position(is_primary)?;
        let one = versions.iter().filter(|version| is_primary(version)).count() == 1;
        one.then(|| Key { versions: versions.into(), primary, enabled, quota: None })
    }

    /// All versions, by number.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The version to encrypt with.
    pub fn primary(&self) -> KeyRef {
        self.versions[self.primary].key.clone()
    }

    /// The version that a ciphertext's metadata names, to decrypt with.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn version(&self, number: u16) -> Result<KeyRef, NoVersion> {
        // Of a key that was never rotated no other instance can know a newer one: all are given a
        // version before one encrypts with it.
        let is_rotated = self.versions.len() > 1;
        match self.versions.binary_search_by_key(&number, |version| version.key.version) {
            Ok(at) if self.versions[at].state.decrypts() => Ok(self.versions[at].key.clone()),
            Ok(_) => Err(NoVersion::Disabled),
            Err(at) if at == self.versions.len() && is_rotated => Err(NoVersion::Newer),
            Err(_) => Err(NoVersion::Unknown),
        }
    }

    /// The version that ciphertext of other proxies was made with, which know no versions: 0.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn first(&self) -> Result<KeyRef, NoVersion> {
        self.version(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u16, state: VersionState) -> Version {
        Version { key: KeyRef { label: format!("foo-{number}").into(), version: number }, state }
    }

    #[test]
    fn version_0_is_the_only_one_of_a_key_without_versions() {
        let key = Key::new("foo", true);
        let first = KeyRef { label: "foo".into(), version: 0 };
        assert_eq!(
            (key.primary(), key.first(), key.version(0)),
            (first.clone(), Ok(first.clone()), Ok(first))
        );
        for number in [1, 256, u16::MAX] {
            assert_eq!(key.version(number), Err(NoVersion::Unknown));
        }
    }

    #[test]
    fn a_version_is_used_as_its_state_says() {
        use VersionState::{DecryptOnly, Destroyed, Disabled, Primary, Staged};
        let states = [(7, Staged), (0, Destroyed), (2, Disabled), (5, Primary), (3, DecryptOnly)];
        let versions = states.map(|(number, state)| version(number, state));
        let key = Key::with_versions(versions.to_vec(), true).unwrap();
        assert_eq!(key.primary(), versions[3].key);
        for (number, usable) in [(3, 4), (5, 3), (7, 0)] {
            assert_eq!(key.version(number).as_ref(), Ok(&versions[usable].key));
        }
        assert_eq!(key.version(2), Err(NoVersion::Disabled));
        assert_eq!(key.first(), Err(NoVersion::Disabled));
        assert_eq!(key.version(1), Err(NoVersion::Unknown));
        assert_eq!(key.version(8), Err(NoVersion::Newer));
        for wrong in
            [vec![], versions[..1].to_vec(), vec![version(0, Primary), version(1, Primary)]]
        {
            assert!(Key::with_versions(wrong, true).is_none());
        }
    }
}
