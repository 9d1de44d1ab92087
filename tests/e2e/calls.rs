//! The four calls on the real server, over the local key manager.

use crate::conformance;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest;
use serde_json::{Value, json};
use test_harness::api::{decrypt_body, encrypt_body, name};
use test_harness::config::{FOO, OTHER, key_store};
use test_harness::{
    A, Api, C, Config, Installation, Request, Wire, aad, b64, bytes, envelope, with,
};

#[test]
fn the_four_calls() {
    let installation = Installation::default();
    let server = installation.start();
    conformance::all(&mut Api::new(&installation, &server));
}

/// AES-256-GCM by ring: nonce, ciphertext and tag as fields of a decrypt call, without metadata.
fn seal(key: &[u8; 32], nonce: [u8; 12], framed: &[u8], plaintext: &[u8]) -> Value {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a key"));
    let mut text = plaintext.to_vec();
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(framed),
            &mut text,
        )
        .expect("sealed");
    json!({"initializationVector": b64(nonce), "ciphertext": b64(text), "authenticationTag": b64(tag.as_ref())})
}

#[test]
fn what_the_key_manager_gets_is_framed_as_the_specification_says() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    // Made here by the formula, opened there: whoever has the key in another machine can open it
    // too.
    let context = b"purpose=test";
    let framed = [&[0, context.len() as u8][..], context, &[3, 1, 0, 0]].concat();
    let sealed = with(
        &seal(&FOO, [7; 12], &framed, b"from elsewhere"),
        &json!({"ciphertextMetadata": b64([1, 0, 0])}),
    );
    assert_eq!(api.decrypt("foo", &sealed, &aad("purpose=test")), b"from elsewhere");
    let framed = [0, 0, 3, 1, 0, 0];
    let sealed = with(
        &seal(&FOO, [8; 12], &framed, b"bare"),
        &json!({"ciphertextMetadata": b64([1, 0, 0])}),
    );
    assert_eq!(api.decrypt("foo", &sealed, &json!({})), b"bare");
    // Key store /two calls another key by this name.
    let mut two = Api::new(&installation, &server);
    (two.prefix, two.credential) = ("/two", C);
    assert_eq!(
        two.decrypt_error("foo", &sealed, &json!({})),
        name(400, "InvalidCiphertextException")
    );
    let sealed = with(
        &seal(&OTHER, [9; 12], &framed, b"of two"),
        &json!({"ciphertextMetadata": b64([1, 0, 0])}),
    );
    assert_eq!(two.decrypt("foo", &sealed, &json!({})), b"of two");
}

#[test]
fn ciphertext_of_the_aws_sample_opens_where_it_is_allowed_and_nowhere_else() {
    let mut config = Config::default();
    let allowed = "key_manager = [\"local\"]\naccept_foreign_ciphertext = [\"aws-sample\"]";
    config.key_stores +=
        &key_store("/foreign", allowed, &[&A], &test_harness::config::key("foo", ""));
    let installation = Installation::new(&config);
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let mut foreign = Api::new(&installation, &server);
    foreign.prefix = "/foreign";

    let hashed = |text: &str| {
        let length = u16::try_from(text.len()).expect("short").to_be_bytes();
        [&length[..], digest::digest(&digest::SHA256, text.as_bytes()).as_ref(), &[0]].concat()
    };
    let long = "x".repeat(8192);
    for (nonce, (framed, context)) in [
        (vec![0, 0, 0], json!({})),
        (hashed("project=nile"), aad("project=nile")),
        (hashed(&long), aad(&long)),
        (hashed(""), aad("")),
    ]
    .into_iter()
    .enumerate()
    {
        let sealed = seal(&FOO, [nonce as u8 + 1; 12], &framed, b"made by another proxy");
        assert_eq!(foreign.decrypt("foo", &sealed, &context), b"made by another proxy");
        assert_eq!(
            api.decrypt_error("foo", &sealed, &context),
            name(400, "InvalidCiphertextException")
        );
        // Metadata put beside it does not make it ours, and the wrong context does not open it.
        let claimed = json!({"ciphertextMetadata": b64([1, 0, 0])});
        assert_eq!(
            foreign.decrypt_error("foo", &sealed, &with(&context, &claimed)),
            name(400, "InvalidCiphertextException")
        );
        assert_eq!(
            foreign.decrypt_error("foo", &sealed, &aad("project=nil")),
            name(400, "InvalidCiphertextException")
        );
    }
    // The sample proxy can be configured to send metadata that looks like ours.
    let mut framed = hashed("project=nile");
    framed.splice(framed.len() - 1.., [3, 1, 0, 0]);
    let sealed = with(
        &seal(&FOO, [9; 12], &framed, b"made by another proxy"),
        &json!({"ciphertextMetadata": b64([1, 0, 0])}),
    );
    assert_eq!(foreign.decrypt("foo", &sealed, &aad("project=nile")), b"made by another proxy");
    for (api, context) in [(&mut foreign, "project=nil"), (&mut api, "project=nile")] {
        let refused = api.decrypt_error("foo", &sealed, &aad(context));
        assert_eq!(refused, name(400, "InvalidCiphertextException"));
    }
    // What it encrypts itself is in its own format.
    let own = foreign.encrypt("foo", b"own", &aad("a"));
    assert_eq!(bytes(&own, "ciphertextMetadata"), [1, 0, 0]);
    assert_eq!(api.decrypt("foo", &own, &aad("a")), b"own");
    assert_eq!(
        foreign
            .decrypt_error(
                "foo",
                &own,
                &json!({"ciphertextMetadata": null, "additionalAuthenticatedData": b64("a")})
            )
            .0,
        400
    );
}

#[test]
fn disabled_keys_and_key_stores_serve_nothing() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let invalid_state = name(400, "InvalidStateException");
    let (encrypt, describe) =
        (encrypt_body(b"text", &json!({})), envelope("DescribeKey", &json!({})));
    assert_eq!(api.error("keys/off/encrypt", &encrypt), invalid_state);
    let answer = api.encrypt("foo", b"text", &json!({}));
    assert_eq!(api.decrypt_error("off", &answer, &json!({})), invalid_state);
    let told = api.ok("keys/off/metadata", &describe);
    assert_eq!((&told["keyStatus"], &told["keySpec"]), (&json!("DISABLED"), &json!("AES_256")));
    assert_eq!(api.ok("keys/foo/metadata", &describe)["keyStatus"], "ENABLED");

    let mut off = Api::new(&installation, &server);
    off.prefix = "/off";
    for (call, body) in [
        ("keys/foo/encrypt", &encrypt),
        ("keys/foo/decrypt", &decrypt_body(&answer, &json!({}))),
        ("keys/foo/metadata", &describe),
        ("keys/nobody/metadata", &describe),
        (
            "health",
            &json!({"requestMetadata": {"kmsRequestId": "1", "kmsOperation": "KmsHealthCheck"}}),
        ),
    ] {
        assert_eq!(off.error(call, body), invalid_state, "{call}");
    }
    // Only those who may sign for it learn its state.
    let stranger = off.request("keys/foo/encrypt", &encrypt).with(|r| r.credential = C);
    assert_eq!(
        Wire::connect(&installation, &server).call(&stranger).error(),
        name(401, "AuthenticationFailedException")
    );
    api.round_trip("foo");
}

#[test]
fn a_key_that_the_key_manager_does_not_hold_is_not_found_and_named_at_the_start() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    assert_eq!(
        api.error("keys/absent/encrypt", &encrypt_body(b"text", &json!({}))),
        name(404, "KeyNotFoundException")
    );
    assert_eq!(
        api.error("keys/absent/metadata", &envelope("CreateKey", &json!({}))),
        name(404, "KeyNotFoundException")
    );
    server.wait_event(&["key \"absent\"", "\"/one\"", "cannot serve"]);
    api.round_trip("foo");
}

#[test]
fn a_ciphertext_made_before_a_restart_opens_after_it() {
    let installation = Installation::default();
    let server = installation.start();
    let answer = Api::new(&installation, &server).encrypt("foo", b"kept", &aad("a=b"));
    assert_eq!(server.stop().0, Some(0));
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    assert_eq!(api.decrypt("foo", &answer, &aad("a=b")), b"kept");
}

#[test]
fn a_key_store_without_a_prefix() {
    let mut config = Config::default();
    config.key_stores +=
        &key_store("", "key_manager = [\"local\"]", &[&C], &test_harness::config::key("foo", ""));
    let installation = Installation::new(&config);
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    (api.prefix, api.credential) = ("", C);
    api.round_trip("foo");
    api.health();
    let unprefixed = api.request("keys/foo/encrypt", &encrypt_body(b"text", &json!({})));
    let with_an_a = unprefixed.with(|r| r.credential = A);
    assert_eq!(api.wire.call(&with_an_a).error().0, 401);
}

#[test]
fn requests_on_two_shards_over_many_connections() {
    let mut config = Config::default();
    config.server = config.server.replace("shards = 1", "shards = 2");
    let installation = Installation::new(&config);
    let server = installation.start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut api = Api::new(&installation, &server);
                (0..20).for_each(|_| api.round_trip("foo"));
            });
        }
    });
    let samples = ["encrypt", "decrypt"].map(|operation| {
        server.metric(&format!(
            "xksd_requests_total{{key_store=\"/one\",operation=\"{operation}\",error=\"none\"}}"
        ))
    });
    assert_eq!(samples, [160.0, 160.0]);
    let request = Request::health(&server, "last");
    assert_eq!(Wire::connect(&installation, &server).call(&request).status, 200);
}
