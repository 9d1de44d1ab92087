//! What the four calls must do over every key manager alike, with the AES-256 key `foo`.

use serde_json::{Value, json};

use test_harness::api::{
    Api, aad, b64, bytes, cdiv, decrypt_body, encrypt_body, envelope, name, with,
};

const INTEGRITY: &str = "ciphertextDataIntegrityValueAlgorithm";

fn invalid_ciphertext() -> (u16, String) {
    name(400, "InvalidCiphertextException")
}

/// All of it.
pub fn all(api: &mut Api) {
    metadata(api);
    round_trips(api);
    integrity(api);
    sizes(api);
    tampered(api);
    other_keys(api);
    health(api);
}

pub fn metadata(api: &mut Api) {
    // CreateKey has no kmsKeyArn yet, DescribeKey has; and KMS may one day have calls that nobody
    // knows today.
    for operation in ["DescribeKey", "CreateKey", "SomethingOfTheFuture"] {
        let mut body = envelope(operation, &json!({}));
        if operation == "CreateKey" {
            body["requestMetadata"].as_object_mut().expect("an object").remove("kmsKeyArn");
        }
        let answer = api.ok("keys/foo/metadata", &body);
        assert_eq!(
            (&answer["keySpec"], &answer["keyStatus"]),
            (&json!("AES_256"), &json!("ENABLED"))
        );
        let usage = answer["keyUsage"].as_array().expect("an array");
        assert!(usage.contains(&json!("ENCRYPT")) && usage.contains(&json!("DECRYPT")), "{answer}");
        assert!((1..=10).contains(&usage.len()));
    }
}

pub fn round_trips(api: &mut Api) {
    for context in [json!({}), aad("purpose=test,department=engineering")] {
        let first = api.encrypt("foo", b"thirty-two bytes of a data key..", &context);
        let second = api.encrypt("foo", b"thirty-two bytes of a data key..", &context);
        assert_ne!(first["initializationVector"], second["initializationVector"]);
        assert_ne!(first["ciphertext"], second["ciphertext"]);
        for answer in [&first, &second] {
            assert_eq!(bytes(answer, "ciphertext").len(), 32);
            assert_ne!(bytes(answer, "ciphertext"), b"thirty-two bytes of a data key..");
            assert_eq!(
                (
                    bytes(answer, "initializationVector").len(),
                    bytes(answer, "authenticationTag").len()
                ),
                (12, 16)
            );
            // The format that must open for ever.
            assert_eq!(bytes(answer, "ciphertextMetadata"), [1, 0, 0]);
            assert_eq!(answer.get("ciphertextDataIntegrityValue"), None);
            assert_eq!(api.decrypt("foo", answer, &context), b"thirty-two bytes of a data key..");
        }
    }
}

pub fn integrity(api: &mut Api) {
    for context in ["", "purpose=test"] {
        let fields = if context.is_empty() { json!({}) } else { aad(context) };
        let answer = api.encrypt("foo", b"checked", &with(&fields, &json!({INTEGRITY: "SHA_256"})));
        assert_eq!(answer["ciphertextDataIntegrityValue"], cdiv(context.as_bytes(), &answer));
        assert_eq!(api.decrypt("foo", &answer, &fields), b"checked");
    }
    let body = encrypt_body(b"checked", &json!({INTEGRITY: "SHA_512"}));
    assert_eq!(api.error("keys/foo/encrypt", &body), name(400, "ValidationException"));
}

/// The sizes that must work, and one byte more.
pub fn sizes(api: &mut Api) {
    let context = |n: usize| json!({"additionalAuthenticatedData": b64(vec![0xad; n])});
    for (plaintext, aad) in [(0, 0), (1, 1), (4300, 0), (4300, 8192), (4096, 8192)] {
        let text: Vec<u8> = (0..plaintext).map(|n| (n % 251) as u8).collect();
        let answer =
            api.encrypt("foo", &text, &with(&context(aad), &json!({INTEGRITY: "SHA_256"})));
        assert_eq!(bytes(&answer, "ciphertext").len(), plaintext);
        assert_eq!(answer["ciphertextDataIntegrityValue"], cdiv(&vec![0xad; aad], &answer));
        assert_eq!(api.decrypt("foo", &answer, &context(aad)), text);
    }
    let unsupported = name(501, "UnsupportedOperationException");
    assert_eq!(api.error("keys/foo/encrypt", &encrypt_body(&[0; 4301], &json!({}))), unsupported);
    assert_eq!(api.error("keys/foo/encrypt", &encrypt_body(&[0; 32], &context(8193))), unsupported);
    let answer = api.encrypt("foo", &[0; 32], &json!({}));
    assert_eq!(api.decrypt_error("foo", &answer, &context(8193)), unsupported);
    assert_eq!(
        api.decrypt_error("foo", &answer, &json!({"ciphertext": b64([0; 4301])})),
        unsupported
    );
    assert_eq!(
        api.decrypt_error("foo", &answer, &json!({"ciphertext": b64([0; 4300])})),
        invalid_ciphertext()
    );
}

/// Whatever is changed or left out of a ciphertext, it does not open, and the next request is
/// served.
pub fn tampered(api: &mut Api) {
    let context = aad("project=one");
    let answer = api.encrypt("foo", b"do not touch", &context);
    let changed = |field: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut value = bytes(&answer, field);
        change(&mut value);
        json!({field: b64(value)})
    };
    let mut refused: Vec<Value> = Vec::new();
    for field in ["ciphertext", "initializationVector", "authenticationTag", "ciphertextMetadata"] {
        for position in [0, 2] {
            refused.push(changed(field, &|value| value[position] ^= 1));
        }
        refused.push(changed(field, &|value| value.truncate(value.len() - 1)));
        refused.push(changed(field, &|value| value.push(0)));
    }
    refused.push(json!({"ciphertext": ""}));
    refused.push(json!({"ciphertextMetadata": null}));
    refused.push(json!({"ciphertextMetadata": ""}));
    refused.push(changed("initializationVector", &|value| value.extend([0; 4])));
    refused.push(json!({"additionalAuthenticatedData": null}));
    refused.push(aad(""));
    refused.push(aad("project=two"));
    refused.push(aad("project=one "));
    for change in refused {
        let body = with(&decrypt_body(&answer, &context), &change);
        let found = api.error("keys/foo/decrypt", &body);
        assert_eq!(found, invalid_ciphertext(), "{change}");
    }
    let without = api.encrypt("foo", b"no context", &json!({}));
    assert_eq!(api.decrypt_error("foo", &without, &aad("now there is")), invalid_ciphertext());
    assert_eq!(api.decrypt("foo", &answer, &context), b"do not touch");
    // Absent and empty are the same AAD.
    assert_eq!(api.decrypt("foo", &without, &aad("")), b"no context");
}

pub fn other_keys(api: &mut Api) {
    let answer = api.encrypt("foo", b"text", &json!({}));
    let not_found = name(404, "KeyNotFoundException");
    for key in ["nobody", "FOO", &"k".repeat(128)] {
        assert_eq!(api.decrypt_error(key, &answer, &json!({})), not_found);
        assert_eq!(
            api.error(&format!("keys/{key}/encrypt"), &encrypt_body(b"text", &json!({}))),
            not_found
        );
        assert_eq!(
            api.error(&format!("keys/{key}/metadata"), &envelope("DescribeKey", &json!({}))),
            not_found
        );
    }
}

pub fn health(api: &mut Api) {
    let answer = api.health();
    assert_eq!(answer["xksProxyFleetSize"], 1);
    for field in ["xksProxyVendor", "xksProxyModel", "ekmVendor"] {
        assert!(answer[field].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    }
    let fleet = answer["ekmFleetDetails"].as_array().expect("an array");
    assert_eq!(fleet.len(), 1);
    for field in ["id", "model"] {
        assert!(fleet[0][field].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    }
    assert_eq!(fleet[0]["healthStatus"], "ACTIVE");
}

/// Keys that may do only a part of it, as AWS's test client wants them.
pub fn limited_keys(api: &mut Api, encrypt_only: &str, decrypt_only: &str, impotent: &str) {
    let usage = name(400, "InvalidKeyUsageException");
    let encrypt = |key: &str| format!("keys/{key}/encrypt");
    for context in [json!({}), aad("purpose=test")] {
        let answer = api.encrypt(encrypt_only, b"text", &context);
        assert_eq!(api.decrypt_error(encrypt_only, &answer, &context), usage);
        // The integrity value needs a decryption.
        let checked = encrypt_body(b"text", &with(&context, &json!({INTEGRITY: "SHA_256"})));
        assert_eq!(api.error(&encrypt(encrypt_only), &checked), usage);

        for key in [decrypt_only, impotent] {
            assert_eq!(api.error(&encrypt(key), &encrypt_body(b"text", &context)), usage, "{key}");
            assert_eq!(api.error(&encrypt(key), &checked), usage, "{key}");
        }
        assert_eq!(api.decrypt_error(decrypt_only, &answer, &context), invalid_ciphertext());
        assert_eq!(api.decrypt_error(impotent, &answer, &context), usage);
    }
    let mut told = |key: &str| {
        let answer = api.ok(&format!("keys/{key}/metadata"), &envelope("DescribeKey", &json!({})));
        let usage: Vec<String> = answer["keyUsage"]
            .as_array()
            .expect("an array")
            .iter()
            .map(|u| u.as_str().expect("text").to_owned())
            .collect();
        (usage.contains(&"ENCRYPT".to_owned()), usage.contains(&"DECRYPT".to_owned()))
    };
    assert_eq!(
        (told(encrypt_only), told(decrypt_only), told(impotent)),
        ((true, false), (false, true), (false, false))
    );
}
