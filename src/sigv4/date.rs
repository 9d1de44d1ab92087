//! `x-amz-date`: ISO 8601 basic form, UTC, to the second.

use time::{Date, Month};

/// Seconds of a day.
const DAY_SECONDS: i64 = 86_400;
/// `YYYYMMDDTHHMMSSZ`.
const TEXT_BYTES: usize = 16;

/// A valid `x-amz-date`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timestamp<'a> {
    /// As sent, `20150830T123600Z`.
    pub(super) text: &'a str,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub(super) unix_seconds: i64,
}

impl<'a> Timestamp<'a> {
    /// Strict: exactly `YYYYMMDDTHHMMSSZ`, a date that exists, no leap second (POSIX clocks never
    /// show one).
    pub(super) fn parse(value: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let bytes: &[u8; TEXT_BYTES] = value.try_into().ok()?;
        if bytes[8] != b'T' || bytes[15] != b'Z' {
            return None;
        }
        let year = digits(&bytes[0..4])?;
        let month = Month::try_from(u8::try_from(digits(&bytes[4..6])?).ok()?).ok()?;
        let date = Date::from_calendar_date(year, month, small(&bytes[6..8])?).ok()?;
        let moment = date
            .with_hms(small(&bytes[9..11])?, small(&bytes[11..13])?, small(&bytes[13..15])?)
            .ok()?;
        Some(Self { text, unix_seconds: moment.assume_utc().unix_timestamp() })
    }

    /// `YYYYMMDD`, as in the credential scope.
    pub(super) fn date(&self) -> &'a str {
        self.text.get(..8).unwrap_or_default()
    }
}

/// Number of the day in which `unix_seconds` lies, from 1970-01-01.
pub(super) fn day(unix_seconds: i64) -> i64 {
    unix_seconds.div_euclid(DAY_SECONDS)
}

fn digits(bytes: &[u8]) -> Option<i32> {
    bytes.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + i32::from(byte - b'0'))
    })
}

fn small(bytes: &[u8]) -> Option<u8> {
    u8::try_from(digits(bytes)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(text: &str) -> Option<i64> {
        Timestamp::parse(text.as_bytes()).map(|timestamp| timestamp.unix_seconds)
    }

    #[test]
    fn real_dates_become_unix_seconds() {
        for (text, seconds) in [
            ("19700101T000000Z", 0),
            ("20150830T123600Z", 1_440_938_160),
            ("20240229T235959Z", 1_709_251_199),
            ("20000229T000000Z", 951_782_400),
            ("99991231T235959Z", 253_402_300_799),
            ("19691231T235959Z", -1),
        ] {
            assert_eq!(unix(text), Some(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_or_not_in_that_form_is_refused() {
        for text in [
            "",
            "20230229T000000Z", // no leap year
            "19000229T000000Z",
            "20150431T000000Z",
            "20150001T000000Z",
            "20151301T000000Z",
            "20150100T000000Z",
            "20150132T000000Z",
            "20150830T240000Z",
            "20150830T126000Z",
            "20150830T123660Z", // leap second
            "20150830T123600z",
            "20150830t123600Z",
            "20150830 123600Z",
            "20150830T123600",
            "20150830T123600ZZ",
            " 20150830T123600Z",
            "2015083T0123600Z",
            "+0150830T123600Z",
            "-0150830T123600Z",
            "2015-08-30T12:36:00Z",
            "20150830T1236é0Z",
            "Sun, 30 Aug 2015 12:36:00 GMT",
        ] {
            assert_eq!(unix(text), None, "{text}");
        }
        assert_eq!(Timestamp::parse(b"2015083\xffT123600Z"), None);
    }

    #[test]
    fn days_change_at_midnight_also_before_1970() {
        assert_eq!(day(0), 0);
        assert_eq!(day(86_399), 0);
        assert_eq!(day(86_400), 1);
        assert_eq!(day(-1), -1);
        assert_eq!(Timestamp::parse(b"20150830T123600Z").map(|t| t.date()), Some("20150830"));
    }
}
