//! Slots, tokens, sessions and login.

use std::ptr;

use cryptoki_sys::*;

use super::{Functions, check, input};
use crate::key_manager::pkcs11::errors::{Call, CallError};
use crate::limits::{MECHANISMS_MAX, SLOTS_MAX};

/// CK_TOKEN_INFO, as far as it is needed. Nothing else of it is looked at: there are modules whose
/// utcTime is no time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct TokenInfo {
    pub(in super::super) label: String,
    pub(in super::super) manufacturer: String,
    pub(in super::super) model: String,
    pub(in super::super) serial: String,
    pub(in super::super) hardware: String,
    pub(in super::super) firmware: String,
    pub(in super::super) login_required: bool,
    pub(in super::super) initialized: bool,
}

impl TokenInfo {
    /// What tells it from other tokens of its module.
    pub(in super::super) fn identity(&self) -> String {
        let TokenInfo { manufacturer, model, serial, label, .. } = self;
        format!("{manufacturer:?} {model:?} {serial:?} {label:?}")
    }
}

/// A field of fixed length, padded with blanks; some modules pad with NUL.
fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).trim_end_matches([' ', '\0']).to_owned()
}

fn version(version: CK_VERSION) -> String {
    format!("{}.{}", version.major, version.minor)
}

impl From<CK_TOKEN_INFO> for TokenInfo {
    fn from(info: CK_TOKEN_INFO) -> TokenInfo {
        TokenInfo {
            label: text(&info.label),
            manufacturer: text(&info.manufacturerID),
            model: text(&info.model),
            serial: text(&info.serialNumber),
            hardware: version(info.hardwareVersion),
            firmware: version(info.firmwareVersion),
            login_required: info.flags & CKF_LOGIN_REQUIRED != 0,
            initialized: info.flags & CKF_TOKEN_INITIALIZED != 0,
        }
    }
}

impl Functions {
    /// C_GetInfo: the version of the library, `2.6`.
    pub(in super::super) fn library_version(&self) -> Result<String, CallError> {
        let function = self.list.C_GetInfo.ok_or(CallError::unsupported(Call::GetInfo))?;
        let mut info = CK_INFO::default();
        // SAFETY: `info` is writable for the structure that the standard names.
        check(Call::GetInfo, unsafe { function(&mut info) })?;
        Ok(version(info.libraryVersion))
    }

    /// C_GetSlotList: the slots with a token, [`SLOTS_MAX`] at the most.
    pub(in super::super) fn slots_with_token(&self) -> Result<Vec<CK_SLOT_ID>, CallError> {
        let function = self.list.C_GetSlotList.ok_or(CallError::unsupported(Call::GetSlotList))?;
        let mut count = 0;
        // The standard's way to ask for the number. Some modules look for tokens in this call only.
        // SAFETY: a null list is allowed, `count` is writable.
        check(Call::GetSlotList, unsafe { function(CK_TRUE, ptr::null_mut(), &mut count) })?;
        // Room for tokens that come in between the calls.
        let capacity = usize::try_from(count).unwrap_or(SLOTS_MAX).saturating_add(8).min(SLOTS_MAX);
        let mut slots = vec![0; capacity];
        count = capacity as CK_ULONG;
        // SAFETY: `slots` is writable for `count` ids.
        check(Call::GetSlotList, unsafe { function(CK_TRUE, slots.as_mut_ptr(), &mut count) })?;
        slots.truncate(usize::try_from(count).unwrap_or(capacity));
        Ok(slots)
    }

    /// C_GetTokenInfo.
    pub(in super::super) fn token_info(&self, slot: CK_SLOT_ID) -> Result<TokenInfo, CallError> {
        let function =
            self.list.C_GetTokenInfo.ok_or(CallError::unsupported(Call::GetTokenInfo))?;
        let mut info = CK_TOKEN_INFO::default();
        // SAFETY: `info` is writable for the structure that the standard names.
        check(Call::GetTokenInfo, unsafe { function(slot, &mut info) })?;
        Ok(info.into())
    }

    /// C_GetMechanismInfo and, where that does not know it, C_GetMechanismList: whether the token
    /// has the mechanism; `None` if the module does not say.
    pub(in super::super) fn has_mechanism(
        &self,
        slot: CK_SLOT_ID,
        mechanism: CK_MECHANISM_TYPE,
    ) -> Option<bool> {
        let mut info = CK_MECHANISM_INFO::default();
        // SAFETY: `info` is writable for the structure that the standard names.
        match unsafe { self.list.C_GetMechanismInfo?(slot, mechanism, &mut info) } {
            CKR_OK => return Some(true),
            CKR_MECHANISM_INVALID => {}
            _ => return None,
        }
        let list = self.list.C_GetMechanismList?;
        let mut count = MECHANISMS_MAX as CK_ULONG;
        let mut mechanisms = vec![0; MECHANISMS_MAX];
        // SAFETY: `mechanisms` is writable for `count` of them.
        if unsafe { list(slot, mechanisms.as_mut_ptr(), &mut count) } != CKR_OK {
            return None;
        }
        mechanisms.truncate(usize::try_from(count).unwrap_or(MECHANISMS_MAX));
        Some(mechanisms.contains(&mechanism))
    }

    /// C_OpenSession, read-only or read/write.
    pub(in super::super) fn open_session(
        &self,
        slot: CK_SLOT_ID,
        read_write: bool,
    ) -> Result<CK_SESSION_HANDLE, CallError> {
        let function = self.list.C_OpenSession.ok_or(CallError::unsupported(Call::OpenSession))?;
        let flags = CKF_SERIAL_SESSION | if read_write { CKF_RW_SESSION } else { 0 };
        let mut handle = CK_INVALID_HANDLE;
        // SAFETY: no callback and nothing for it, as the standard allows; `handle` is writable.
        check(Call::OpenSession, unsafe {
            function(slot, flags, ptr::null_mut(), None, &mut handle)
        })?;
        Ok(handle)
    }

    /// C_CloseSession. What it says does not matter: a session that cannot be closed is gone or
    /// goes with the process.
    pub(in super::super) fn close_session(&self, session: CK_SESSION_HANDLE) {
        if let Some(function) = self.list.C_CloseSession {
            // SAFETY: takes a number.
            let _ = unsafe { function(session) };
        }
    }

    /// C_GetSessionInfo: whether the user is logged in.
    pub(in super::super) fn is_logged_in(
        &self,
        session: CK_SESSION_HANDLE,
    ) -> Result<bool, CallError> {
        let function =
            self.list.C_GetSessionInfo.ok_or(CallError::unsupported(Call::GetSessionInfo))?;
        let mut info = CK_SESSION_INFO::default();
        // SAFETY: `info` is writable for the structure that the standard names.
        check(Call::GetSessionInfo, unsafe { function(session, &mut info) })?;
        Ok([CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS].contains(&info.state))
    }

    /// C_Login as the user.
    pub(in super::super) fn log_in(
        &self,
        session: CK_SESSION_HANDLE,
        pin: &str,
    ) -> Result<(), CallError> {
        let function = self.list.C_Login.ok_or(CallError::unsupported(Call::Login))?;
        let pin = pin.as_bytes();
        // SAFETY: the PIN is readable for its length; modules do not write it.
        check(Call::Login, unsafe {
            function(session, CKU_USER, input(pin), pin.len() as CK_ULONG)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_end_where_their_padding_begins() {
        assert_eq!(text(b"xks token   "), "xks token");
        assert_eq!(text(b"xks\0\0\0"), "xks");
        assert_eq!((text(b"   "), text(b"\0\0"), text(b"")), ("".into(), "".into(), "".into()));
        assert_eq!(text(b"\xff "), "\u{fffd}");
    }

    #[test]
    fn a_time_that_is_none_takes_nothing_from_the_rest() {
        let mut info = CK_TOKEN_INFO { utcTime: [0xff; 16], ..CK_TOKEN_INFO::default() };
        info.label = [b' '; 32];
        info.label[..3].copy_from_slice(b"xks");
        info.flags = CKF_LOGIN_REQUIRED;
        info.firmwareVersion = CK_VERSION { major: 7, minor: 8 };
        let info = TokenInfo::from(info);
        assert_eq!((info.label.as_str(), info.firmware.as_str()), ("xks", "7.8"));
        assert!(info.login_required && !info.initialized);
    }
}
