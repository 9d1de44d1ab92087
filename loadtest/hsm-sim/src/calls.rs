//! The functions of PKCS#11 2.40, and which of them go to the device.

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

macro_rules! calls {
    ($($name:ident)*) => {
        /// One function of the interface, by its name in the standard.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(non_camel_case_types, missing_docs)]
        pub enum Call { $($name),* }

        impl Call {
            /// All of them; the index of each is `call as usize`.
            pub const ALL: &[Call] = &[$(Call::$name),*];

            /// As the standard spells it.
            pub fn name(self) -> &'static str {
                match self { $(Call::$name => stringify!($name)),* }
            }
        }
    };
}

calls! {
    C_Initialize C_Finalize C_GetInfo C_GetFunctionList
    C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList
    C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN
    C_OpenSession C_CloseSession C_CloseAllSessions C_GetSessionInfo
    C_GetOperationState C_SetOperationState C_Login C_Logout
    C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize
    C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit C_FindObjects
    C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate
    C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate
    C_DecryptFinal C_DigestInit C_Digest C_DigestUpdate
    C_DigestKey C_DigestFinal C_SignInit C_Sign
    C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover
    C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal
    C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate C_DecryptDigestUpdate
    C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair
    C_WrapKey C_UnwrapKey C_DeriveKey C_SeedRandom
    C_GenerateRandom C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent
}

impl Call {
    /// Whether a client library of a network HSM asks the device: sessions, objects, cryptography,
    /// random numbers. What is left are calls a library answers out of its own memory.
    pub fn reaches_device(self) -> bool {
        use Call::*;
        !matches!(
            self,
            C_Initialize
                | C_Finalize
                | C_GetInfo
                | C_GetFunctionList
                | C_GetSlotList
                | C_GetSlotInfo
                | C_GetTokenInfo
                | C_GetMechanismList
                | C_GetMechanismInfo
                | C_GetFunctionStatus
                | C_CancelFunction
                | C_WaitForSlotEvent
        )
    }

    /// Whether the device computes: what transforms data or makes keys or random numbers, not what
    /// only prepares or looks up.
    pub fn computes(self) -> bool {
        use Call::*;
        matches!(
            self,
            C_Encrypt
                | C_EncryptUpdate
                | C_EncryptFinal
                | C_Decrypt
                | C_DecryptUpdate
                | C_DecryptFinal
                | C_Digest
                | C_DigestUpdate
                | C_DigestKey
                | C_DigestFinal
                | C_Sign
                | C_SignUpdate
                | C_SignFinal
                | C_SignRecover
                | C_Verify
                | C_VerifyUpdate
                | C_VerifyFinal
                | C_VerifyRecover
                | C_DigestEncryptUpdate
                | C_DecryptDigestUpdate
                | C_SignEncryptUpdate
                | C_DecryptVerifyUpdate
                | C_GenerateKey
                | C_GenerateKeyPair
                | C_WrapKey
                | C_UnwrapKey
                | C_DeriveKey
                | C_GenerateRandom
        )
    }
}

/// One bit a function.
const _: () = assert!(Call::ALL.len() <= 128);

/// A set of functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls(u128);

impl Calls {
    /// Those for which `wanted` says so.
    pub fn which(wanted: impl Fn(Call) -> bool) -> Calls {
        Calls(
            Call::ALL
                .iter()
                .filter(|call| wanted(**call))
                .fold(0, |bits, call| bits | (1 << *call as u32)),
        )
    }

    /// Whether `call` is one of them.
    pub fn contains(self, call: Call) -> bool {
        self.0 & (1 << call as u32) != 0
    }

    fn named(name: &str) -> Result<Calls, String> {
        if name == "*" {
            return Ok(Calls::which(Call::reaches_device));
        }
        match Call::ALL.iter().find(|call| call.name() == name) {
            Some(call) => Ok(Calls(1 << *call as u32)),
            None => Err(format!("unknown function {name:?}")),
        }
    }
}

/// In a TOML file: a name, a list of names, or `"*"` for every call that goes to the device.
impl<'de> Deserialize<'de> for Calls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Calls, D::Error> {
        struct CallsVisitor;
        impl<'de> Visitor<'de> for CallsVisitor {
            type Value = Calls;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a PKCS#11 function, a list of names, or \"*\"")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Calls, E> {
                Calls::named(name).map_err(E::custom)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut names: A) -> Result<Calls, A::Error> {
                let mut all = Calls::default();
                while let Some(name) = names.next_element::<String>()? {
                    all.0 |= Calls::named(&name).map_err(de::Error::custom)?.0;
                }
                Ok(all)
            }
        }
        deserializer.deserialize_any(CallsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_they_were_given() {
        let device = Calls::which(Call::reaches_device);
        assert!(device.contains(Call::C_EncryptInit) && device.contains(Call::C_OpenSession));
        assert!(!device.contains(Call::C_GetInfo) && !device.contains(Call::C_Initialize));
        assert_eq!(Calls::named("*"), Ok(device));
        assert!(
            Calls::named("C_Encrypt")
                .is_ok_and(|set| set == Calls::which(|call| call == Call::C_Encrypt))
        );
        assert!(Calls::named("C_Encypt").is_err());
    }

    #[test]
    fn what_computes_goes_to_the_device() {
        assert!(Call::ALL.iter().all(|call| call.reaches_device() || !call.computes()));
    }
}
