use super::*;
use proptest::prelude::*;

const NAMES: &[&str] = &["a", "b"];

fn read(json: &str) -> (Object<'_>, Result<(), ApiError>) {
    let mut object = Object::empty("", NAMES);
    let result = object.read(json.as_bytes());
    (object, result)
}

fn message(json: &str) -> String {
    read(json).1.expect_err(json).message().to_owned()
}

#[test]
fn known_fields_are_kept_and_others_passed_over() {
    let (object, result) =
        read(r#" {"x":[{"a":1},"\\"],"b" : "two" ,"y":{"b":null},"\u0061":[1, 2]} "#);
    assert_eq!(result, Ok(()));
    assert_eq!(object.field("a").json(), Some("[1, 2]"));
    assert_eq!(object.field("b").json(), Some("\"two\""));
    assert_eq!(object.field("c").json(), None);
}

#[test]
fn null_is_absent() {
    let (object, result) = read(r#"{"a":null}"#);
    assert_eq!(result, Ok(()));
    assert_eq!(object.field("a").text(8), Ok(None));
    assert_eq!(
        object.field("a").bytes(8, ErrorName::InternalException).map(|b| b.is_none()),
        Ok(true)
    );
}

#[test]
fn errors_name_the_place_and_never_quote() {
    assert_eq!(message(""), "the request body is not valid JSON: line 1, column 0");
    assert_eq!(message("[]"), "the request body is not a JSON object");
    assert_eq!(message("\"secret\""), "the request body is not a JSON object");
    assert_eq!(
        message("{\"a\":1,\n\"b\":secret}"),
        "the request body is not valid JSON: line 2, column 5"
    );
    assert_eq!(message("{} secret"), "the request body is not valid JSON: line 1, column 4");
    assert_eq!(message(r#"{"a":1,"b":2,"a":3}"#), "a is given twice");
    assert_eq!(message(r#"{"a":null,"a":null}"#), "a is given twice");
    assert_eq!(read(r#"{"x":1,"x":2}"#).1, Ok(()));
    assert_eq!(message("{\"a\":\"\n\"}"), "the request body is not valid JSON: line 1, column 6");
    let mut object = Object::empty("parent.", NAMES);
    let error = object.read(b"7").expect_err("no object");
    assert_eq!(error.message(), "parent is not a JSON object");
    let mut object = Object::empty("parent.", NAMES);
    let error = object.read(br#"{"b":1,"b":1}"#).expect_err("duplicate");
    assert_eq!(error.message(), "parent.b is given twice");
}

#[test]
fn what_came_before_an_error_is_kept() {
    let (object, result) = read(r#"{"b":"kept","a":"cut"#);
    assert!(result.is_err());
    assert_eq!(object.field("b").text(8), Ok(Some("kept".into())));
    assert_eq!(object.field("a").json(), None);
}

#[test]
fn invalid_utf8_is_refused() {
    for json in [&b"{\"a\":\"\xff\"}"[..], b"{\"\xff\":1}", b"\xff", b"\xef\xbb\xbf{}"] {
        let mut object = Object::empty("", NAMES);
        assert!(object.read(json).is_err(), "{json:?}");
    }
}

#[test]
fn deep_nesting_is_answered() {
    for open in ["[", "{\"a\":"] {
        assert!(read(&open.repeat(30_000)).1.is_err());
        assert!(read(&format!("{{\"x\":{}", open.repeat(30_000))).1.is_err());
    }
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(
        read(&deep).0.field("a").text(8).map_err(|e| e.message().to_owned()),
        Err("a is not a string".to_owned())
    );
}

#[test]
fn texts() {
    let text = |json: &'static str| {
        read(json)
            .0
            .field("a")
            .text(4)
            .map(|t| t.map(Cow::into_owned))
            .map_err(|e| (e.status(), e.message().to_owned()))
    };
    assert_eq!(text(r#"{"a":""}"#), Ok(Some(String::new())));
    assert_eq!(text(r#"{"a":"abcd"}"#), Ok(Some("abcd".to_owned())));
    assert_eq!(
        text(r#"{"a":"\u0061\n\ud83d\ude00"}"#),
        Err((501, "a is longer than 4 bytes".to_owned()))
    );
    assert_eq!(text(r#"{"a":"\ud83d\ude00"}"#), Ok(Some("\u{1f600}".to_owned())));
    assert_eq!(text(r#"{"a":"abcde"}"#), Err((501, "a is longer than 4 bytes".to_owned())));
    assert_eq!(
        text(r#"{"a":"\ud83d"}"#),
        Err((400, "a is not a string of Unicode characters".to_owned()))
    );
    for other in ["{\"a\":1}", "{\"a\":true}", "{\"a\":[\"\"]}", "{\"a\":{}}"] {
        assert_eq!(text(other), Err((400, "a is not a string".to_owned())));
    }
}

#[test]
fn base64_fields() {
    let bytes = |json: &'static str| {
        let result = read(json).0.field("a").bytes(3, ErrorName::InvalidCiphertextException);
        result.map(|b| b.map(|b| b.to_vec())).map_err(|e| (e.name(), e.message().to_owned()))
    };
    assert_eq!(bytes(r#"{"a":"Zm9v"}"#), Ok(Some(b"foo".to_vec())));
    assert_eq!(
        bytes(r#"{"a":"Zm9vYg=="}"#),
        Err((ErrorName::InvalidCiphertextException, "a is longer than 3 bytes".to_owned()))
    );
    let not_base64 = Err((
        ErrorName::ValidationException,
        "a is not Base64 (RFC 4648 section 4, padded)".to_owned(),
    ));
    assert_eq!(bytes(r#"{"a":"Zm9"}"#), not_base64);
    assert_eq!(
        bytes(r#"{"a":5}"#),
        Err((ErrorName::ValidationException, "a is not a string".to_owned()))
    );
}

proptest! {
    #[test]
    fn texts_survive_serde_json(text in any::<String>()) {
        let json = serde_json::json!({ "a": text }).to_string();
        let (object, result) = read(&json);
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(object.field("a").text(usize::MAX), Ok(Some(Cow::Owned(text))));
    }
}
