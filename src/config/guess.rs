//! What an unknown key was probably meant to be.

/// More changes of a letter than this make another word.
const CHANGES_MAX: usize = 3;

/// The one of `known` that `text` is nearest to, where it is near enough.
pub(super) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Of what is long nobody has mistyped a letter.
    if text.len() > 64 {
        return None;
    }
    let near = |known: &&str| changes(text, known) <= CHANGES_MAX.min(known.chars().count() / 2);
    known.into_iter().filter(near).min_by_key(|known| changes(text, known))
}

/// How many letters must be put in, taken out or exchanged to make one out of the other
/// (Levenshtein's distance). Case, `_` and `-` make no difference.
fn changes(one: &str, other: &str) -> usize {
    let letters = |text: &str| -> Vec<char> {
        text.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
    };
    let (one, other) = (letters(one), letters(other));
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut above_left = i;
        let mut left = i + 1;
        for (b, above) in other.iter().zip(row.iter_mut().skip(1)) {
            let here = (above_left + usize::from(a != b)).min(left + 1).min(*above + 1);
            above_left = std::mem::replace(above, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(one.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_counted() {
        for (one, other, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("listen", "silent", 4),
            ("Key-Manager", "key_manager", 0),
            ("é", "e", 1),
        ] {
            assert_eq!(changes(one, other), expected, "{one} {other}");
            assert_eq!(changes(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn only_what_is_near_is_guessed() {
        let known = ["server", "tls", "admin", "key_manager", "keystore"];
        for (text, expected) in [
            ("sever", Some("server")),
            ("keystores", Some("keystore")),
            ("key-store", Some("keystore")),
            ("tsl", None),
            ("tl", Some("tls")),
            ("keymanager", Some("key_manager")),
            ("audit", None),
            ("", None),
            (&"s".repeat(1000), None),
        ] {
            assert_eq!(nearest(text, known), expected, "{text}");
        }
    }
}
