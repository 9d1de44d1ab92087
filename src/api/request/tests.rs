use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

mod bodies;
use bodies::{base64, decrypt_body, encrypt_body, health_body, metadata_body};

fn accepted(operation: Operation, body: &Value) -> (RequestMetadata<'static>, Call) {
    let text = body.to_string();
    let (metadata, call) = decode(operation, text.as_bytes()).expect("valid").into_parts();
    (metadata.into_owned(), call)
}

fn encrypt_of(body: &Value) -> Encrypt {
    match accepted(Operation::Encrypt, body).1 {
        Call::Encrypt(encrypt) => encrypt,
        other => panic!("{other:?}"),
    }
}

fn decrypt_of(body: &Value) -> Decrypt {
    match accepted(Operation::Decrypt, body).1 {
        Call::Decrypt(decrypt) => decrypt,
        other => panic!("{other:?}"),
    }
}

/// Error name and message.
fn refused(operation: Operation, body: &Value) -> (ErrorName, String) {
    let text = body.to_string();
    let rejection = decode(operation, text.as_bytes()).expect_err(&text);
    (rejection.error.name(), rejection.error.message().to_owned())
}

fn with(mut body: Value, pointer: &str, value: Value) -> Value {
    let (parent, name) = pointer.rsplit_once('/').expect("pointer");
    body.pointer_mut(parent).expect("parent")[name] = value;
    body
}

fn without(mut body: Value, pointer: &str) -> Value {
    let (parent, name) = pointer.rsplit_once('/').expect("pointer");
    let removed =
        body.pointer_mut(parent).and_then(Value::as_object_mut).and_then(|o| o.remove(name));
    assert!(removed.is_some(), "{pointer}");
    body
}

fn all_bodies() -> [(Operation, Value); 4] {
    [
        (Operation::Metadata, metadata_body()),
        (Operation::Encrypt, encrypt_body()),
        (Operation::Decrypt, decrypt_body()),
        (Operation::Health, health_body()),
    ]
}

#[test]
fn the_specifications_examples() {
    let (metadata, call) = accepted(Operation::Metadata, &metadata_body());
    assert!(matches!(call, Call::Metadata));
    assert_eq!(metadata.kms_operation.as_deref(), Some("CreateKey"));
    assert_eq!(metadata.kms_key_arn, None);

    let (metadata, call) = accepted(Operation::Health, &health_body());
    assert!(matches!(call, Call::Health));
    assert_eq!(
        (metadata.principal, metadata.kms_operation.as_deref()),
        (None, Some("CreateCustomKeyStore"))
    );

    let encrypt = encrypt_of(&encrypt_body());
    assert_eq!(encrypt.plaintext.as_slice(), b"Hello World!");
    assert_eq!(encrypt.aad.as_deref(), Some(&b"project=nile,department=marketing"[..]));
    assert!(encrypt.integrity);

    let decrypt = decrypt_of(&decrypt_body());
    assert_eq!((decrypt.ciphertext.len(), decrypt.iv.len(), decrypt.tag[0]), (12, 12, 0xbc));
    assert_eq!(decrypt.aad.as_deref(), Some(&b"project=nile,department=marketing"[..]));
    assert_eq!(decrypt.metadata.as_deref(), Some(&b"key_version=1"[..]));
}

#[test]
fn request_metadata_is_read_whole() {
    let mut body = encrypt_body();
    body["requestMetadata"]["awsSourceVpc"] = json!("vpc-1");
    body["requestMetadata"]["awsSourceVpce"] = json!("vpce-1");
    let expected = RequestMetadata {
        principal: Some("arn:aws:iam::123456789012:user/Alice".into()),
        kms_operation: Some("Encrypt".into()),
        kms_request_id: Some("4112f4d6-db54-4af4-ae30-c55a22a8dfae".into()),
        kms_key_arn: Some(
            "arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab".into(),
        ),
        via_service: Some("ebs".into()),
        vpc: Some("vpc-1".into()),
        vpce: Some("vpce-1".into()),
    };
    assert_eq!(accepted(Operation::Encrypt, &body).0, expected);
    let text = body.to_string();
    let request = decode(Operation::Encrypt, text.as_bytes()).expect("valid");
    assert_eq!(request.metadata(), &expected);
    assert!(
        matches!(request.metadata().principal, Some(Cow::Borrowed(_))),
        "no copy without escapes"
    );
}

#[test]
fn request_id_and_operation_may_be_anything() {
    for value in ["", "FutureOperation", "not a uuid", "\n\u{0}\u{1f600}\""] {
        for (operation, body) in all_bodies() {
            let body = with(
                with(body, "/requestMetadata/kmsRequestId", json!(value)),
                "/requestMetadata/kmsOperation",
                json!(value),
            );
            let metadata = accepted(operation, &body).0;
            assert_eq!(
                (metadata.kms_request_id.as_deref(), metadata.kms_operation.as_deref()),
                (Some(value), Some(value))
            );
        }
    }
}

#[test]
fn each_required_field_is_named_when_it_is_missing_or_null() {
    let key_call = [
        "requestMetadata",
        "requestMetadata/awsPrincipalArn",
        "requestMetadata/kmsOperation",
        "requestMetadata/kmsRequestId",
    ];
    let health =
        ["requestMetadata", "requestMetadata/kmsOperation", "requestMetadata/kmsRequestId"];
    let encrypt = ["requestMetadata/kmsKeyArn", "plaintext", "encryptionAlgorithm"];
    let decrypt = [
        "requestMetadata/kmsKeyArn",
        "ciphertext",
        "initializationVector",
        "authenticationTag",
        "encryptionAlgorithm",
    ];
    for (operation, body) in all_bodies() {
        let (common, more): (&[&str], &[&str]) = match operation {
            Operation::Metadata => (&key_call, &[]),
            Operation::Health => (&health, &[]),
            Operation::Encrypt => (&key_call, &encrypt),
            Operation::Decrypt => (&key_call, &decrypt),
        };
        for path in common.iter().chain(more) {
            let pointer = format!("/{path}");
            let of_ciphertext =
                ["ciphertext", "initializationVector", "authenticationTag"].contains(path);
            let name = if of_ciphertext {
                ErrorName::InvalidCiphertextException
            } else {
                ErrorName::ValidationException
            };
            let expected = (name, format!("{} is missing", path.replace('/', ".")));
            assert_eq!(
                refused(operation, &without(body.clone(), &pointer)),
                expected,
                "{operation:?}"
            );
            assert_eq!(
                refused(operation, &with(body.clone(), &pointer, Value::Null)),
                expected,
                "{operation:?}"
            );
        }
    }
}

#[test]
fn optional_fields_may_be_missing_or_null() {
    let optional: [(Operation, Value, &[&str]); 3] = [
        (
            Operation::Metadata,
            with(metadata_body(), "/requestMetadata/kmsKeyArn", json!("arn")),
            &["requestMetadata/kmsKeyArn"],
        ),
        (
            Operation::Encrypt,
            encrypt_body(),
            &[
                "requestMetadata/kmsViaService",
                "additionalAuthenticatedData",
                "ciphertextDataIntegrityValueAlgorithm",
            ],
        ),
        (
            Operation::Decrypt,
            decrypt_body(),
            &["requestMetadata/kmsViaService", "additionalAuthenticatedData", "ciphertextMetadata"],
        ),
    ];
    for (operation, body, paths) in optional {
        for path in paths {
            accepted(operation, &without(body.clone(), &format!("/{path}")));
            accepted(operation, &with(body.clone(), &format!("/{path}"), Value::Null));
        }
    }
    let bare = without(
        without(encrypt_body(), "/additionalAuthenticatedData"),
        "/ciphertextDataIntegrityValueAlgorithm",
    );
    let encrypt = encrypt_of(&bare);
    assert_eq!((encrypt.aad, encrypt.integrity), (None, false));
    assert_eq!(decrypt_of(&without(decrypt_body(), "/ciphertextMetadata")).metadata, None);
}

#[test]
fn each_field_must_be_a_string() {
    for (operation, body) in all_bodies() {
        let mut paths: Vec<String> = body.as_object().expect("object").keys().cloned().collect();
        paths.retain(|name| name != "requestMetadata");
        let metadata = body["requestMetadata"].as_object().expect("object");
        paths.extend(metadata.keys().map(|name| format!("requestMetadata/{name}")));
        for path in paths {
            for wrong in [json!(1), json!(true), json!(["AES_GCM"]), json!({"a": 1})] {
                let expected = (
                    ErrorName::ValidationException,
                    format!("{} is not a string", path.replace('/', ".")),
                );
                assert_eq!(
                    refused(operation, &with(body.clone(), &format!("/{path}"), wrong)),
                    expected
                );
            }
        }
        for wrong in [json!("x"), json!([]), json!(0)] {
            let expected =
                (ErrorName::ValidationException, "requestMetadata is not a JSON object".to_owned());
            assert_eq!(
                refused(operation, &with(body.clone(), "/requestMetadata", wrong)),
                expected
            );
        }
    }
}

/// The negative cases of AWS's test client, as far as a body decides them.
#[test]
fn awss_test_client() {
    for operation in [Operation::Health, Operation::Metadata] {
        assert_eq!(refused(operation, &json!({})).0, ErrorName::ValidationException);
        assert_eq!(
            refused(operation, &json!({"requestMetadata": {}})).0,
            ErrorName::ValidationException
        );
    }
    assert_eq!(
        refused(Operation::Encrypt, &without(encrypt_body(), "/plaintext")).0,
        ErrorName::ValidationException
    );
}

#[test]
fn algorithms() {
    for wrong in ["", "aes_gcm", "AES_CBC", "AES_GCM "] {
        let expected =
            (ErrorName::ValidationException, "encryptionAlgorithm is not AES_GCM".to_owned());
        assert_eq!(
            refused(
                Operation::Encrypt,
                &with(encrypt_body(), "/encryptionAlgorithm", json!(wrong))
            ),
            expected
        );
        assert_eq!(
            refused(
                Operation::Decrypt,
                &with(decrypt_body(), "/encryptionAlgorithm", json!(wrong))
            ),
            expected
        );
    }
    for wrong in ["", "SHA256", "sha_256", "SHA_512"] {
        let expected = (
            ErrorName::ValidationException,
            "ciphertextDataIntegrityValueAlgorithm is not SHA_256".to_owned(),
        );
        let body = with(encrypt_body(), "/ciphertextDataIntegrityValueAlgorithm", json!(wrong));
        assert_eq!(refused(Operation::Encrypt, &body), expected);
    }
}

#[test]
fn payloads_on_both_sides_of_their_limits() {
    let unsupported = ErrorName::UnsupportedOperationException;
    for len in [0, 1, PLAINTEXT_BYTES_MAX] {
        assert_eq!(
            encrypt_of(&with(encrypt_body(), "/plaintext", base64(len))).plaintext.len(),
            len
        );
        assert_eq!(
            decrypt_of(&with(decrypt_body(), "/ciphertext", base64(len))).ciphertext.len(),
            len
        );
    }
    for len in [PLAINTEXT_BYTES_MAX + 1, PLAINTEXT_BYTES_MAX + 3, 30_000] {
        let message = |name| (unsupported, format!("{name} is longer than 4300 bytes"));
        assert_eq!(
            refused(Operation::Encrypt, &with(encrypt_body(), "/plaintext", base64(len))),
            message("plaintext")
        );
        assert_eq!(
            refused(Operation::Decrypt, &with(decrypt_body(), "/ciphertext", base64(len))),
            message("ciphertext")
        );
    }
    for len in [0, 1, AAD_BYTES_MAX] {
        let aad =
            encrypt_of(&with(encrypt_body(), "/additionalAuthenticatedData", base64(len))).aad;
        assert_eq!(aad.map(|aad| aad.len()), Some(len));
        let aad =
            decrypt_of(&with(decrypt_body(), "/additionalAuthenticatedData", base64(len))).aad;
        assert_eq!(aad.map(|aad| aad.len()), Some(len));
    }
    for len in [AAD_BYTES_MAX + 1, 70_000] {
        let expected =
            (unsupported, "additionalAuthenticatedData is longer than 8192 bytes".to_owned());
        for (operation, body) in
            [(Operation::Encrypt, encrypt_body()), (Operation::Decrypt, decrypt_body())]
        {
            assert_eq!(
                refused(operation, &with(body, "/additionalAuthenticatedData", base64(len))),
                expected
            );
        }
    }
}

#[test]
fn lengths_that_belong_to_a_ciphertext() {
    let invalid = ErrorName::InvalidCiphertextException;
    for len in 0..=40 {
        let iv = with(decrypt_body(), "/initializationVector", base64(len));
        let tag = with(decrypt_body(), "/authenticationTag", base64(len));
        let metadata = with(decrypt_body(), "/ciphertextMetadata", base64(len));
        if len == 12 || len == 16 {
            assert_eq!(decrypt_of(&iv).iv.len(), len);
        } else {
            assert_eq!(refused(Operation::Decrypt, &iv).0, invalid, "IV of {len}");
        }
        if len == TAG_BYTES {
            assert_eq!(decrypt_of(&tag).tag, [7; TAG_BYTES]);
        } else {
            assert_eq!(refused(Operation::Decrypt, &tag).0, invalid, "tag of {len}");
        }
        if len <= CIPHERTEXT_METADATA_BYTES_MAX {
            assert_eq!(decrypt_of(&metadata).metadata.map(|m| m.len()), Some(len));
        } else {
            assert_eq!(
                refused(Operation::Decrypt, &metadata).0,
                ErrorName::ValidationException,
                "metadata of {len}"
            );
        }
    }
}

#[test]
fn metadata_fields_on_both_sides_of_their_limit() {
    for name in METADATA_FIELDS {
        let pointer = format!("/requestMetadata/{name}");
        accepted(
            Operation::Encrypt,
            &with(encrypt_body(), &pointer, json!("x".repeat(METADATA_FIELD_BYTES_MAX))),
        );
        let body = with(encrypt_body(), &pointer, json!("x".repeat(METADATA_FIELD_BYTES_MAX + 1)));
        let expected = (
            ErrorName::UnsupportedOperationException,
            format!("requestMetadata.{name} is longer than 2048 bytes"),
        );
        assert_eq!(refused(Operation::Encrypt, &body), expected);
    }
}

#[test]
fn base64_fields_refuse_other_spellings() {
    let fields: [(Operation, Value, &[&str]); 2] = [
        (Operation::Encrypt, encrypt_body(), &["plaintext", "additionalAuthenticatedData"]),
        (
            Operation::Decrypt,
            decrypt_body(),
            &[
                "ciphertext",
                "initializationVector",
                "authenticationTag",
                "additionalAuthenticatedData",
                "ciphertextMetadata",
            ],
        ),
    ];
    for (operation, body, names) in fields {
        for name in names {
            for wrong in ["-_-_", "Zg", "Zh==", "Zm9v ", "secret!!"] {
                let expected = (
                    ErrorName::ValidationException,
                    format!("{name} is not Base64 (RFC 4648 section 4, padded)"),
                );
                assert_eq!(
                    refused(operation, &with(body.clone(), &format!("/{name}"), json!(wrong))),
                    expected
                );
            }
        }
    }
}

#[test]
fn a_refused_request_still_tells_who_it_was() {
    let request_id = |operation, text: &str| {
        let rejection = decode(operation, text.as_bytes()).expect_err(text);
        rejection.metadata.kms_request_id.map(Cow::into_owned)
    };
    let known = Some("4112f4d6-db54-4af4-ae30-c55a22a8dfae".to_owned());
    // A field further on is wrong, or the body ends early.
    assert_eq!(
        request_id(Operation::Encrypt, &without(encrypt_body(), "/plaintext").to_string()),
        known
    );
    let metadata = encrypt_body()["requestMetadata"].to_string();
    assert_eq!(
        request_id(
            Operation::Encrypt,
            &format!("{{\"requestMetadata\":{metadata},\"plaintext\":\"Zm")
        ),
        known
    );
    // A field of the metadata itself is missing, of a wrong type, or too long.
    assert_eq!(
        request_id(
            Operation::Encrypt,
            &without(encrypt_body(), "/requestMetadata/kmsKeyArn").to_string()
        ),
        known
    );
    for wrong in [json!(7), json!("x".repeat(5000))] {
        let body = with(encrypt_body(), "/requestMetadata/awsPrincipalArn", wrong);
        assert_eq!(request_id(Operation::Encrypt, &body.to_string()), known);
    }
    // Nothing to be known.
    assert_eq!(request_id(Operation::Encrypt, "{"), None);
    assert_eq!(request_id(Operation::Encrypt, ""), None);
}

#[test]
fn fields_given_twice_are_refused() {
    for (operation, body) in all_bodies() {
        for name in body.as_object().expect("object").keys() {
            let text = body.to_string();
            let twice =
                format!("{},\"{name}\":{}}}", text.strip_suffix('}').expect("object"), body[name]);
            let rejection = decode(operation, twice.as_bytes()).expect_err(&twice);
            assert_eq!(rejection.error.name(), ErrorName::ValidationException);
            assert_eq!(rejection.error.message(), format!("{name} is given twice"));
        }
    }
}

#[test]
fn debug_and_errors_hold_no_payload() {
    let plaintext = "c2VjcmV0IHNlY3JldA==";
    let encrypt = encrypt_of(&with(encrypt_body(), "/plaintext", json!(plaintext)));
    assert_eq!(
        format!("{encrypt:?}"),
        "Encrypt { plaintext_bytes: 13, aad_bytes: Some(33), integrity: true }"
    );
    assert_eq!(
        format!("{:?}", decrypt_of(&decrypt_body())),
        "Decrypt { ciphertext_bytes: 12, iv_bytes: 12, aad_bytes: Some(33), metadata_bytes: \
         Some(13) }"
    );
    for broken in ["c2VjcmV0IHNlY3JldA", "c2VjcmV0IHNlY3JldA==\"x", "c2VjcmV0IHNlY3JldA==\u{7f}"] {
        let text =
            with(encrypt_body(), "/plaintext", json!("HERE")).to_string().replace("HERE", broken);
        let rejection = decode(Operation::Encrypt, text.as_bytes()).expect_err(broken);
        assert!(!format!("{rejection:?}").contains("c2Vj"), "{rejection:?}");
    }
}

/// A field's name and its value in some legitimate spelling: with more escapes than needed.
fn escaped(text: &str, every: usize) -> String {
    let spelled =
        text.encode_utf16().enumerate().map(|(i, unit)| match char::from_u32(u32::from(unit)) {
            Some(c) if i % every != 0 && c.is_ascii_graphic() && c != '"' && c != '\\' => {
                c.to_string()
            }
            _ => format!("\\u{unit:04x}"),
        });
    format!("\"{}\"", spelled.collect::<String>())
}

proptest! {
    #[test]
    fn valid_encrypts_round_trip(
        plaintext in prop::collection::vec(any::<u8>(), 0..80),
        aad in prop::option::of(prop::collection::vec(any::<u8>(), 0..80)),
        integrity in any::<bool>(),
        principal in any::<String>(),
        unknown in "[a-z]{1,8}",
        every in 1usize..5,
    ) {
        let mut fields = vec![
            ("encryptionAlgorithm".to_owned(), escaped("AES_GCM", every)),
            ("plaintext".to_owned(), escaped(&bodies::encoded(&plaintext), every)),
            (format!("x{unknown}"), "{\"plaintext\":[null,1e5]}".to_owned()),
            ("requestMetadata".to_owned(), format!(
                "{{\"kmsRequestId\":\"r\",\"x\":[],\"kmsOperation\":\"o\",\"kmsKeyArn\":\"k\",\"awsPrincipalArn\":{}}}",
                escaped(&principal, every)
            )),
        ];
        fields.extend(aad.iter().map(|aad| ("additionalAuthenticatedData".to_owned(), escaped(&bodies::encoded(aad), every))));
        fields.extend(integrity.then(|| ("ciphertextDataIntegrityValueAlgorithm".to_owned(), escaped("SHA_256", every))));
        let text: Vec<String> = fields.iter().map(|(name, value)| format!("{}: {value}", escaped(name, every))).collect();
        let text = format!(" {{ {} }}\r\n", text.join(" ,\t"));

        let request = decode(Operation::Encrypt, text.as_bytes()).expect(&text);
        let (metadata, Call::Encrypt(encrypt)) = request.into_parts() else { panic!("not an \
            encrypt") };
        prop_assert_eq!(metadata.principal.as_deref(), Some(principal.as_str()));
        prop_assert_eq!(encrypt.plaintext.as_slice(), plaintext.as_slice());
        prop_assert_eq!(encrypt.aad, aad);
        prop_assert_eq!(encrypt.integrity, integrity);
    }

    #[test]
    fn valid_decrypts_round_trip(
        ciphertext in prop::collection::vec(any::<u8>(), 0..80),
        iv in prop_oneof![prop::collection::vec(any::<u8>(), 12), prop::collection::vec(any::<u8>(), 16)],
        tag in any::<[u8; 16]>(),
        metadata in prop::option::of(prop::collection::vec(any::<u8>(), 0..=20)),
    ) {
        let mut body = decrypt_body();
        body["ciphertext"] = json!(bodies::encoded(&ciphertext));
        body["initializationVector"] = json!(bodies::encoded(&iv));
        body["authenticationTag"] = json!(bodies::encoded(&tag));
        body["ciphertextMetadata"] = metadata.as_ref().map_or(Value::Null, |m| json!(bodies::encoded(m)));
        let decrypt = decrypt_of(&body);
        prop_assert_eq!((decrypt.ciphertext, decrypt.iv, decrypt.tag), (ciphertext, iv, tag));
        prop_assert_eq!(decrypt.metadata.as_deref(), metadata.as_deref());
    }

    #[test]
    fn any_bytes_are_answered(body in prop::collection::vec(any::<u8>(), 0..200)) {
        for operation in Operation::ALL {
            let _ = decode(operation, &body);
        }
    }

    /// Valid bodies with a piece overwritten, cut out or repeated: close enough to reach every
    /// branch.
    #[test]
    fn damaged_bodies_are_answered(from in 0usize..700, len in 0usize..40, noise in prop::collection::vec(any::<u8>(), 0..20)) {
        for (operation, body) in all_bodies() {
            let text = body.to_string().into_bytes();
            let from = from.min(text.len());
            let to = (from + len).min(text.len());
            let damaged = [&text[..from], &noise, &text[to..]].concat();
            if let Err(rejection) = decode(operation, &damaged) {
                prop_assert!(!rejection.error.message().is_empty());
            }
        }
    }
}
