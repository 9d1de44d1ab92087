//! A key store of the proxy, and who may use it.

use std::path::Path;

use zeroize::Zeroizing;

use super::file::read_text;

/// A key store and who may use it.
#[derive(Clone)]
pub struct KeyStore {
    /// What stands before `/kms/xks/v1`.
    pub prefix: String,
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret: Zeroizing<String>,
}

impl KeyStore {
    /// Reads `PREFIX:ID:SECRETFILE` and the file.
    ///
    /// # Errors
    /// A sentence with the option.
    pub(super) fn parse(text: &str) -> Result<KeyStore, String> {
        let mut parts = text.splitn(3, ':');
        let (Some(prefix), Some(id), Some(file)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("--keystore {text:?}: PREFIX:ACCESS_KEY_ID:SECRETFILE"));
        };
        let prefix = prefix.trim_end_matches('/');
        if !(prefix.is_empty() || prefix.starts_with('/')) || !is_word(prefix, b"/_-") {
            return Err(format!(
                "--keystore {text:?}: the prefix is empty, or / and A-Z a-z 0-9 _ -"
            ));
        }
        if id.is_empty() || !is_word(id, b"") {
            return Err(format!("--keystore {text:?}: {id:?} is no access key id"));
        }
        let secret = Zeroizing::new(read_text(Path::new(file))?);
        let secret = Zeroizing::new(secret.trim_end_matches(['\r', '\n']).to_owned());
        Ok(KeyStore { prefix: prefix.to_owned(), access_key_id: id.to_owned(), secret })
    }
}

/// Whether there is nothing but letters, digits and `more` in a text.
pub(super) fn is_word(text: &str, more: &[u8]) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_stores() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, "c2VjcmV0\n").unwrap();
        let store = KeyStore::parse(&format!("/a/b:ABC234:{}", file.display())).unwrap();
        assert_eq!(
            (store.prefix.as_str(), store.access_key_id.as_str(), store.secret.as_str()),
            ("/a/b", "ABC234", "c2VjcmV0")
        );
        assert_eq!(KeyStore::parse(&format!(":ABC234:{}", file.display())).unwrap().prefix, "");
        for wrong in ["/a", "/a:B", "a:B:f", "/a b:B:f", "/a::f", "/a:B:/nonexistent"] {
            assert!(KeyStore::parse(wrong).is_err(), "{wrong}");
        }
    }
}
