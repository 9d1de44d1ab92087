//! Whatever the text, it is read or refused with problems that have a place.

use proptest::prelude::*;

use super::*;

/// Pieces of configurations, so that the text gets past the parser of TOML.
fn piece() -> impl Strategy<Value = String> {
    const LINE: &str = concat!(
        r"(listen|shards|regions|kind|name|token|slot|pin|path_prefix|key_manager|credential|key|id|label|enabled|file|value) = ",
        r#"(0|-1|1e9|true|"us-east-1"|"/a"|"local"|"pkcs11"|\["a"\]|\{ value = "x" \}|\{\}|\[\]|\[\[\]\]|1979-05-27)"#,
        "\n"
    );
    prop_oneof![
        "\\[{1,2}(server|tls|tls.client|admin|key_manager|keystore|keystore.credential|keystore.key)\\]{1,2}\n",
        LINE,
        "\\PC{0,8}\n",
    ]
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in ".*") {
        let _ = read(&text);
    }

    #[test]
    fn arbitrary_documents_never_panic(pieces in proptest::collection::vec(piece(), 0..40)) {
        let text = pieces.concat();
        let told = read(&text).map_err(|invalid| {
            assert!(!invalid.problems.is_empty());
            let lines = text.lines().count().max(1) + 1;
            assert!(invalid.problems.iter().all(|p| p.line.is_some_and(|l| (1..=lines).contains(&l))), "{invalid}");
            invalid.to_string()
        });
        let _ = told;
    }

    /// One byte changed in a valid document: it is valid or has a problem with a place, and no
    /// secret is shown.
    #[test]
    fn a_changed_byte_is_survived(at in 0..SMALL.len(), byte in 0u8..128) {
        let mut text = SMALL.as_bytes().to_vec();
        text[at] = byte;
        let text = String::from_utf8(text).unwrap();
        if let Err(invalid) = read(&text) {
            prop_assert!(!invalid.problems.is_empty());
            prop_assert!(!invalid.to_string().contains(SECRET));
        }
    }
}
