//! Versions of a key: what each may be used for, and how.

use serde::{Deserialize, Serialize};

/// What a version of a key may be used for. It goes from each to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

    /// As it stands in the configuration and in key files.
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

/// How a version encrypts, which is the format of its ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// With the key itself: format 0x01. At most 2³² times, as IVs are random.
    Direct,
    /// With a key made of it for each message: format 0x02.
    Derived,
}

/// A version of a key, as a key manager says that keeps the versions itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedVersion {
    /// Its number.
    pub number: u16,
    /// What it may be used for.
    pub state: VersionState,
    /// How it encrypts.
    pub cipher: Cipher,
    /// When it became primary, Unix seconds.
    pub promoted: Option<i64>,
}
