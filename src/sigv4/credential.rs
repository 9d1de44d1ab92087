//! SigV4 credentials: what AWS KMS and xksd share.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ring::digest;
use zeroize::Zeroizing;

use crate::limits::{ACCESS_KEY_ID_CHARS, SECRET_ACCESS_KEY_CHARS};
use crate::secret::SecretString;

/// The first HMAC key of the derivation is this followed by the secret access key.
const SECRET_PREFIX: &str = "AWS4";

/// Why a credential is refused. Never shows what was given: id and secret are easily exchanged by
/// mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialError {
    /// Too short or too long.
    Length {
        /// `access key id` or `secret access key`.
        what: &'static str,
        /// Characters found.
        chars: usize,
        /// Characters allowed.
        allowed: RangeInclusive<usize>,
    },
    /// A character that is not allowed.
    Character {
        /// `access key id` or `secret access key`.
        what: &'static str,
        /// Its position, from 1.
        position: usize,
        /// Whether it is white space, such as a line break at the end of a file.
        white_space: bool,
        /// The characters allowed.
        allowed: &'static str,
    },
    /// Two credentials of one key store have the same id.
    DuplicateAccessKeyId {
        /// The id.
        access_key_id: AccessKeyId,
    },
    /// A key store without credentials: nobody could use it.
    NoCredential,
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { what, chars, allowed } => {
                write!(
                    f,
                    "the {what} has {chars} characters; {} to {} are allowed",
                    allowed.start(),
                    allowed.end()
                )
            }
            Self::Character { what, position, white_space, allowed } => {
                let kind = if *white_space { "white space or a line break" } else { "not allowed" };
                write!(
                    f,
                    "character {position} of the {what} is {kind}; only {allowed} may be used"
                )
            }
            Self::DuplicateAccessKeyId { access_key_id } => {
                write!(
                    f,
                    "the access key id {access_key_id} is given twice; an id must identify one \
                     secret access key"
                )
            }
            Self::NoCredential => {
                f.write_str("there is no credential; at least one is needed, two while rotating")
            }
        }
    }
}

impl std::error::Error for CredentialError {}

fn check(
    what: &'static str,
    text: &str,
    length: RangeInclusive<usize>,
    allowed: &'static str,
    is_allowed: fn(char) -> bool,
) -> Result<(), CredentialError> {
    // Characters first: a file's trailing line break is better named as such than as one character
    // too many.
    if let Some((at, c)) = text.chars().enumerate().find(|&(_, c)| !is_allowed(c)) {
        return Err(CredentialError::Character {
            what,
            position: at + 1,
            white_space: c.is_whitespace(),
            allowed,
        });
    }
    let chars = text.len(); // all ASCII by now
    if !length.contains(&chars) {
        return Err(CredentialError::Length { what, chars, allowed: length });
    }
    Ok(())
}

/// Names a secret access key; not secret itself. spec: 20 to 30 of `[A-Z2-7]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccessKeyId(Arc<str>);

impl AccessKeyId {
    /// Checks length and characters.
    pub fn new(text: &str) -> Result<Self, CredentialError> {
        check(
            "access key id",
            text,
            ACCESS_KEY_ID_CHARS,
            "A-Z and 2-7",
            |c| matches!(c, 'A'..='Z' | '2'..='7'),
        )?;
        Ok(Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn shared(&self) -> &Arc<str> {
        &self.0
    }
}

impl fmt::Display for AccessKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The shared secret: never shown by `Debug`. spec: 43 to 64 of `[A-Za-z0-9/+=]`.
#[derive(Debug)]
pub struct SecretAccessKey(SecretString);

impl SecretAccessKey {
    /// Checks length and characters.
    pub fn new(secret: SecretString) -> Result<Self, CredentialError> {
        check(
            "secret access key",
            secret.expose(),
            SECRET_ACCESS_KEY_CHARS,
            "A-Z, a-z, 0-9, '+', '/' and '='",
            |c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '='),
        )?;
        Ok(Self(secret))
    }

    /// `"AWS4" + secret`, the first HMAC key of the derivation.
    pub(super) fn derivation_key(&self) -> Zeroizing<Vec<u8>> {
        // `concat` takes room for all of it at once: growing would leave a copy behind.
        Zeroizing::new([SECRET_PREFIX.as_bytes(), self.0.expose().as_bytes()].concat())
    }
}

/// An access key id with its secret.
#[derive(Debug)]
pub struct Credential {
    access_key_id: AccessKeyId,
    secret: SecretAccessKey,
    fingerprint: Fingerprint,
}

/// SHA-256 over id and secret: tells a replaced secret from the one before under the same id, and
/// two key stores' equal ids apart, without keeping an old secret alive to compare with. As secret
/// as the secret if that has less entropy than it must.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(redacted)")
    }
}

impl Fingerprint {
    fn of(id: &AccessKeyId, secret: &SecretAccessKey) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(id.as_str().as_bytes());
        context.update(b"\0"); // in neither of the two: where one ends stays certain
        context.update(&secret.derivation_key());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }
}

impl Credential {
    /// Binds an id to its secret.
    pub fn new(access_key_id: AccessKeyId, secret: SecretAccessKey) -> Self {
        let fingerprint = Fingerprint::of(&access_key_id, &secret);
        Self { access_key_id, secret, fingerprint }
    }

    /// For AWS's published vectors, whose id and secret are shorter than the XKS specification
    /// allows.
    #[cfg(test)]
    pub(super) fn unchecked(access_key_id: &str, secret: &str) -> Self {
        let secret = SecretString::new(secret).expect("memory");
        Self::new(AccessKeyId(access_key_id.into()), SecretAccessKey(secret))
    }

    /// The id.
    pub fn access_key_id(&self) -> &AccessKeyId {
        &self.access_key_id
    }

    /// The secret.
    pub fn secret(&self) -> &SecretAccessKey {
        &self.secret
    }

    pub(super) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}

/// The credentials of one key store. spec: "XKS proxies SHOULD support simultaneous usage of at
/// least two sets of SigV4 credentials for each path-prefix": there is no upper bound here.
#[derive(Debug)]
pub struct CredentialSet(Vec<Credential>);

impl CredentialSet {
    /// Refuses an empty set, and an id given twice.
    pub fn new(credentials: Vec<Credential>) -> Result<Self, CredentialError> {
        if credentials.is_empty() {
            return Err(CredentialError::NoCredential);
        }
        for (at, credential) in credentials.iter().enumerate() {
            if credentials[..at]
                .iter()
                .any(|earlier| earlier.access_key_id == credential.access_key_id)
            {
                return Err(CredentialError::DuplicateAccessKeyId {
                    access_key_id: credential.access_key_id.clone(),
                });
            }
        }
        Ok(Self(credentials))
    }

    /// The credential of that id. Not in constant time: an access key id is no secret, it travels
    /// in every request. For the same reason an unknown id may be answered sooner and by its own
    /// message.
    pub fn get(&self, access_key_id: &str) -> Option<&Credential> {
        // A handful of credentials: a scan is as fast as hashing.
        self.0.iter().find(|credential| credential.access_key_id.as_str() == access_key_id)
    }
}
