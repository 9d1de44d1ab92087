//! `traceparent` of W3C Trace Context: the trace that a request is part of, where something before
//! xksd has begun one. KMS sends none.

/// Of version 00; what a later version adds behind it is not kept.
const CHARS: usize = 55;

/// The one value of the header, if it is what the specification says. Of several, or of a wrong
/// one, nothing is kept: it is only a hint for who reads the log.
pub fn traceparent<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<&'a str> {
    let (value, more) = (values.next()?, values.next());
    let (known, rest) = value.split_at_checked(CHARS)?;
    let mut parts = known.split(|byte| *byte == b'-');
    let [version, trace, parent, flags] = [(); 4].map(|()| parts.next().unwrap_or_default());
    let is_hex = |part: &[u8], length| {
        part.len() == length && part.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
    };
    let is_some = |part: &[u8]| part.iter().any(|byte| *byte != b'0');
    let is_right = more.is_none()
        && parts.next().is_none()
        && is_hex(version, 2)
        && version != b"ff"
        && is_hex(trace, 32)
        && is_some(trace)
        && is_hex(parent, 16)
        && is_some(parent)
        && is_hex(flags, 2)
        && (rest.is_empty() || version != b"00" && rest[0] == b'-');
    if is_right { std::str::from_utf8(known).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(value: &str) -> Option<&str> {
        traceparent([value.as_bytes()].into_iter())
    }

    #[test]
    fn one_that_is_right_is_kept() {
        assert_eq!(of(RIGHT), Some(RIGHT));
        let later = RIGHT.replace("00-", "01-");
        assert_eq!(of(&format!("{later}-more")), Some(&*later));
    }

    #[test]
    fn nothing_else_is() {
        for wrong in [
            "",
            "00",
            &RIGHT[1..],
            &format!("{RIGHT}-more"),
            &format!("{RIGHT} "),
            &RIGHT.replace("00-", "ff-"),
            &RIGHT.replace("00-", "01-").replace("-01", "-01x"),
            &RIGHT.to_uppercase(),
            &RIGHT.replace('a', "g"),
            &RIGHT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &RIGHT.replace("b7ad6b7169203331", &"0".repeat(16)),
            &RIGHT.replace("0af7", "0a-7"),
            &RIGHT.replace('a', "\n"),
        ] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
        assert_eq!(traceparent([RIGHT.as_bytes(), RIGHT.as_bytes()].into_iter()), None);
        assert_eq!(traceparent(std::iter::empty()), None);
    }
}
