use super::*;
use proptest::prelude::*;

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Body {
    error_name: String,
    error_message: Option<String>,
}

fn body(error: &ApiError) -> Body {
    let mut out = b"head".to_vec();
    error.write_body(&mut out);
    serde_json::from_slice(out.strip_prefix(b"head").expect("appends")).expect("JSON")
}

/// "Error codes" of the specification, version 1.0.3, row by row.
const SPECIFICATION: &str = "
    400 ValidationException
    400 InvalidStateException
    400 InvalidCiphertextException
    400 InvalidKeyUsageException
    401 AuthenticationFailedException
    403 AccessDeniedException
    404 KeyNotFoundException
    404 InvalidUriPathException
    429 ThrottlingException
    501 UnsupportedOperationException
    503 DependencyTimeoutException
    500 InternalException
";

#[test]
fn the_table_is_the_specifications() {
    let rows: Vec<String> =
        ErrorName::ALL.iter().map(|n| format!("{} {}", n.status(), n.as_str())).collect();
    let expected: Vec<&str> =
        SPECIFICATION.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    assert_eq!(rows, expected);
    for name in ErrorName::ALL {
        assert_eq!(name.as_str(), format!("{name:?}"));
        assert_eq!(ApiError::new(name, "x").status(), name.status());
    }
}

#[test]
fn statuses_outside_the_table() {
    for (status, name) in [
        (405, ErrorName::ValidationException),
        (408, ErrorName::ValidationException),
        (413, ErrorName::ValidationException),
        (501, ErrorName::UnsupportedOperationException),
        (505, ErrorName::UnsupportedOperationException),
        (500, ErrorName::InternalException),
    ] {
        let error = ApiError::transport(status, "no");
        assert_eq!((error.status(), error.name()), (status, name));
        assert_eq!(body(&error).error_name, name.as_str());
    }
}

#[test]
fn bodies() {
    let mut out = Vec::new();
    ApiError::new(ErrorName::KeyNotFoundException, "").write_body(&mut out);
    assert_eq!(out, br#"{"errorName":"KeyNotFoundException"}"#);
    out.clear();
    ApiError::new(ErrorName::InternalException, r#"a "quoted\" thing"#).write_body(&mut out);
    assert_eq!(out, br#"{"errorName":"InternalException","errorMessage":"a \"quoted\\\" thing"}"#);
}

#[test]
fn messages_are_cut_below_512_characters() {
    for (given, kept) in [(510, 510), (511, 511), (512, 511), (4096, 511)] {
        assert_eq!(
            ApiError::new(ErrorName::InternalException, "m".repeat(given)).message().len(),
            kept
        );
    }
    // Counted in characters: 300 two-byte ones stay 300.
    assert_eq!(
        ApiError::new(ErrorName::InternalException, "\u{e9}".repeat(300)).message(),
        "?".repeat(300)
    );
}

proptest! {
    #[test]
    fn every_message_becomes_printable_ascii(message in any::<String>(), times in 1usize..40) {
        let error = ApiError::new(ErrorName::ValidationException, message.repeat(times));
        prop_assert!(error.message().len() <= ERROR_MESSAGE_CHARS_MAX);
        prop_assert!(error.message().bytes().all(|b| (0x20..=0x7e).contains(&b)));
        let told = body(&error).error_message.unwrap_or_default();
        prop_assert_eq!(told.as_str(), error.message());
    }
}
