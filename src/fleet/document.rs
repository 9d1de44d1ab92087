//! Documents of the fleet: the block list and files. Each has a sequence number, and what is older
//! than what an instance has had is never taken over.

use zeroize::Zeroizing;

use super::sealed::{FleetKey, NONCE_BYTES};
use crate::limits::FLEET_FILE_NAME_BYTES_MAX;

/// The document with the block list of the fleet.
pub const BLOCKS: &str = "blocks";
/// Before the names of files.
const FILES: &str = "files/";

const REMOVED: u8 = 0;
const PRESENT: u8 = 1;

/// What a document says. Without `Debug`: it may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// It is no longer there. It keeps its sequence, so that an older one does not come back.
    Removed,
    /// This.
    Present(Zeroizing<Vec<u8>>),
}

/// A document that was opened.
#[derive(Clone, PartialEq, Eq)]
pub struct Document {
    /// Of its name, the highest is the newest.
    pub sequence: u64,
    /// What it says.
    pub content: Content,
    /// As it was sealed, to be kept and to be brought back where etcd has lost it.
    pub sealed: Vec<u8>,
}

/// What to do with a document that has come, beside the one that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It takes the place of what is held.
    Newer,
    /// It is what is held.
    Same,
    /// It was brought back: refused.
    Older,
    /// Two were made with one number: refused.
    Conflict,
}

impl Document {
    /// Seals it.
    pub fn seal(
        key: &FleetKey,
        name: &str,
        sequence: u64,
        nonce: [u8; NONCE_BYTES],
        content: Content,
    ) -> Document {
        let text = match &content {
            Content::Removed => Zeroizing::new(vec![REMOVED]),
            Content::Present(bytes) => Zeroizing::new([&[PRESENT], &bytes[..]].concat()),
        };
        let sealed = key.seal(&place(name), sequence, nonce, &text);
        Document { sequence, content, sealed }
    }

    /// Opens it; `None` where it was not sealed by the fleet for this name.
    pub fn open(key: &FleetKey, name: &str, sealed: &[u8]) -> Option<Document> {
        let opened = key.open(&place(name), sealed)?;
        let content = match opened.content.split_first()? {
            (&REMOVED, []) => Content::Removed,
            (&PRESENT, bytes) => Content::Present(Zeroizing::new(bytes.to_vec())),
            _ => return None,
        };
        Some(Document { sequence: opened.sequence, content, sealed: sealed.to_vec() })
    }

    /// What to do with this one, where `held` is there.
    pub fn verdict(&self, held: Option<&Document>) -> Verdict {
        match held {
            None => Verdict::Newer,
            Some(held) if self.sealed == held.sealed => Verdict::Same,
            Some(held) if self.sequence > held.sequence => Verdict::Newer,
            Some(held) if self.sequence < held.sequence => Verdict::Older,
            Some(_) => Verdict::Conflict,
        }
    }
}

/// The number of what follows `before` (0: nothing), made at `unix_ms`. The time makes it unlikely
/// that two get the same number after etcd went back; a clock that is wrong cannot make a number
/// fall.
pub fn next_sequence(before: u64, unix_ms: u64) -> u64 {
    before.saturating_add(1).max(unix_ms)
}

/// A document is not an instance of the same name.
fn place(name: &str) -> String {
    format!("documents/{name}")
}

/// The document of a file.
pub fn of_file(file: &str) -> String {
    format!("{FILES}{file}")
}

/// The file of a document.
pub fn file_of(document: &str) -> Option<&str> {
    document.strip_prefix(FILES).filter(|name| is_name(name))
}

/// Whether a document can have this name.
pub fn is_document(name: &str) -> bool {
    name == BLOCKS || file_of(name).is_some()
}

/// Whether a file or an instance can have this name: one part of a path, not hidden.
pub fn is_name(name: &str) -> bool {
    (1..=FLEET_FILE_NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(sequence: u64, text: &str) -> Document {
        let content = Content::Present(Zeroizing::new(text.as_bytes().to_vec()));
        Document::seal(&key(), BLOCKS, sequence, [1; NONCE_BYTES], content)
    }

    fn key() -> FleetKey {
        FleetKey::new(&[5; 32], "/f").unwrap()
    }

    #[test]
    fn what_is_older_or_a_second_one_of_its_number_is_refused() {
        let held = document(5, "a");
        let verdict = |other: Document| other.verdict(Some(&held));
        assert_eq!(document(1, "a").verdict(None), Verdict::Newer);
        assert_eq!(verdict(held.clone()), Verdict::Same);
        assert_eq!(verdict(document(6, "a")), Verdict::Newer);
        assert_eq!(verdict(document(4, "a")), Verdict::Older);
        assert_eq!(verdict(document(5, "b")), Verdict::Conflict);
        let removed = Document::seal(&key(), BLOCKS, 6, [2; NONCE_BYTES], Content::Removed);
        assert_eq!(removed.verdict(Some(&held)), Verdict::Newer);
        assert_eq!(held.verdict(Some(&removed)), Verdict::Older, "it does not come back");
    }

    #[test]
    fn a_document_comes_back_as_it_was() {
        for content in [Content::Removed, document(1, "").content, document(1, "text").content] {
            let made = Document::seal(&key(), "files/a", 9, [3; NONCE_BYTES], content);
            assert!(Document::open(&key(), "files/a", &made.sealed) == Some(made.clone()));
            assert!(Document::open(&key(), "files/b", &made.sealed).is_none());
        }
        for wrong in [&[][..], &[2], &[0, 0]] {
            let sealed = key().seal("documents/files/a", 1, [3; NONCE_BYTES], wrong);
            assert!(Document::open(&key(), "files/a", &sealed).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn a_number_never_falls() {
        assert_eq!(next_sequence(0, 1_000), 1_000);
        assert_eq!(next_sequence(5_000, 1_000), 5_001, "a clock that is behind");
        assert_eq!(next_sequence(u64::MAX, 1_000), u64::MAX);
    }

    #[test]
    fn names_are_one_part_of_a_path() {
        for right in ["a", "s3-only.cedar", "A_1", &"x".repeat(FLEET_FILE_NAME_BYTES_MAX)] {
            assert!(is_name(right) && is_document(&of_file(right)), "{right}");
        }
        let long = "x".repeat(FLEET_FILE_NAME_BYTES_MAX + 1);
        for wrong in ["", ".", "..", ".a", "a/b", "a b", "ä", "a\0", &long] {
            assert!(!is_name(wrong) && !is_document(&of_file(wrong)), "{wrong}");
        }
        assert!(is_document("blocks") && !is_document("block") && !is_document("files"));
    }
}
