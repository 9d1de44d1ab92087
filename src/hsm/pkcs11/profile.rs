//! What is particular to a make of HSM: one row each.

use cryptoki_sys::*;

use super::errors::{Call, Reaction, Rule};

/// A make of PKCS#11 module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// A module that follows the standard: takes the caller's IV, refuses a wrong tag with any of the codes in use for it.
    Generic,
    /// SoftHSM 2.
    SoftHsm,
    /// NSS softokn.
    Nss,
    /// kryoptic.
    Kryoptic,
}

/// Where the IV of an encryption comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IvMode {
    /// xksd gives it, from the HSM's generator.
    Caller,
}

/// A profile's row.
pub(super) struct Row {
    profile: Profile,
    name: &'static str,
    pub(super) iv: IvMode,
    /// Computes in this process, see [`crate::hsm::Engine::in_process`].
    pub(super) in_process: bool,
    /// Rules that go before the common ones.
    pub(super) rules: &'static [Rule],
}

const ROWS: &[Row] = &[
    Row {
        profile: Profile::Generic,
        name: "generic",
        iv: IvMode::Caller,
        in_process: false,
        // Unknown make: all the codes that some module is known to return for a wrong tag, none of them trusted to mean it.
        rules: &[Rule(
            Some(Call::Decrypt),
            &[CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED, CKR_DATA_INVALID, CKR_SIGNATURE_INVALID],
            Reaction::Ambiguous,
        )],
    },
    Row {
        profile: Profile::SoftHsm,
        name: "softhsm",
        iv: IvMode::Caller,
        in_process: true,
        // CKR_GENERAL_ERROR is its answer to a wrong tag, and to everything that goes wrong in its store.
        rules: &[Rule(Some(Call::Decrypt), &[CKR_GENERAL_ERROR], Reaction::Ambiguous)],
    },
    Row { profile: Profile::Nss, name: "nss", iv: IvMode::Caller, in_process: true, rules: &[] },
    Row { profile: Profile::Kryoptic, name: "kryoptic", iv: IvMode::Caller, in_process: true, rules: &[] },
];

impl Profile {
    pub(super) fn row(self) -> &'static Row {
        // Every profile has its row (tested); the first is the one that assumes least.
        ROWS.iter().find(|row| row.profile == self).unwrap_or(&ROWS[0])
    }

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The profile of a name in the configuration.
    pub fn from_name(name: &str) -> Option<Profile> {
        ROWS.iter().find(|row| row.name == name).map(|row| row.profile)
    }

    /// All names, in the order of the documentation.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ROWS.iter().map(|row| row.name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::errors::CallError;
    use super::*;

    #[test]
    fn every_profile_has_its_row() {
        for profile in [Profile::Generic, Profile::SoftHsm, Profile::Nss, Profile::Kryoptic] {
            assert_eq!(profile.row().profile, profile);
            assert_eq!(Profile::from_name(profile.name()), Some(profile));
        }
        assert_eq!(Profile::names().collect::<Vec<_>>(), ["generic", "softhsm", "nss", "kryoptic"]);
        assert_eq!(Profile::from_name("SoftHSM"), None);
    }

    #[test]
    fn a_code_means_what_it_means_for_its_call_only() {
        let reaction = |profile: Profile, call, code| CallError { call, code }.reaction(profile);
        assert_eq!(reaction(Profile::SoftHsm, Call::Decrypt, CKR_GENERAL_ERROR), Reaction::Ambiguous);
        assert_eq!(reaction(Profile::SoftHsm, Call::DecryptInit, CKR_GENERAL_ERROR), Reaction::Device);
        assert_eq!(reaction(Profile::SoftHsm, Call::Encrypt, CKR_GENERAL_ERROR), Reaction::Device);
        assert_eq!(reaction(Profile::Nss, Call::Decrypt, CKR_GENERAL_ERROR), Reaction::Device);
        assert_eq!(reaction(Profile::Nss, Call::Decrypt, CKR_ENCRYPTED_DATA_INVALID), Reaction::BadCiphertext);
        assert_eq!(reaction(Profile::Kryoptic, Call::Decrypt, CKR_AEAD_DECRYPT_FAILED), Reaction::BadCiphertext);
        assert_eq!(reaction(Profile::Generic, Call::Encrypt, CKR_ENCRYPTED_DATA_INVALID), Reaction::Device);
        assert_eq!(reaction(Profile::Generic, Call::Decrypt, CKR_DEVICE_ERROR), Reaction::Device);
        assert_eq!(reaction(Profile::Generic, Call::Decrypt, CKR_FUNCTION_FAILED), Reaction::Ambiguous);
        assert_eq!(reaction(Profile::Generic, Call::EncryptInit, CKR_OBJECT_HANDLE_INVALID), Reaction::KeyHandle);
        assert_eq!(reaction(Profile::Generic, Call::FindObjects, CKR_OPERATION_ACTIVE), Reaction::SessionLost);
        assert_eq!(reaction(Profile::Generic, Call::DecryptInit, CKR_KEY_FUNCTION_NOT_PERMITTED), Reaction::Usage);
        assert_eq!(reaction(Profile::Generic, Call::GenerateKey, CKR_KEY_SIZE_RANGE), Reaction::Device);
    }

    #[test]
    fn codes_are_told_by_name() {
        let told = |code| CallError { call: Call::Encrypt, code }.to_string();
        assert_eq!(told(CKR_DEVICE_ERROR), "C_Encrypt: CKR_DEVICE_ERROR");
        assert_eq!(told(CKR_VENDOR_DEFINED + 0x21), "C_Encrypt: CKR_VENDOR_DEFINED + 0x21");
        assert_eq!(told(0x4321), "C_Encrypt: CKR 0x4321");
    }

    #[test]
    fn codes_come_back_from_the_crate_as_they_were() {
        use cryptoki::context::Function;
        use cryptoki::error::Rv;
        for code in [CKR_PIN_INCORRECT, CKR_PIN_LOCKED, CKR_SESSION_COUNT, CKR_CRYPTOKI_NOT_INITIALIZED, CKR_VENDOR_DEFINED + 7] {
            let error = Rv::from(code).into_result(Function::Login).expect_err("a code");
            assert_eq!(CallError::from_cryptoki(Call::Login, &error).code, code);
        }
    }
}
