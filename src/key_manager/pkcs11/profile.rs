//! What is particular to a make of HSM: one row each.

use cryptoki_sys::*;

use super::super::Concurrency;
use super::errors::{Call, CallError, Reaction, Rule};

/// A make of PKCS#11 module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// A module that follows the standard: takes the caller's IV, refuses a wrong tag with any of
    /// the codes in use for it.
    Generic,
    /// SoftHSM 2.
    SoftHsm,
    /// NSS softokn.
    Nss,
    /// kryoptic.
    Kryoptic,
    /// Thales Luna 7.
    Luna,
    /// Entrust nShield.
    NShield,
    /// AWS CloudHSM, client SDK 5.
    CloudHsm,
}

/// Where the IV of an encryption comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IvMode {
    /// xksd gives it, from the HSM's generator.
    Caller,
    /// xksd gives zeros, and the module writes the HSM's IV into their place during C_EncryptInit
    /// or C_Encrypt.
    Fill,
    /// xksd gives none, and the HSM's IV follows the tag in C_Encrypt's output.
    Append,
}

/// A profile's row.
pub(super) struct Row {
    profile: Profile,
    name: &'static str,
    pub(super) iv: IvMode,
    /// How many sessions at work do any good.
    pub(super) concurrency: Concurrency,
    /// The module has no read-only sessions.
    read_write_only: bool,
    /// Sessions where none are configured.
    sessions: usize,
    /// Rules that go before the common ones.
    pub(super) rules: &'static [Rule],
}

/// Codes that some module is known to return for a wrong tag, none of which means it.
/// CKR_DEVICE_ERROR is not among them: it may pass, and must never be reported as bad ciphertext.
const UNCERTAIN: &[CK_RV] =
    &[CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED, CKR_DATA_INVALID, CKR_SIGNATURE_INVALID];

const ROWS: &[Row] = &[
    Row {
        profile: Profile::Generic,
        name: "generic",
        iv: IvMode::Caller,
        concurrency: Concurrency::PerSession,
        read_write_only: false,
        sessions: 16,
        rules: &[Rule(Some(Call::Decrypt), UNCERTAIN, Reaction::Ambiguous)],
    },
    Row {
        profile: Profile::SoftHsm,
        name: "softhsm",
        iv: IvMode::Caller,
        // A lock around everything: one thread does 47,000 CDIV encrypts a second, two do 28,000
        // together.
        concurrency: Concurrency::Single,
        read_write_only: false,
        sessions: 16,
        // CKR_GENERAL_ERROR is its answer to a wrong tag, and to everything that goes wrong in its
        // store.
        rules: &[Rule(Some(Call::Decrypt), &[CKR_GENERAL_ERROR], Reaction::Ambiguous)],
    },
    Row {
        profile: Profile::Nss,
        name: "nss",
        iv: IvMode::Caller,
        concurrency: Concurrency::PerCore,
        read_write_only: false,
        sessions: 16,
        rules: &[],
    },
    Row {
        profile: Profile::Kryoptic,
        name: "kryoptic",
        iv: IvMode::Caller,
        concurrency: Concurrency::PerCore,
        read_write_only: false,
        sessions: 16,
        rules: &[],
    },
    Row {
        profile: Profile::Luna,
        name: "luna",
        // In FIPS mode it refuses an IV of the caller's; out of it, it makes one just the same when
        // none is given.
        iv: IvMode::Append,
        concurrency: Concurrency::PerSession,
        read_write_only: false,
        sessions: 32,
        // Its code for a wrong tag is not published.
        rules: &[Rule(Some(Call::Decrypt), UNCERTAIN, Reaction::Ambiguous)],
    },
    Row {
        profile: Profile::NShield,
        name: "nshield",
        iv: IvMode::Fill,
        concurrency: Concurrency::PerSession,
        read_write_only: false,
        sessions: 32,
        // CKR_FUNCTION_FAILED is its answer to a wrong tag, and to most of what the hardserver
        // refuses.
        rules: &[Rule(Some(Call::Decrypt), UNCERTAIN, Reaction::Ambiguous)],
    },
    Row {
        profile: Profile::CloudHsm,
        name: "cloudhsm",
        iv: IvMode::Fill,
        concurrency: Concurrency::PerSession,
        // "Read Only Session is not supported in SDK 5" (its known issues).
        read_write_only: true,
        sessions: 32,
        rules: &[
            // Documented for a throttled call; the code for a wrong tag is not documented.
            Rule(Some(Call::Decrypt), &[CKR_FUNCTION_FAILED], Reaction::BusyOrBadCiphertext),
            Rule(Some(Call::Decrypt), UNCERTAIN, Reaction::Ambiguous),
            Rule(None, &[CKR_FUNCTION_FAILED], Reaction::Busy),
            // Documented for a throttled one (its known issues).
            Rule(Some(Call::GetAttributeValue), &[CKR_DEVICE_ERROR], Reaction::Busy),
        ],
    },
];

impl Profile {
    pub(super) fn row(self) -> &'static Row {
        // Every profile has its row (tested); the first is the one that assumes least.
        ROWS.iter().find(|row| row.profile == self).unwrap_or(&ROWS[0])
    }

    /// What follows from a call that failed.
    pub(super) fn reaction(self, error: &CallError) -> Reaction {
        error.reaction(self.row().rules)
    }

    /// How many sessions at work do any good.
    pub fn concurrency(self) -> Concurrency {
        self.row().concurrency
    }

    /// Whether the module has no read-only sessions.
    pub fn has_read_write_sessions_only(self) -> bool {
        self.row().read_write_only
    }

    /// The profile of a name in the configuration.
    pub fn from_name(name: &str) -> Option<Profile> {
        ROWS.iter().find(|row| row.name == name).map(|row| row.profile)
    }

    /// As the configuration names it.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Sessions of a key manager for which none are configured.
    pub fn default_sessions(self) -> usize {
        self.row().sessions
    }

    /// All names, in the order of the documentation.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ROWS.iter().map(|row| row.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SESSIONS_MAX;

    #[test]
    fn every_profile_has_its_row() {
        for profile in [
            Profile::Generic,
            Profile::SoftHsm,
            Profile::Nss,
            Profile::Kryoptic,
            Profile::Luna,
            Profile::NShield,
            Profile::CloudHsm,
        ] {
            assert_eq!(profile.row().profile, profile);
            assert_eq!(Profile::from_name(profile.row().name), Some(profile));
            assert!((1..=SESSIONS_MAX).contains(&profile.default_sessions()));
        }
        assert_eq!(
            Profile::names().collect::<Vec<_>>(),
            ["generic", "softhsm", "nss", "kryoptic", "luna", "nshield", "cloudhsm"]
        );
        assert_eq!(Profile::from_name("SoftHSM"), None);
    }

    #[test]
    fn a_code_means_what_it_means_for_its_call_only() {
        let reaction = |profile: Profile, call, code| profile.reaction(&CallError { call, code });
        assert_eq!(
            reaction(Profile::SoftHsm, Call::Decrypt, CKR_GENERAL_ERROR),
            Reaction::Ambiguous
        );
        assert_eq!(
            reaction(Profile::SoftHsm, Call::DecryptInit, CKR_GENERAL_ERROR),
            Reaction::Device
        );
        assert_eq!(reaction(Profile::SoftHsm, Call::Encrypt, CKR_GENERAL_ERROR), Reaction::Device);
        assert_eq!(reaction(Profile::Nss, Call::Decrypt, CKR_GENERAL_ERROR), Reaction::Device);
        assert_eq!(
            reaction(Profile::Nss, Call::Decrypt, CKR_ENCRYPTED_DATA_INVALID),
            Reaction::BadCiphertext
        );
        assert_eq!(
            reaction(Profile::Kryoptic, Call::Decrypt, CKR_AEAD_DECRYPT_FAILED),
            Reaction::BadCiphertext
        );
        assert_eq!(
            reaction(Profile::Generic, Call::Encrypt, CKR_ENCRYPTED_DATA_INVALID),
            Reaction::Device
        );
        assert_eq!(reaction(Profile::Generic, Call::Decrypt, CKR_DEVICE_ERROR), Reaction::Device);
        assert_eq!(
            reaction(Profile::Generic, Call::Decrypt, CKR_FUNCTION_FAILED),
            Reaction::Ambiguous
        );
        assert_eq!(
            reaction(Profile::Generic, Call::EncryptInit, CKR_OBJECT_HANDLE_INVALID),
            Reaction::KeyHandle
        );
        assert_eq!(
            reaction(Profile::Generic, Call::FindObjects, CKR_SESSION_CLOSED),
            Reaction::SessionLost
        );
        assert_eq!(
            reaction(Profile::Generic, Call::DecryptInit, CKR_KEY_FUNCTION_NOT_PERMITTED),
            Reaction::Usage
        );
        assert_eq!(
            reaction(Profile::Generic, Call::GenerateKey, CKR_KEY_SIZE_RANGE),
            Reaction::Device
        );
        assert_eq!(
            reaction(Profile::Generic, Call::MessageEncryptInit, CKR_MECHANISM_INVALID),
            Reaction::UsageOrMechanism
        );
        // Also a session that was left with an operation is there: whether it is of use, a call
        // under a key that is known to be good shows.
        assert_eq!(
            reaction(Profile::Generic, Call::EncryptInit, CKR_OPERATION_ACTIVE),
            Reaction::Device
        );
    }

    #[test]
    fn the_same_code_by_profile() {
        let reaction = |profile: Profile, call| {
            profile.reaction(&CallError { call, code: CKR_FUNCTION_FAILED })
        };
        assert_eq!(reaction(Profile::NShield, Call::Decrypt), Reaction::Ambiguous);
        assert_eq!(reaction(Profile::NShield, Call::Encrypt), Reaction::Device);
        assert_eq!(reaction(Profile::Luna, Call::Decrypt), Reaction::Ambiguous);
        assert_eq!(reaction(Profile::CloudHsm, Call::Decrypt), Reaction::BusyOrBadCiphertext);
        for call in [
            Call::EncryptInit,
            Call::Encrypt,
            Call::DecryptInit,
            Call::GenerateRandom,
            Call::FindObjects,
            Call::GenerateKey,
        ] {
            assert_eq!(reaction(Profile::CloudHsm, call), Reaction::Busy, "{call:?}");
        }
        let attributes = CallError { call: Call::GetAttributeValue, code: CKR_DEVICE_ERROR };
        assert_eq!(Profile::CloudHsm.reaction(&attributes), Reaction::Busy);
        assert_eq!(Profile::Luna.reaction(&attributes), Reaction::Device);
        // A fault that may pass is never bad ciphertext.
        for name in Profile::names() {
            let profile = Profile::from_name(name).expect("a profile");
            let error = CallError { call: Call::Decrypt, code: CKR_DEVICE_ERROR };
            assert_eq!(profile.reaction(&error), Reaction::Device, "{name}");
        }
    }

    #[test]
    fn codes_are_told_by_name() {
        let told = |code| CallError { call: Call::Encrypt, code }.to_string();
        assert_eq!(told(CKR_DEVICE_ERROR), "C_Encrypt: CKR_DEVICE_ERROR");
        assert_eq!(told(CKR_VENDOR_DEFINED + 0x21), "C_Encrypt: CKR_VENDOR_DEFINED + 0x21");
        assert_eq!(told(0x4321), "C_Encrypt: CKR 0x4321");
    }
}
