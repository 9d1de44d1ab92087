use super::*;
use proptest::prelude::*;

fn decoded(json: &str) -> Result<Vec<u8>, Failure> {
    decode(json, 1024).map(|bytes| bytes.to_vec())
}

#[test]
fn vectors_of_rfc_4648() {
    for (bytes, text) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ] {
        let mut out = b"<".to_vec();
        encode(bytes.as_bytes(), &mut out);
        assert_eq!(out, format!("<{text}").as_bytes());
        assert_eq!(decoded(text), Ok(bytes.as_bytes().to_vec()), "{text}");
    }
}

#[test]
fn one_spelling_only() {
    for text in [
        "Zg",
        "Zg=",
        "Zg===",
        "Zg====",
        "=",
        "==",
        "====",
        "Z",
        "Z===", // padding
        "Zh==",
        "Zm9=",
        "Zm8", // trailing bits, missing padding
        "-_-_",
        "Zm9v\n",
        " Zm9v",
        "Zm9v ",
        "Zm 9v",
        "Zg==Zg==",
        "Zm9v=",
        "Zm9v\u{e9}",
        "Zm9*", // alphabet
        "Zm9v\0",
        "\u{feff}Zm9v",
    ] {
        assert_eq!(decoded(text), Err(Failure::NotBase64), "{text:?}");
    }
    assert_eq!(decoded("+/+/"), Ok(vec![0xfb, 0xff, 0xbf]));
}

#[test]
fn escapes() {
    assert_eq!(decoded(r"+\/+\/"), Ok(vec![0xfb, 0xff, 0xbf]));
    assert_eq!(decoded(r"\u005am9\u0076"), Ok(b"foo".to_vec()));
    assert_eq!(decoded(r"\u005Am8\u003d"), Ok(b"fo".to_vec()));
    for text in [
        r"Zm9v\n",
        r"Zm9\u1076",
        r"Zm9\u0176",
        r"Zm9\u00e9",
        r"\u00",
        r"\u00zz",
        r"\",
        r"Zm9v\",
        r"\ud83d\ude00",
        r#"Zm9v\""#,
        r"Zm9v\\",
    ] {
        assert_eq!(decoded(text), Err(Failure::NotBase64), "{text:?}");
    }
}

#[test]
fn length_on_both_sides() {
    for max in [1usize, 2, 3, 4, 12, 16, 20, 4300, 8192] {
        for (len, expected) in [
            (max - 1, Ok(max - 1)),
            (max, Ok(max)),
            (max + 1, Err(Failure::TooLong)),
            (max + 4, Err(Failure::TooLong)),
        ] {
            let mut text = Vec::new();
            encode(&vec![7; len], &mut text);
            let text = String::from_utf8(text).expect("ASCII");
            assert_eq!(decode(&text, max).map(|b| b.len()), expected, "{len} of {max}");
            if max <= SHORT_BYTES_MAX {
                assert_eq!(decode_short(&text, max).map(|b| b.len()), expected, "{len} of {max}");
            }
        }
    }
    // Too long to look at, whatever it holds.
    assert_eq!(decode(&"*".repeat(text_len(20) + 1), 20).map(|b| b.len()), Err(Failure::TooLong));
}

proptest! {
    #[test]
    fn encodes_like_the_engine_and_back(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut text = Vec::new();
        encode(&bytes, &mut text);
        prop_assert_eq!(text.len(), text_len(bytes.len()));
        let text = String::from_utf8(text).expect("ASCII");
        prop_assert_eq!(&text, &STANDARD.encode(&bytes));
        prop_assert_eq!(decoded(&text), Ok(bytes.clone()));
        prop_assert_eq!(decoded(&text.replace('/', r"\/")), Ok(bytes.clone()));
        let all_escaped: String = text.bytes().map(|b| format!("\\u{:04x}", u32::from(b))).collect();
        prop_assert_eq!(decoded(&all_escaped), Ok(bytes));
    }

    #[test]
    fn whatever_decodes_is_canonical(text in "[A-Za-z0-9+/=_ -]{0,24}") {
        if let Ok(bytes) = decoded(&text) {
            prop_assert_eq!(STANDARD.encode(bytes), text);
        }
    }

    #[test]
    fn a_few_bytes_are_decoded_alike(text in "[AQw+/=_\\\\]{0,32}", max in 0..=SHORT_BYTES_MAX) {
        prop_assert_eq!(decode_short(&text, max).map(|b| b.to_vec()), decode(&text, max).map(|b| b.to_vec()));
    }

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        let _ = decoded(&text);
    }
}
