//! What a PKCS#11 return code means, and for which call it means that.

use std::fmt;

use cryptoki_sys::*;

use crate::key_manager::Fault;

/// The PKCS#11 functions xksd calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Call {
    GetFunctionList,
    Initialize,
    Finalize,
    GetInfo,
    GetSlotList,
    GetTokenInfo,
    OpenSession,
    GetSessionInfo,
    Login,
    FindObjects,
    GetAttributeValue,
    GenerateKey,
    GenerateRandom,
    EncryptInit,
    Encrypt,
    DecryptInit,
    Decrypt,
    MessageEncryptInit,
    EncryptMessage,
    MessageDecryptInit,
    DecryptMessage,
}

impl Call {
    /// The call of PKCS#11 2.40 that does the same: what a code means for that, it means for this.
    pub(super) fn classic(self) -> Call {
        match self {
            Call::MessageEncryptInit => Call::EncryptInit,
            Call::EncryptMessage => Call::Encrypt,
            Call::MessageDecryptInit => Call::DecryptInit,
            Call::DecryptMessage => Call::Decrypt,
            other => other,
        }
    }
}

/// A call that did not return CKR_OK. Displayed as `C_Encrypt: CKR_DEVICE_ERROR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallError {
    /// The function.
    pub call: Call,
    /// What it returned.
    pub code: CK_RV,
}

/// What follows from a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// The tag does not match.
    BadCiphertext,
    /// The module says this for a tag that does not match and for its own failures: what is
    /// known to be good decides.
    Ambiguous,
    /// The module says this for a tag that does not match and when it has too much to do, which
    /// passes: only a decryption that keeps failing between others that succeed has a bad tag.
    BusyOrBadCiphertext,
    /// The key's handle is no longer valid: look the key up again.
    KeyHandle,
    /// The session is gone: its handle may be another's by now.
    SessionLost,
    /// The session is no longer logged in.
    LoginLost,
    /// Too much to do.
    Busy,
    /// The key may not be used so.
    Usage,
    /// Said of a key that may not be used so, and of a mechanism that the module has for no key.
    UsageOrMechanism,
    /// Everything else: something failed.
    Device,
}

/// When `call` (any, where `None`) returns one of the codes, the reaction follows. The first rule
/// that fits holds.
pub(super) struct Rule(pub(super) Option<Call>, pub(super) &'static [CK_RV], pub(super) Reaction);

/// What holds for every module, after the profile's own rules.
const COMMON: &[Rule] = &[
    // CKR_ENCRYPTED_DATA_LEN_RANGE: what is given is never shorter than a tag, so a length that is
    // refused was not made here.
    Rule(
        Some(Call::Decrypt),
        &[CKR_ENCRYPTED_DATA_INVALID, CKR_ENCRYPTED_DATA_LEN_RANGE, CKR_AEAD_DECRYPT_FAILED],
        Reaction::BadCiphertext,
    ),
    Rule(None, &[CKR_KEY_HANDLE_INVALID, CKR_OBJECT_HANDLE_INVALID], Reaction::KeyHandle),
    Rule(
        None,
        &[
            CKR_SESSION_HANDLE_INVALID,
            CKR_SESSION_CLOSED,
            CKR_DEVICE_REMOVED,
            CKR_TOKEN_NOT_PRESENT,
            CKR_TOKEN_NOT_RECOGNIZED,
            CKR_CRYPTOKI_NOT_INITIALIZED,
            CKR_SLOT_ID_INVALID,
        ],
        Reaction::SessionLost,
    ),
    Rule(None, &[CKR_USER_NOT_LOGGED_IN], Reaction::LoginLost),
    Rule(None, &[CKR_TOKEN_RESOURCE_EXCEEDED], Reaction::Busy),
    Rule(Some(Call::EncryptInit), KEY_REFUSED, Reaction::Usage),
    Rule(Some(Call::Encrypt), KEY_REFUSED, Reaction::Usage),
    Rule(Some(Call::DecryptInit), KEY_REFUSED, Reaction::Usage),
    Rule(Some(Call::Decrypt), KEY_REFUSED, Reaction::Usage),
    Rule(Some(Call::EncryptInit), &[CKR_MECHANISM_INVALID], Reaction::UsageOrMechanism),
    Rule(Some(Call::Encrypt), &[CKR_MECHANISM_INVALID], Reaction::UsageOrMechanism),
    Rule(Some(Call::DecryptInit), &[CKR_MECHANISM_INVALID], Reaction::UsageOrMechanism),
    Rule(Some(Call::Decrypt), &[CKR_MECHANISM_INVALID], Reaction::UsageOrMechanism),
];

/// What a module says of this key, whatever its attributes said.
const KEY_REFUSED: &[CK_RV] = &[
    CKR_KEY_FUNCTION_NOT_PERMITTED,
    CKR_KEY_TYPE_INCONSISTENT,
    CKR_KEY_SIZE_RANGE,
    CKR_KEY_EXHAUSTED,
    CKR_ACTION_PROHIBITED,
    CKR_ATTRIBUTE_READ_ONLY,
    CKR_ATTRIBUTE_SENSITIVE,
    CKR_ATTRIBUTE_TYPE_INVALID,
    CKR_ATTRIBUTE_VALUE_INVALID,
];

/// Of C_GenerateKey: the module makes no key in such a session, or none at all. Says nothing of how
/// the HSM does.
const MAKES_NO_KEY: &[CK_RV] = &[
    CKR_SESSION_READ_ONLY,
    CKR_TOKEN_WRITE_PROTECTED,
    CKR_FUNCTION_NOT_SUPPORTED,
    CKR_FUNCTION_REJECTED,
    CKR_ACTION_PROHIBITED,
    CKR_MECHANISM_INVALID,
    CKR_MECHANISM_PARAM_INVALID,
    CKR_KEY_SIZE_RANGE,
    CKR_TEMPLATE_INCONSISTENT,
    CKR_TEMPLATE_INCOMPLETE,
    CKR_ATTRIBUTE_TYPE_INVALID,
    CKR_ATTRIBUTE_VALUE_INVALID,
    CKR_ATTRIBUTE_READ_ONLY,
];

/// Codes after which a PIN must not be tried again: each further try may lock the token.
pub(super) const PIN_REFUSED: &[CK_RV] =
    &[CKR_PIN_INCORRECT, CKR_PIN_INVALID, CKR_PIN_LEN_RANGE, CKR_PIN_EXPIRED, CKR_PIN_LOCKED];

/// Codes of an opening that can mean that the library has lost its HSM for good, until it is
/// initialised again.
pub(super) const LIBRARY_LOST: &[CK_RV] = &[
    CKR_DEVICE_ERROR,
    CKR_DEVICE_REMOVED,
    CKR_TOKEN_NOT_PRESENT,
    CKR_TOKEN_NOT_RECOGNIZED,
    CKR_GENERAL_ERROR,
    CKR_FUNCTION_FAILED,
    CKR_SLOT_ID_INVALID,
];

impl CallError {
    pub(super) fn unsupported(call: Call) -> CallError {
        CallError { call, code: CKR_FUNCTION_NOT_SUPPORTED }
    }

    /// What follows from it, by a module's own rules and then the common ones.
    pub(super) fn reaction(&self, own: &[Rule]) -> Reaction {
        own.iter()
            .chain(COMMON)
            .find(|Rule(call, codes, _)| {
                call.is_none_or(|call| call == self.call.classic()) && codes.contains(&self.code)
            })
            .map_or(Reaction::Device, |Rule(_, _, reaction)| *reaction)
    }

    /// The module makes no key, for its own reasons.
    pub(super) fn makes_no_key(&self) -> bool {
        self.call == Call::GenerateKey && MAKES_NO_KEY.contains(&self.code)
    }

    /// Of a call of the message interface.
    pub(super) fn is_of_messages(&self) -> bool {
        self.call != self.call.classic()
    }

    /// The fault that tells the operator of it.
    pub(super) fn fault(&self) -> Fault {
        Fault::Device { detail: self.to_string() }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C_{:?}: ", self.call)?;
        match NAMES.iter().find(|(code, _)| *code == self.code) {
            Some((_, name)) => f.write_str(name),
            None if self.code >= CKR_VENDOR_DEFINED => {
                write!(f, "CKR_VENDOR_DEFINED + {:#x}", self.code - CKR_VENDOR_DEFINED)
            }
            None => write!(f, "CKR {:#x}", self.code),
        }
    }
}

macro_rules! names {
    ($($name:ident)*) => { &[$(($name, stringify!($name))),*] };
}

/// Every code of PKCS#11 that a function xksd calls may return.
const NAMES: &[(CK_RV, &str)] = names! {
    CKR_CANCEL CKR_HOST_MEMORY CKR_SLOT_ID_INVALID CKR_GENERAL_ERROR CKR_FUNCTION_FAILED
    CKR_ARGUMENTS_BAD CKR_NEED_TO_CREATE_THREADS CKR_CANT_LOCK CKR_ATTRIBUTE_READ_ONLY
    CKR_ATTRIBUTE_SENSITIVE CKR_ATTRIBUTE_TYPE_INVALID CKR_ATTRIBUTE_VALUE_INVALID
    CKR_ACTION_PROHIBITED CKR_DATA_INVALID CKR_DATA_LEN_RANGE CKR_DEVICE_ERROR CKR_DEVICE_MEMORY
    CKR_DEVICE_REMOVED CKR_ENCRYPTED_DATA_INVALID CKR_ENCRYPTED_DATA_LEN_RANGE
    CKR_AEAD_DECRYPT_FAILED CKR_FUNCTION_CANCELED CKR_FUNCTION_NOT_PARALLEL
    CKR_FUNCTION_NOT_SUPPORTED CKR_KEY_HANDLE_INVALID CKR_KEY_SIZE_RANGE CKR_KEY_TYPE_INCONSISTENT
    CKR_KEY_FUNCTION_NOT_PERMITTED CKR_MECHANISM_INVALID CKR_MECHANISM_PARAM_INVALID
    CKR_OBJECT_HANDLE_INVALID CKR_OPERATION_ACTIVE CKR_OPERATION_NOT_INITIALIZED CKR_PIN_INCORRECT
    CKR_PIN_INVALID CKR_PIN_LEN_RANGE CKR_PIN_EXPIRED CKR_PIN_LOCKED CKR_SESSION_CLOSED
    CKR_SESSION_COUNT CKR_SESSION_HANDLE_INVALID CKR_SESSION_PARALLEL_NOT_SUPPORTED
    CKR_SESSION_READ_ONLY CKR_SESSION_EXISTS CKR_SESSION_READ_ONLY_EXISTS
    CKR_SESSION_READ_WRITE_SO_EXISTS CKR_SIGNATURE_INVALID CKR_SIGNATURE_LEN_RANGE
    CKR_TEMPLATE_INCOMPLETE CKR_TEMPLATE_INCONSISTENT CKR_TOKEN_NOT_PRESENT CKR_TOKEN_NOT_RECOGNIZED
    CKR_TOKEN_WRITE_PROTECTED CKR_USER_ALREADY_LOGGED_IN CKR_USER_NOT_LOGGED_IN
    CKR_USER_PIN_NOT_INITIALIZED CKR_USER_TYPE_INVALID CKR_USER_ANOTHER_ALREADY_LOGGED_IN
    CKR_USER_TOO_MANY_TYPES CKR_RANDOM_SEED_NOT_SUPPORTED CKR_RANDOM_NO_RNG CKR_BUFFER_TOO_SMALL
    CKR_CRYPTOKI_NOT_INITIALIZED CKR_CRYPTOKI_ALREADY_INITIALIZED CKR_MUTEX_BAD CKR_MUTEX_NOT_LOCKED
    CKR_FIPS_SELF_TEST_FAILED CKR_LIBRARY_LOAD_FAILED CKR_FUNCTION_REJECTED
    CKR_TOKEN_RESOURCE_EXCEEDED CKR_OPERATION_CANCEL_FAILED CKR_KEY_EXHAUSTED
};
