//! How deeply a text of policies is nested.

use crate::limits::{POLICY_NESTING_MAX, POLICY_OPERATORS_MAX};

/// Where a text is nested too deeply to be read, and why, in words.
///
/// A policy ends with its `;`. Strings and comments do not count.
pub(super) fn too_deep(text: &str) -> Option<(usize, String)> {
    let (mut brackets, mut prefixes, mut operators) = (0usize, 0usize, 0usize);
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'/') => at = end_of_line(bytes, at),
            b'(' | b'{' => brackets += 1,
            b'[' => (brackets, operators) = (brackets + 1, operators + 1),
            b')' | b']' | b'}' => brackets = brackets.saturating_sub(1),
            b';' => (brackets, prefixes, operators) = (0, 0, 0),
            b'!' | b'-' => prefixes += 1,
            b'i' if is_word(bytes, at, b"if") => prefixes += 1,
            b'.' | b'+' | b'*' => operators += 1,
            b'&' | b'|' if bytes.get(at + 1) == Some(&byte) => operators += 1,
            _ => {}
        }
        if brackets > POLICY_NESTING_MAX || prefixes > POLICY_NESTING_MAX * 4 {
            return Some((at, format!("more than {POLICY_NESTING_MAX} levels of nesting")));
        }
        if operators > POLICY_OPERATORS_MAX {
            let why = format!("more than {POLICY_OPERATORS_MAX} operators in one policy");
            return Some((at, why));
        }
        at += 1;
    }
    None
}

fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            b'"' => break,
            _ => {}
        }
        at += 1;
    }
    at
}

fn end_of_line(bytes: &[u8], start: usize) -> usize {
    bytes[start..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |end| start + end)
}

fn is_word(bytes: &[u8], at: usize, word: &[u8]) -> bool {
    let part = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    bytes[at..].starts_with(word)
        && !part(bytes.get(at + word.len()))
        && !(at > 0 && part(bytes.get(at - 1)))
}
