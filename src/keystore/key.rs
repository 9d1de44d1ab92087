//! A key as KMS names it, and the versions of it that a key manager holds.

use std::sync::Arc;

use crate::key_manager::{Cipher, KeyRef, ManagedVersion, VersionState};
use crate::policy::budget::Budget;
use crate::policy::quota::Quota;

/// A version, and what it may be used for.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its number, and its label in the key manager.
    pub key: KeyRef,
    /// What it may be used for.
    pub state: VersionState,
    /// How it encrypts.
    pub cipher: Cipher,
    /// How often it may encrypt; `None` where nobody counts.
    pub budget: Option<Arc<Budget>>,
}

impl Version {
    fn first(label: &str) -> Version {
        let (state, cipher) = (VersionState::Primary, Cipher::Direct);
        Version { key: KeyRef::first(label), state, cipher, budget: None }
    }
}

/// One key as KMS names it.
pub struct Key {
    /// By number, ascending. None where a key manager keeps them and does not know them now.
    versions: Box<[Version]>,
    /// The one to encrypt with.
    primary: Version,
    /// A key manager keeps the versions, and not the configuration.
    managed: bool,
    /// False: answered InvalidStateException.
    pub enabled: bool,
    /// How many requests it may have, within those of its key store.
    pub quota: Option<Arc<Quota>>,
    /// What its requests are counted by: its id; `None` where they are counted with others'.
    pub counted_as: Option<Arc<str>>,
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
        let only = Version::first(label);
        let versions = [only.clone()].into();
        Key { versions, primary: only, managed: false, enabled, quota: None, counted_as: None }
    }

    /// One whose versions its key manager keeps: these, or `None` where it does not know them now.
    /// Then it is asked for whichever there may be, and says why it cannot.
    pub fn managed(
        label: &str,
        versions: Option<Vec<ManagedVersion>>,
        enabled: bool,
        budget: impl Fn(u16) -> Option<Arc<Budget>>,
    ) -> Key {
        let label: Arc<str> = label.into();
        let version = |ManagedVersion { number, state, cipher, .. }| {
            let key = KeyRef { version: number, ..KeyRef::first(label.clone()) };
            Version { key, state, cipher, budget: budget(number) }
        };
        let versions = versions.unwrap_or_default().into_iter().map(version).collect();
        let known = Key::with_versions(versions, enabled).unwrap_or_else(|| {
            let (versions, primary) = (Box::default(), Version::first(&label));
            Key { versions, primary, managed: true, enabled, quota: None, counted_as: None }
        });
        Key { managed: true, ..known }
    }

    /// One with these versions; `None` unless exactly one is primary.
    pub fn with_versions(mut versions: Vec<Version>, enabled: bool) -> Option<Key> {
        versions.sort_by_key(|version| version.key.version);
        let is_primary = |version: &Version| version.state == VersionState::Primary;
        let primary = versions.iter().find(|version| is_primary(version))?.clone();
        let one = versions.iter().filter(|version| is_primary(version)).count() == 1;
        let versions = versions.into();
        one.then_some(Key {
            versions,
            primary,
            managed: false,
            enabled,
            quota: None,
            counted_as: None,
        })
    }

    /// All versions, by number.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The version to encrypt with.
    pub fn primary(&self) -> Version {
        self.primary.clone()
    }

    /// Whether its key manager keeps its versions, and may give each message a key of its own.
    pub fn is_managed(&self) -> bool {
        self.managed
    }

    /// How often the primary version may encrypt; `None` where nobody counts.
    pub fn budget(&self) -> Option<&Arc<Budget>> {
        self.primary.budget.as_ref()
    }

    /// The version that a ciphertext's metadata names, to decrypt with.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn version(&self, number: u16) -> Result<KeyRef, NoVersion> {
        if self.versions.is_empty() {
            return Ok(KeyRef { version: number, ..self.primary.key.clone() });
        }
        // Of a key that was never rotated no other instance can know a newer one: all are given a
        // version before one encrypts with it. Key files are copied from one to the other.
        let may_be_newer = self.versions.len() > 1 || self.managed;
        match self.versions.binary_search_by_key(&number, |version| version.key.version) {
            Ok(at) if self.versions[at].state.decrypts() => Ok(self.versions[at].key.clone()),
            Ok(_) => Err(NoVersion::Disabled),
            Err(at) if at == self.versions.len() && may_be_newer => Err(NoVersion::Newer),
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
        let key = KeyRef { version: number, ..KeyRef::first(format!("foo-{number}")) };
        Version { key, state, cipher: Cipher::Direct, budget: None }
    }

    #[test]
    fn version_0_is_the_only_one_of_a_key_without_versions() {
        let key = Key::new("foo", true);
        let first = KeyRef::first("foo");
        assert_eq!(
            (key.primary().key, key.first(), key.version(0)),
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
        assert_eq!(key.primary().key, versions[3].key);
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

    #[test]
    fn a_key_manager_that_knows_no_versions_now_is_asked_for_any() {
        let key = Key::managed("foo", None, true, |_| None);
        let of = |number| KeyRef { version: number, ..KeyRef::first("foo") };
        assert_eq!((key.primary().key, key.versions().len()), (of(0), 0));
        assert_eq!((key.version(7), key.first()), (Ok(of(7)), Ok(of(0))));
        let (cipher, promoted) = (Cipher::Derived, None);
        let only = |number, state| ManagedVersion { number, state, cipher, promoted };
        let known = vec![only(3, VersionState::Primary)];
        let key = Key::managed("foo", Some(known), true, |_| None);
        assert_eq!((key.primary().key, key.primary().cipher), (of(3), Cipher::Derived));
        // Its file may be older than another instance's.
        assert_eq!(
            (key.version(4), key.version(2)),
            (Err(NoVersion::Newer), Err(NoVersion::Unknown))
        );
    }
}
