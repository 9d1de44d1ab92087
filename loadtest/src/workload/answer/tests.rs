use super::*;

#[test]
fn answers_are_found_one_after_the_other() {
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 429 \r\nConnection: \
        close\r\ncontent-length: 0\r\n\r\n";
    for cut in 0..41 {
        assert_eq!(first(&bytes[..cut.min(39)]).unwrap(), None, "{cut}");
    }
    let one = first(bytes).unwrap().unwrap();
    assert_eq!((one.status, one.body.as_ref(), one.close), (200, &b"{}"[..], false));
    let two = first(&bytes[one.length..]).unwrap().unwrap();
    assert_eq!((two.status, two.body.len(), two.close), (429, 0, true));
    assert_eq!(one.length + two.length, bytes.len());
}

#[test]
fn chunked_answers_are_put_together() {
    let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \
        chunked\r\n\r\n2\r\n{\"\r\n3\r\na\"}\r\n0\r\n\r\nrest";
    let whole = first(bytes).unwrap().unwrap();
    assert_eq!((whole.body.as_ref(), whole.length), (&b"{\"a\"}"[..], bytes.len() - 4));
    for cut in 0..whole.length {
        assert_eq!(first(&bytes[..cut]).unwrap(), None, "{cut}");
    }
}

#[test]
fn what_is_no_answer_is_refused() {
    for wrong in [
        "SSH-2.0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n",
    ] {
        assert!(first(wrong.as_bytes()).is_err(), "{wrong}");
    }
    assert!(first(b"GARBAGE \0\r\n\r\n").is_err());
}

#[test]
fn errors_are_counted_by_name() {
    assert_eq!(
        error_name(429, br#"{"errorName":"ThrottlingException","errorMessage":"x"}"#),
        "ThrottlingException (429)"
    );
    assert_eq!(error_name(502, b"<html>"), "status 502 without errorName");
    assert_eq!(error_name(500, br#"{"errorName":"<script>"}"#), "status 500 without errorName");
}

/// The example of the specification, appendix C.
const SPEC: &str = r#"{"authenticationTag": "vBxN2ncH1oEkR8WVXpmyYQ==", "ciphertext": "ghxkK1txeDNn3q8Y",
    "ciphertextDataIntegrityValue": "qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=",
    "ciphertextMetadata": "a2V5X3ZlcnNpb249MQ==", "initializationVector": "HMrlRw85cAJUd5Ax"}"#;
const AAD: &[u8] = b"project=nile,department=marketing";

fn asked(plaintext_bytes: usize, aad: &[u8], cdiv: bool) -> EncryptRequest<'_> {
    EncryptRequest { plaintext_bytes, aad, cdiv }
}

#[test]
fn the_specifications_cdiv_is_right_and_every_change_of_it_is_wrong() {
    let check = |request: &EncryptRequest<'_>, body: &str| {
        Checker::default().encrypted(request, 0, body.as_bytes()).map(|_| ())
    };
    assert_eq!(check(&asked(12, AAD, true), SPEC), Ok(()));
    // Escaped slashes and unknown fields are still JSON.
    assert_eq!(
        check(
            &asked(12, AAD, true),
            &SPEC.replace("qHA/Im", "qHA\\/Im").replacen('{', "{\"later\":{\"x\":[1]},", 1)
        ),
        Ok(())
    );
    for (from, to) in
        [("vBxN", "vBxM"), ("ghxk", "ghxl"), ("qHA/", "qHA+"), ("a2V5", "a2V6"), ("HMrl", "HMrm")]
    {
        assert!(
            check(&asked(12, AAD, true), &SPEC.replace(from, to)).unwrap_err().contains("CDIV"),
            "{from}"
        );
    }
    assert!(check(&asked(12, b"other", true), SPEC).unwrap_err().contains("CDIV"));
    assert!(check(&asked(13, AAD, true), SPEC).unwrap_err().contains("12 bytes"));
    assert!(check(&asked(12, AAD, false), SPEC).unwrap_err().contains("not asked"));
    let without = SPEC.replace("ciphertextDataIntegrityValue", "other");
    assert!(check(&asked(12, AAD, true), &without).unwrap_err().contains("no CDIV"));
    assert_eq!(check(&asked(12, AAD, false), &without), Ok(()));
    for (from, to) in [
        ("HMrlRw85cAJUd5Ax", "HMrlRw85cAI="),
        ("vBxN2ncH1oEkR8WVXpmyYQ==", "vBxN"),
        ("ghxk", "g*xk"),
    ] {
        assert!(check(&asked(12, AAD, true), &SPEC.replace(from, to)).is_err(), "{from}");
    }
    let long = BASE64_STANDARD.encode([1; 21]);
    assert!(
        check(&asked(12, AAD, true), &SPEC.replace("a2V5X3ZlcnNpb249MQ==", &long))
            .unwrap_err()
            .contains("21 bytes")
    );
}

#[test]
fn an_iv_that_comes_again_is_noticed_under_its_key_only() {
    let mut checker = Checker::default();
    let asked = asked(12, AAD, true);
    assert!(checker.encrypted(&asked, 0, SPEC.as_bytes()).is_ok());
    assert!(checker.encrypted(&asked, 1, SPEC.as_bytes()).is_ok());
    assert!(checker.encrypted(&asked, 1, SPEC.as_bytes()).unwrap_err().contains("same IV"));
}

#[test]
fn a_plaintext_must_come_back_exactly() {
    assert_eq!(decrypted("AAEC", br#"{"plaintext":"AAEC"}"#), Ok(()));
    assert_eq!(decrypted("/+8=", br#"{"plaintext":"\/+8="}"#), Ok(()));
    for wrong in [
        r#"{"plaintext":"AAED"}"#,
        r#"{"plaintext":"AAEC="}"#,
        r#"{"plaintext":""}"#,
        "{}",
        "",
        "AAEC",
    ] {
        assert!(decrypted("AAEC", wrong.as_bytes()).is_err(), "{wrong}");
    }
}

#[test]
fn metadata_and_health_are_read() {
    let good = r#"{"keySpec":"AES_256","keyUsage":["ENCRYPT","DECRYPT"],"keyStatus":"ENABLED"}"#;
    assert_eq!(metadata(good.as_bytes()), Ok(()));
    for (from, to) in [
        ("AES_256", "RSA_0"),
        ("\"DECRYPT\"", "\"SIGN\""),
        ("ENABLED", "DISABLED"),
        ("keySpec", "spec"),
    ] {
        assert!(metadata(good.replace(from, to).as_bytes()).is_err(), "{from}");
    }
    let good = r#"{"xksProxyFleetSize":1,"ekmFleetDetails":[{"id":"a","model":"b","healthStatus":"ACTIVE"}]}"#;
    assert_eq!(health(good.as_bytes()), Ok(()));
    for (from, to) in [(":1,", ":0,"), ("ACTIVE", "FINE"), ("healthStatus", "status")] {
        assert!(health(good.replace(from, to).as_bytes()).is_err(), "{from}");
    }
}

#[test]
fn messages_of_errors_are_cut_and_harm_no_terminal() {
    let of = |message: &str| {
        error_message(
            serde_json::json!({"errorName": "X", "errorMessage": message}).to_string().as_bytes(),
        )
    };
    assert_eq!(of("clock is 7 minutes off").as_deref(), Some("clock is 7 minutes off"));
    assert_eq!(of("a\n\u{1b}[2J\u{e9}").as_deref(), Some("a??[2J?"));
    assert_eq!(
        of(&"x".repeat(ERROR_MESSAGE_CHARS_MAX)).map(|m| m.len()),
        Some(ERROR_MESSAGE_CHARS_MAX)
    );
    assert_eq!(
        of(&"x".repeat(ERROR_MESSAGE_CHARS_MAX + 1)).map(|m| m.len()),
        Some(ERROR_MESSAGE_CHARS_MAX)
    );
    assert_eq!(of(""), None);
    for none in [&b"{}"[..], b"", b"<html>", b"{\"errorMessage\":7}"] {
        assert_eq!(error_message(none), None);
    }
}
