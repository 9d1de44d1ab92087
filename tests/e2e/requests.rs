//! Requests that are not as the specification wants them: fields, paths and methods.

use serde_json::{Value, json};
use test_harness::api::{decrypt_body, encrypt_body, name};
use test_harness::{Api, Installation, Request, Wire, b64, envelope, eventually, with};

fn validation() -> (u16, String) {
    name(400, "ValidationException")
}

/// The body with `requestMetadata` changed as [`with`] does.
fn with_metadata(body: &Value, fields: &Value) -> Value {
    with(body, &json!({"requestMetadata": with(&body["requestMetadata"], fields)}))
}

/// Every call of key `foo` with a good body.
fn good(api: &mut Api) -> [(&'static str, Value); 4] {
    let encrypted = api.encrypt("foo", b"text", &json!({}));
    [
        (
            "health",
            json!({"requestMetadata": {"kmsRequestId": "h", "kmsOperation": "KmsHealthCheck"}}),
        ),
        ("keys/foo/metadata", envelope("DescribeKey", &json!({}))),
        ("keys/foo/encrypt", encrypt_body(b"text", &json!({}))),
        ("keys/foo/decrypt", decrypt_body(&encrypted, &json!({}))),
    ]
}

#[test]
fn missing_and_wrong_request_metadata() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    for (call, body) in good(&mut api) {
        for wrong in [
            json!({"requestMetadata": {}}),
            json!({"requestMetadata": []}),
            json!({"requestMetadata": "x"}),
        ] {
            assert_eq!(api.error(call, &with(&body, &wrong)), validation(), "{call} {wrong}");
        }
        assert_eq!(
            api.error(call, &with(&body, &json!({"requestMetadata": null}))),
            validation(),
            "{call}"
        );
        assert_eq!(api.error(call, &json!({})), validation(), "{call}");
        let required: &[&str] = match call {
            "health" => &["kmsRequestId", "kmsOperation"],
            "keys/foo/metadata" => &["kmsRequestId", "kmsOperation", "awsPrincipalArn"],
            _ => &["kmsRequestId", "kmsOperation", "awsPrincipalArn", "kmsKeyArn"],
        };
        for field in [
            "kmsRequestId",
            "kmsOperation",
            "awsPrincipalArn",
            "kmsKeyArn",
            "kmsViaService",
            "awsSourceVpc",
            "awsSourceVpce",
        ] {
            let without = with_metadata(&body, &json!({field: null}));
            let expected = if required.contains(&field) { validation() } else { name(200, "none") };
            let response = api.call(call, &without);
            assert_eq!(response.error(), expected, "{call} without {field}");
            if response.status != 200 {
                assert!(response.message().contains(field), "{}", response.message());
            }
            assert_eq!(
                api.error(call, &with_metadata(&body, &json!({field: 7}))),
                validation(),
                "{call} {field}"
            );
            assert_eq!(
                api.error(call, &with_metadata(&body, &json!({field: ["a"]}))),
                validation(),
                "{call} {field}"
            );
            let longest = with_metadata(&body, &json!({field: "a".repeat(2048)}));
            assert_eq!(api.error(call, &longest), name(200, "none"), "{call} {field}");
            let longer = with_metadata(&body, &json!({field: "a".repeat(2049)}));
            assert_eq!(
                api.error(call, &longer),
                name(501, "UnsupportedOperationException"),
                "{call} {field}"
            );
        }
    }
}

#[test]
fn what_is_unknown_is_no_reason_to_refuse() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    for (call, body) in good(&mut api) {
        let metadata = json!({"kmsOperation": "RewrapInTheYear2050", "kmsRequestId": "no UUID: \
            \u{e9}\u{4e2d}\n\"", "newField": {"a": [1]}});
        let body = with(
            &with_metadata(&body, &metadata),
            &json!({"later": [1, {"deep": "er"}], "Plaintext": 3}),
        );
        assert_eq!(api.error(call, &body), name(200, "none"), "{call}");
    }
}

#[test]
fn missing_and_wrong_payload() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let [_, _, (encrypt, encrypt_body), (decrypt, decrypt_body)] = good(&mut api);
    let not_base64 =
        ["====", "YQ", "YQ=", "YQ==\n", " YQ==", "_-__", "YQ==YQ==", "Y\u{e9}==", "YR=="];
    for (call, body, required, optional) in [
        (encrypt, &encrypt_body, &["plaintext"][..], "additionalAuthenticatedData"),
        (
            decrypt,
            &decrypt_body,
            &["ciphertext", "initializationVector", "authenticationTag"],
            "additionalAuthenticatedData",
        ),
    ] {
        for field in required.iter().chain(&["encryptionAlgorithm"]) {
            let response = api.call(call, &with(body, &json!({*field: null})));
            let of_ciphertext =
                ["ciphertext", "initializationVector", "authenticationTag"].contains(field);
            let expected =
                if of_ciphertext { name(400, "InvalidCiphertextException") } else { validation() };
            assert_eq!(response.error(), expected, "{call} without {field}");
            assert!(response.message().contains(field), "{}", response.message());
        }
        for field in required.iter().chain(&[optional]) {
            for wrong in not_base64.iter().map(|text| json!(text)).chain([
                json!(1),
                json!({}),
                json!(["YQ=="]),
                json!(true),
            ]) {
                assert_eq!(
                    api.error(call, &with(body, &json!({*field: wrong}))),
                    validation(),
                    "{call} {field} {wrong}"
                );
            }
        }
        for wrong in [json!("AES_CBC"), json!("aes_gcm"), json!(""), json!(1)] {
            assert_eq!(
                api.error(call, &with(body, &json!({"encryptionAlgorithm": wrong}))),
                validation(),
                "{call}"
            );
        }
    }
    for wrong in not_base64 {
        assert_eq!(
            api.error(decrypt, &with(&decrypt_body, &json!({"ciphertextMetadata": wrong}))),
            validation(),
            "{wrong}"
        );
    }
    // At most 20 bytes by the specification; 20 that are none of ours are a bad ciphertext.
    let metadata = |n: usize| json!({"ciphertextMetadata": b64(vec![9; n])});
    assert_eq!(
        api.error(decrypt, &with(&decrypt_body, &metadata(20))),
        name(400, "InvalidCiphertextException")
    );
    assert_eq!(api.error(decrypt, &with(&decrypt_body, &metadata(21))), validation());
    for wrong in [json!("SHA_512"), json!("sha_256"), json!(256)] {
        assert_eq!(
            api.error(
                encrypt,
                &with(&encrypt_body, &json!({"ciphertextDataIntegrityValueAlgorithm": wrong}))
            ),
            validation()
        );
    }
    api.round_trip("foo");
}

#[test]
fn bodies_that_are_no_json_object() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let nested = [vec![b'['; 60_000], vec![b']'; 60]].concat();
    let deep = [b"{\"requestMetadata\":".to_vec(), vec![b'['; 60_000]].concat();
    let twice = br#"{"requestMetadata":{"kmsRequestId":"1","kmsOperation":"x"},"requestMetadata":{"kmsRequestId":"2","kmsOperation":"x"}}"#;
    let trailing = br#"{"requestMetadata":{"kmsRequestId":"1","kmsOperation":"x"}} {}"#;
    for body in [
        &b""[..],
        b"null",
        b"[]",
        b"\"text\"",
        b"{",
        b"{\"a\":}",
        b"\xff\xfe",
        b"{\"requestMetadata\":\xff}",
        &nested,
        &deep,
        twice,
        trailing,
    ] {
        let request = Request::of_bytes(&server, "/one/kms/xks/v1/health", body.to_vec());
        assert_eq!(
            api.wire.call(&request).error(),
            validation(),
            "{}",
            String::from_utf8_lossy(&body[..body.len().min(40)])
        );
    }
    api.round_trip("foo");
}

#[test]
fn paths_that_are_none() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let body = encrypt_body(b"text", &json!({}));
    for path in [
        "/",
        "/one",
        "/one/kms/xks/v1",
        "/one/kms/xks/v1/",
        "/one/kms/xks/v2/health",
        "/one/kms/xks/v1/Health",
        "/one/kms/xks/v1/health/",
        "/one/kms/xks/v1/keys/foo",
        "/one/kms/xks/v1/keys/foo/rewrap",
        "/one/kms/xks/v1/keys//encrypt",
        "/one/kms/xks/v1/keys/a/b/encrypt",
        "/one/kms/xks/v1/keys/fo%6f/encrypt",
        "/one/kms/xks/v1/keys/./encrypt",
        "/one/kms/xks/v1/keys/../encrypt",
        "/one/../one/kms/xks/v1/health",
        "//one/kms/xks/v1/health",
        "/three/kms/xks/v1/health",
        "/one/more/kms/xks/v1/health",
        "/kms/xks/v1/health",
        "/ONE/kms/xks/v1/health",
        "/livez",
        "/metrics",
    ] {
        let found = api.wire.call(&Request::new(&server, path, &body)).error();
        assert_eq!(found, name(404, "InvalidUriPathException"), "{path}");
    }
    let id = |n: usize| format!("/one/kms/xks/v1/keys/{}/encrypt", "k".repeat(n));
    assert_eq!(
        api.wire.call(&Request::new(&server, &id(128), &body)).error(),
        name(404, "KeyNotFoundException")
    );
    assert_eq!(
        api.wire.call(&Request::new(&server, &id(129), &body)).error(),
        name(404, "InvalidUriPathException")
    );
}

#[test]
fn a_path_prefix_of_nobody_is_told_as_it_came_in() {
    let installation = Installation::default();
    let server = installation.start();
    let mut wire = Wire::connect(&installation, &server);
    // Something on the way may have rewritten it. Not the rest, nor the query: a signature may be
    // in it.
    let rewritten = Request::new(&server, "/rewritten/kms/xks/v1/health?x=secret", &Value::Null);
    assert_eq!(wire.call(&rewritten).error(), name(404, "InvalidUriPathException"));
    let told = || {
        server
            .log()
            .into_iter()
            .find(|line| line.contains("no key store has this path prefix: /rewritten\""))
    };
    eventually("the log tells the path", || told().is_some());
    assert!(!told().unwrap().contains("secret"));
}

#[test]
fn queries() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let body = encrypt_body(b"text", &json!({}));
    // Added on the way: the signature is wrong too, and the query is what is reported. A probe that
    // signs nothing gets the same.
    for query in ["?a=b", "?a", "?=", "?%", "?probe=1&X-Amz-Date=20250101T000000Z"] {
        let added = api.request("keys/foo/encrypt", &body).with(|r| r.target += query);
        let response = api.wire.call(&added);
        assert_eq!(response.error(), name(404, "InvalidUriPathException"), "{query}");
        assert!(response.message().contains("query"), "{}", response.message());
        let unsigned = api
            .request("keys/foo/encrypt", &body)
            .with(|r| (r.unsigned, r.target) = (true, format!("{}{query}", r.target)));
        assert_eq!(
            api.wire.call(&unsigned).error(),
            name(404, "InvalidUriPathException"),
            "{query}"
        );
    }
    // The question mark alone says nothing.
    let empty = api.request("keys/foo/encrypt", &body).with(|r| r.target += "?");
    assert_eq!(api.wire.call(&empty).error(), name(200, "none"));
    // What is wrong besides is reported first: the path, the method, a presigned URL.
    let request = Request::new(&server, "/nowhere?a=b", &body);
    assert!(!api.wire.call(&request).message().contains("query"));
    let get = api
        .request("keys/foo/encrypt", &body)
        .with(|r| (r.method, r.target) = ("GET", format!("{}?a=b", r.target)));
    assert_eq!(api.wire.call(&get).status, 405);
    let presigned =
        api.request("keys/foo/encrypt", &body).with(|r| r.target += "?X-Amz-Signature=0");
    assert_eq!(api.wire.call(&presigned).error(), name(401, "AuthenticationFailedException"));
}

#[test]
fn other_methods_than_post() {
    let installation = Installation::default();
    let server = installation.start();
    let mut wire = Wire::connect(&installation, &server);
    for call in [
        "health",
        "keys/foo/metadata",
        "keys/foo/encrypt",
        "keys/foo/decrypt",
        "keys/nobody/encrypt",
    ] {
        for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "post"] {
            let request = Request::new(&server, &format!("/one/kms/xks/v1/{call}"), &json!({}))
                .with(|r| {
                    (r.method, r.body) = (method, Vec::new());
                    r.unsigned = true;
                });
            let response = wire.call(&request);
            assert_eq!(
                (response.status, response.header("allow")),
                (405, Some("POST")),
                "{method} {call}"
            );
            response.error();
        }
        let head = Request::new(&server, &format!("/one/kms/xks/v1/{call}"), &json!({}))
            .with(|r| (r.method, r.body) = ("HEAD", Vec::new()));
        wire.send(&head.bytes());
        assert_eq!(wire.head_response().status, 405, "HEAD {call}");
    }
    let elsewhere = Request::new(&server, "/nowhere", &json!({}))
        .with(|r| (r.method, r.body) = ("GET", Vec::new()));
    assert_eq!(wire.call(&elsewhere).error(), name(404, "InvalidUriPathException"));
    Api::new(&installation, &server).round_trip("foo");
}
