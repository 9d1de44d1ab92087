//! What a key manager says of its keys. How the API spells it stands in `api::response`.

/// What a key is and may do, as its key manager says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyDescription {
    /// Kind and size.
    pub spec: KeySpec,
    /// Each that the key's attributes allow.
    pub usage: KeyUsages,
    /// Within CKA_START_DATE and CKA_END_DATE today (UTC); true if they are not set.
    pub enabled: bool,
}

impl KeyDescription {
    /// Of a key that xksd computes with itself.
    pub(super) fn of_software_key() -> KeyDescription {
        KeyDescription {
            spec: KeySpec::AES_256,
            usage: [KeyUsage::Encrypt, KeyUsage::Decrypt].into_iter().collect(),
            enabled: true,
        }
    }
}

/// Kind and size of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySpec {
    /// AES, of so many bits; `None` where the key manager does not say.
    Aes(Option<u64>),
    /// A secret for HMAC and the like, of so many bits.
    GenericSecret(Option<u64>),
    /// ChaCha20, of so many bits.
    ChaCha20(Option<u64>),
    /// Single DES.
    Des,
    /// Triple DES with two keys.
    Des2,
    /// Triple DES with three keys.
    Des3,
    /// Another CKA_KEY_TYPE of PKCS#11.
    Other(u64),
    /// The key manager does not say.
    Unknown,
}

impl KeySpec {
    /// What AWS KMS needs; no other can serve it.
    pub const AES_256: KeySpec = KeySpec::Aes(Some(256));
}

/// One thing that a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUsage {
    /// CKA_ENCRYPT.
    Encrypt,
    /// CKA_DECRYPT.
    Decrypt,
    /// CKA_SIGN.
    Sign,
    /// CKA_VERIFY.
    Verify,
    /// CKA_WRAP: carry other keys out.
    Wrap,
    /// CKA_UNWRAP: bring other keys in.
    Unwrap,
    /// CKA_DERIVE.
    Derive,
}

impl KeyUsage {
    /// All, in the order in which they are reported.
    pub const ALL: [KeyUsage; 7] = [
        KeyUsage::Encrypt,
        KeyUsage::Decrypt,
        KeyUsage::Sign,
        KeyUsage::Verify,
        KeyUsage::Wrap,
        KeyUsage::Unwrap,
        KeyUsage::Derive,
    ];

    /// The attribute that allows it.
    pub fn attribute(self) -> &'static str {
        match self {
            KeyUsage::Encrypt => "CKA_ENCRYPT",
            KeyUsage::Decrypt => "CKA_DECRYPT",
            KeyUsage::Sign => "CKA_SIGN",
            KeyUsage::Verify => "CKA_VERIFY",
            KeyUsage::Wrap => "CKA_WRAP",
            KeyUsage::Unwrap => "CKA_UNWRAP",
            KeyUsage::Derive => "CKA_DERIVE",
        }
    }
}

/// A set of usages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyUsages(u8);

impl KeyUsages {
    /// Whether `usage` is one of them.
    pub fn contains(self, usage: KeyUsage) -> bool {
        self.0 & bit(usage) != 0
    }

    /// Whether it is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Takes `usage` away.
    pub fn remove(&mut self, usage: KeyUsage) {
        self.0 &= !bit(usage);
    }

    /// The attributes that allow more than to encrypt and decrypt: none of a key as it should be.
    pub fn beyond_encryption(self) -> Vec<&'static str> {
        let is_other = |usage: &KeyUsage| !matches!(usage, KeyUsage::Encrypt | KeyUsage::Decrypt);
        self.iter().filter(is_other).map(KeyUsage::attribute).collect()
    }

    /// Each, in the order of [`KeyUsage::ALL`].
    pub fn iter(self) -> impl Iterator<Item = KeyUsage> {
        KeyUsage::ALL.into_iter().filter(move |usage| self.contains(*usage))
    }
}

impl FromIterator<KeyUsage> for KeyUsages {
    fn from_iter<I: IntoIterator<Item = KeyUsage>>(usages: I) -> KeyUsages {
        KeyUsages(usages.into_iter().fold(0, |bits, usage| bits | bit(usage)))
    }
}

fn bit(usage: KeyUsage) -> u8 {
    1 << usage as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usages_are_a_set_in_one_order() {
        let mut usages: KeyUsages = [KeyUsage::Derive, KeyUsage::Encrypt].into_iter().collect();
        assert!(usages.contains(KeyUsage::Derive) && !usages.contains(KeyUsage::Decrypt));
        assert!(usages.iter().eq([KeyUsage::Encrypt, KeyUsage::Derive]));
        usages.remove(KeyUsage::Encrypt);
        usages.remove(KeyUsage::Sign);
        assert!(usages.iter().eq([KeyUsage::Derive]) && !usages.is_empty());
        let all: KeyUsages = KeyUsage::ALL.into_iter().collect();
        assert!(all.iter().eq(KeyUsage::ALL));
        let beyond = ["CKA_SIGN", "CKA_VERIFY", "CKA_WRAP", "CKA_UNWRAP", "CKA_DERIVE"];
        assert_eq!(all.beyond_encryption(), beyond);
        assert!(KeyUsages::default().is_empty());
    }
}
