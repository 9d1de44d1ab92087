//! What a key's attributes say it is and may do.

use std::fmt;

use cryptoki_sys::*;

use super::errors::CallError;
use super::ffi::Functions;
use super::ffi::attributes::Value;
use crate::key_manager::{KeyDescription, KeySpec, KeyUsage, KeyUsages};

/// What is read of a key, with the most bytes each may have.
const WANTED: &[(CK_ATTRIBUTE_TYPE, usize)] = &[
    (CKA_LABEL, 1024),
    (CKA_ID, 256),
    (CKA_KEY_TYPE, size_of::<CK_ULONG>()),
    (CKA_VALUE_LEN, size_of::<CK_ULONG>()),
    (CKA_ENCRYPT, 1),
    (CKA_DECRYPT, 1),
    (CKA_SIGN, 1),
    (CKA_VERIFY, 1),
    (CKA_WRAP, 1),
    (CKA_UNWRAP, 1),
    (CKA_DERIVE, 1),
    // Last, being those that modules most often do not have.
    (CKA_START_DATE, size_of::<CK_DATE>()),
    (CKA_END_DATE, size_of::<CK_DATE>()),
];

const USAGES: [(CK_ATTRIBUTE_TYPE, KeyUsage); KeyUsage::ALL.len()] = [
    (CKA_ENCRYPT, KeyUsage::Encrypt),
    (CKA_DECRYPT, KeyUsage::Decrypt),
    (CKA_SIGN, KeyUsage::Sign),
    (CKA_VERIFY, KeyUsage::Verify),
    (CKA_WRAP, KeyUsage::Wrap),
    (CKA_UNWRAP, KeyUsage::Unwrap),
    (CKA_DERIVE, KeyUsage::Derive),
];

/// A secret key's attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) label: Vec<u8>,
    pub(super) id: Vec<u8>,
    kind: Option<CK_KEY_TYPE>,
    /// CKA_VALUE_LEN.
    bytes: Option<CK_ULONG>,
    usage: KeyUsages,
    pub(super) start: Date,
    pub(super) end: Date,
    /// The module failed on one of them.
    pub(super) unreadable: Option<Unreadable>,
}

/// An attribute that the module failed on. Displayed as `C_GetAttributeValue: CKR_GENERAL_ERROR, of
/// CKA_END_DATE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    attribute: CK_ATTRIBUTE_TYPE,
    pub(super) error: CallError,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, of ", self.error)?;
        match NAMES.iter().find(|(attribute, _)| *attribute == self.attribute) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "CKA {:#x}", self.attribute),
        }
    }
}

macro_rules! names {
    ($($name:ident)*) => { &[$(($name, stringify!($name))),*] };
}

/// Of what is wanted.
const NAMES: &[(CK_ATTRIBUTE_TYPE, &str)] = names! {
    CKA_LABEL CKA_ID CKA_KEY_TYPE CKA_VALUE_LEN CKA_ENCRYPT CKA_DECRYPT CKA_SIGN CKA_VERIFY CKA_WRAP
    CKA_UNWRAP CKA_DERIVE CKA_START_DATE CKA_END_DATE
};

/// A CK_DATE: `YYYYMMDD` in ASCII digits, which as text sorts as days do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Date {
    /// Empty, or filled with NUL, blanks or zeros, as modules have it that cannot leave it empty.
    Unset,
    Day([u8; 8]),
    /// Not a date, or not readable. The key counts as disabled: somebody meant to bound it.
    Malformed,
}

impl Date {
    fn read(value: Option<&[u8]>) -> Date {
        match value {
            None => Date::Unset,
            Some(value) if value.iter().all(|byte| matches!(byte, 0 | b' ' | b'0')) => Date::Unset,
            Some(value) => match <[u8; 8]>::try_from(value) {
                Ok(day) if day.iter().all(u8::is_ascii_digit) => Date::Day(day),
                _ => Date::Malformed,
            },
        }
    }

    /// `2026-03-31`, or `not readable`.
    pub(super) fn text(self) -> Option<String> {
        match self {
            Date::Unset => None,
            Date::Malformed => Some("not readable".to_owned()),
            Date::Day(day) => {
                let text = String::from_utf8_lossy(&day);
                Some(format!("{}-{}-{}", &text[..4], &text[4..6], &text[6..]))
            }
        }
    }
}

/// Today in UTC as a CK_DATE.
pub(super) fn today() -> [u8; 8] {
    let date = time::OffsetDateTime::now_utc().date();
    let number = date.year().unsigned_abs() * 10_000
        + u32::from(u8::from(date.month())) * 100
        + u32::from(date.day());
    let mut day = [b'0'; 8];
    let mut rest = number;
    for digit in day.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    day
}

impl Attributes {
    /// One C_GetAttributeValue.
    pub(super) fn read(
        functions: &Functions,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
    ) -> Result<Attributes, CallError> {
        functions.attributes(session, object, WANTED).map(|values| Attributes::from_values(&values))
    }

    /// `values` in the order of [`WANTED`].
    fn from_values(values: &[Value]) -> Attributes {
        let found = |type_| {
            WANTED.iter().zip(values).find(|(wanted, _)| wanted.0 == type_).map(|(_, value)| value)
        };
        let value = |type_| found(type_).and_then(|value| value.as_ref().ok()?.as_deref());
        let date = |type_| {
            if let Some(Err(_)) = found(type_) { Date::Malformed } else { Date::read(value(type_)) }
        };
        let number = |type_| {
            value(type_).and_then(|value| value.try_into().ok()).map(CK_ULONG::from_ne_bytes)
        };
        Attributes {
            label: value(CKA_LABEL).unwrap_or_default().to_vec(),
            id: value(CKA_ID).unwrap_or_default().to_vec(),
            kind: number(CKA_KEY_TYPE),
            bytes: number(CKA_VALUE_LEN),
            usage: USAGES
                .iter()
                .filter(|(type_, _)| {
                    value(*type_)
                        .and_then(|value| value.first())
                        .is_some_and(|byte| *byte != CK_FALSE)
                })
                .map(|(_, usage)| *usage)
                .collect(),
            start: date(CKA_START_DATE),
            end: date(CKA_END_DATE),
            unreadable: WANTED.iter().zip(values).find_map(|((attribute, _), value)| {
                let error = *value.as_ref().err()?;
                Some(Unreadable { attribute: *attribute, error })
            }),
        }
    }

    /// The API knows AES-GCM with 256 bits and nothing else.
    pub(super) fn is_aes_256(&self) -> bool {
        self.kind == Some(CKK_AES) && self.bytes == Some(32)
    }

    pub(super) fn allows(&self, usage: KeyUsage) -> bool {
        self.usage.contains(usage)
    }

    /// Of an object of which nothing is known.
    #[cfg(test)]
    pub(super) fn none() -> Attributes {
        Attributes::from_values(&[])
    }

    /// Whether it may be used on any day: then the day need not be found out.
    pub(super) fn is_undated(&self) -> bool {
        self.start == Date::Unset && self.end == Date::Unset
    }

    /// Both dates are inclusive.
    pub(super) fn is_enabled(&self, today: [u8; 8]) -> bool {
        let started = match self.start {
            Date::Unset => true,
            Date::Day(start) => start <= today,
            Date::Malformed => false,
        };
        let not_ended = match self.end {
            Date::Unset => true,
            Date::Day(end) => today <= end,
            Date::Malformed => false,
        };
        started && not_ended
    }

    pub(super) fn describe(&self, today: [u8; 8]) -> KeyDescription {
        KeyDescription { spec: self.spec(), usage: self.usage, enabled: self.is_enabled(today) }
    }

    fn spec(&self) -> KeySpec {
        let bits = self.bytes.map(|bytes| bytes.saturating_mul(8));
        match self.kind {
            None => KeySpec::Unknown,
            Some(CKK_AES) => KeySpec::Aes(bits),
            Some(CKK_GENERIC_SECRET) => KeySpec::GenericSecret(bits),
            Some(CKK_CHACHA20) => KeySpec::ChaCha20(bits),
            // Their CKA_VALUE_LEN is never there.
            Some(CKK_DES) => KeySpec::Des,
            Some(CKK_DES2) => KeySpec::Des2,
            Some(CKK_DES3) => KeySpec::Des3,
            Some(other) => KeySpec::Other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::errors::Call;
    use super::*;

    fn key(set: &[(CK_ATTRIBUTE_TYPE, &[u8])]) -> Attributes {
        let values: Vec<_> = WANTED
            .iter()
            .map(|(type_, _)| set.iter().find(|(one, _)| one == type_).map(|(_, v)| v.to_vec()))
            .map(Ok)
            .collect();
        Attributes::from_values(&values)
    }

    fn of_kind(kind: CK_KEY_TYPE, bytes: CK_ULONG) -> Attributes {
        key(&[(CKA_KEY_TYPE, &kind.to_ne_bytes()), (CKA_VALUE_LEN, &bytes.to_ne_bytes())])
    }

    #[test]
    fn specs() {
        for (kind, bytes, spec) in [
            (CKK_AES, 32, KeySpec::AES_256),
            (CKK_AES, 24, KeySpec::Aes(Some(192))),
            (CKK_GENERIC_SECRET, 20, KeySpec::GenericSecret(Some(160))),
            (CKK_DES3, 24, KeySpec::Des3),
            (CKK_VENDOR_DEFINED + 5, 32, KeySpec::Other(0x8000_0005)),
        ] {
            let attributes = of_kind(kind, bytes);
            assert_eq!(attributes.spec(), spec);
            assert_eq!(attributes.is_aes_256(), spec == KeySpec::AES_256);
        }
        assert_eq!(key(&[]).spec(), KeySpec::Unknown);
        let no_size = key(&[(CKA_KEY_TYPE, &CKK_AES.to_ne_bytes())]);
        assert_eq!((no_size.spec(), no_size.is_aes_256()), (KeySpec::Aes(None), false));
    }

    #[test]
    fn usages() {
        let all =
            key(&[(CKA_DERIVE, &[1]), (CKA_ENCRYPT, &[1]), (CKA_UNWRAP, &[0]), (CKA_SIGN, &[1])]);
        let usage = all.describe(today()).usage;
        assert!(usage.iter().eq([KeyUsage::Encrypt, KeyUsage::Sign, KeyUsage::Derive]));
        assert!(all.allows(KeyUsage::Encrypt) && !all.allows(KeyUsage::Unwrap));
        assert!(key(&[(CKA_ENCRYPT, &[])]).usage.is_empty());
    }

    #[test]
    fn dates_are_inclusive() {
        let key = key(&[(CKA_START_DATE, b"20260301"), (CKA_END_DATE, b"20260331")]);
        for (day, enabled) in [
            (b"20260228", false),
            (b"20260301", true),
            (b"20260331", true),
            (b"20260401", false),
            (b"20270315", false),
        ] {
            assert_eq!(key.is_enabled(*day), enabled, "{}", String::from_utf8_lossy(day));
        }
        assert_eq!(
            (key.start.text().as_deref(), key.end.text().as_deref()),
            (Some("2026-03-01"), Some("2026-03-31"))
        );
    }

    #[test]
    fn an_attribute_that_cannot_be_read_is_named() {
        assert!(WANTED.iter().all(|(type_, _)| NAMES.iter().any(|(named, _)| named == type_)));
        let error = CallError { call: Call::GetAttributeValue, code: CKR_GENERAL_ERROR };
        let value = |type_| if type_ == CKA_END_DATE { Err(error) } else { Ok(None) };
        let values: Vec<_> = WANTED.iter().map(|(type_, _)| value(*type_)).collect();
        let read = Attributes::from_values(&values);
        assert_eq!(
            read.unreadable.map(|one| one.to_string()).as_deref(),
            Some("C_GetAttributeValue: CKR_GENERAL_ERROR, of CKA_END_DATE")
        );
        assert!(!read.is_enabled(today()), "somebody meant to bound it");
    }

    #[test]
    fn dates_that_are_none() {
        for unset in [&b""[..], b"\0\0\0\0\0\0\0\0", b"        ", b"00000000"] {
            let key = key(&[(CKA_START_DATE, unset), (CKA_END_DATE, unset)]);
            assert!(key.is_enabled(today()), "{unset:?}");
            assert_eq!(key.end.text(), None);
        }
        for malformed in [&b"2026"[..], b"2026-3-1", b"\xff0260301"] {
            assert!(!key(&[(CKA_END_DATE, malformed)]).is_enabled(*b"20260101"), "{malformed:?}");
            assert!(!key(&[(CKA_START_DATE, malformed)]).is_enabled(*b"20260101"), "{malformed:?}");
        }
    }

    #[test]
    fn today_is_a_date() {
        let today = today();
        assert!(today.iter().all(u8::is_ascii_digit));
        assert!(today > *b"20200101" && today < *b"30000101");
    }
}
