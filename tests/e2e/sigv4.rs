//! Who may call: signatures of every wrong kind, and credentials exchanged while the server runs.

use serde_json::json;
use test_harness::api::{name, still_serves};
use test_harness::config::{key, key_store};
use test_harness::{
    A, Api, B, C, Config, Credential, Delivery, Installation, Request, Response, Wire,
};
use time::Duration;

/// An answer that is 401, and its message.
fn refused(response: &Response) -> String {
    assert_eq!(response.error(), name(401, "AuthenticationFailedException"), "{response:?}");
    assert!(!response.message().is_empty());
    response.message()
}

#[test]
fn every_wrong_signature_is_told_apart() {
    let installation = Installation::default();
    let server = installation.start();
    let health = || Request::health(&server, "signed");
    let mut wire = Wire::connect(&installation, &server);
    assert_eq!(wire.call(&health()).status, 200);

    let unknown = Credential { id: "UNKNOWN2ACCESS3KEY4ID", ..A };
    let misplaced = Credential { id: A.secret, ..A };
    let other_secret = Credential { secret: B.secret, ..A };
    let cases: Vec<(&str, Request, &[&str])> = vec![
        ("missing_authorization", health().with(|r| r.unsigned = true), &["Authorization"]),
        (
            "unknown_access_key_id",
            health().with(|r| r.credential = unknown),
            &["UNKNOWN2ACCESS3KEY4ID", "key store"],
        ),
        ("unknown_access_key_id", health().with(|r| r.credential = C), &[C.id]),
        ("malformed_access_key_id", health().with(|r| r.credential = misplaced), &["20 to 30"]),
        (
            "signature_mismatch",
            health().with(|r| r.credential = other_secret),
            &[A.id, "secret access key"],
        ),
        (
            "signature_mismatch",
            health().with(|r| r.path = "/one/kms/xks/v1/other".to_owned()),
            &["signature does not match"],
        ),
        (
            "signature_mismatch",
            health().with(|r| r.body_sent = Some(r.body.to_ascii_uppercase())),
            &["signature does not match"],
        ),
        ("wrong_region", health().with(|r| r.region = "us-west-2"), &["us-west-2"]),
        ("wrong_service", health().with(|r| r.service = "kms"), &["'kms'", "kms-xks-proxy"]),
        ("header_not_signed", health().with(|r| r.signed = vec!["x-amz-date"]), &["host"]),
        ("header_not_signed", health().with(|r| r.signed = vec!["host"]), &["x-amz-date"]),
        (
            "signed_header_missing",
            health().with(|r| r.signed = vec!["host", "x-amz-date", "x-gone"]),
            &["x-gone"],
        ),
        ("scope_date_mismatch", health().with(|r| r.scope_skew = -Duration::DAY), &["x-amz-date"]),
        ("clock_skew", health().with(|r| r.skew = -Duration::HOUR), &["3600 s behind", "300 s"]),
        ("clock_skew", health().with(|r| r.skew = Duration::HOUR), &["3", "s ahead of", "300 s"]),
        (
            "malformed_signed_headers",
            health().with(|r| r.signed = vec!["x-amz-date", "host"]),
            &["SignedHeaders"],
        ),
        (
            "duplicate_authorization",
            health().header("authorization", "AWS4-HMAC-SHA256 x"),
            &["more than one"],
        ),
        (
            "unsupported_algorithm",
            health().with(|r| r.unsigned = true).header("authorization", "Basic YWRtaW46YWRtaW4="),
            &["AWS4-HMAC-SHA256"],
        ),
        ("presigned_query", health().with(|r| r.target += "?X-Amz-Signature=0"), &["query"]),
    ];
    for (reason, request, words) in cases {
        let sample = format!("xksd_authentication_failures_total{{reason=\"{reason}\"}}");
        let before = server.metric(&sample);
        let message = refused(&Wire::connect(&installation, &server).call(&request));
        for word in words {
            assert!(message.contains(word), "{word}: {message}");
        }
        for secret in [A.secret, B.secret, C.secret, "YWRtaW46YWRtaW4="] {
            assert!(!message.contains(&secret[..16.min(secret.len())]), "{message}");
        }
        assert_eq!(server.metric(&sample), before + 1.0, "{reason}");
    }
    // A connection whose request was whole stays.
    refused(&wire.call(&health().with(|r| r.credential = other_secret)));
    assert_eq!(wire.call(&health()).status, 200);
}

#[test]
fn a_clock_may_be_five_minutes_off_either_way() {
    let installation = Installation::default();
    let server = installation.start();
    let mut wire = Wire::connect(&installation, &server);
    for (seconds, accepted) in [(-299, true), (299, true), (-302, false), (302, false)] {
        let request =
            Request::health(&server, "skewed").with(|r| r.skew = Duration::seconds(seconds));
        let response = wire.call(&request);
        if accepted {
            assert_eq!(response.status, 200, "{seconds}: {response:?}");
        } else {
            assert!(refused(&response).contains("time synchronisation"));
        }
    }
}

#[test]
fn a_credential_is_good_for_its_own_key_store_alone() {
    let installation = Installation::default();
    let server = installation.start();
    let mut wire = Wire::connect(&installation, &server);
    let body = json!({"requestMetadata": {"kmsRequestId": "x", "kmsOperation": "KmsHealthCheck"}});
    for (prefix, credential, status) in [
        ("/one", A, 200),
        ("/one", B, 200),
        ("/one", C, 401),
        ("/two", A, 401),
        ("/two", B, 401),
        ("/two", C, 200),
    ] {
        let request = Request::new(&server, &format!("{prefix}/kms/xks/v1/health"), &body)
            .with(|r| r.credential = credential);
        assert_eq!(wire.call(&request).status, status, "{prefix} {}", credential.id);
        // Sent elsewhere than signed for: the path is part of the signature.
        let moved = request.with(|r| {
            r.target =
                if prefix == "/one" { "/two" } else { "/one" }.to_owned() + "/kms/xks/v1/health"
        });
        assert_eq!(wire.call(&moved).status, 401, "{prefix} {}", credential.id);
    }
    // Which keys there are is not told to strangers.
    let stranger = Request::new(&server, "/one/kms/xks/v1/keys/nobody/metadata", &body)
        .with(|r| r.credential = C);
    refused(&wire.call(&stranger));
}

#[test]
fn signed_in_other_ways_that_are_right() {
    let installation = Installation::default();
    let server = installation.start();
    let mut wire = Wire::connect(&installation, &server);
    let health = || Request::health(&server, "signed");
    let more = vec!["content-type", "host", "x-amz-date", "x-folded", "x-proxy"];
    for request in [
        health().with(|r| r.region = "eu-west-3"),
        health().with(|r| r.credential = B),
        health().with(|r| r.signed = more).header("X-Folded", "a").header("x-proxy", "one"),
        health().with(|r| r.delivery = Delivery::Chunked(7)),
        health().with(|r| r.target = format!("https://{}{}", r.host, r.path)),
        health().with(|r| r.host = "xks.example.com".to_owned()),
    ] {
        let response = wire.call(&request);
        assert_eq!(response.status, 200, "{request:?}: {response:?}");
    }
}

/// Key store `/one` with these credentials.
fn with_credentials(credentials: &[&Credential]) -> Config {
    let keys = key("foo", "");
    Config {
        key_stores: key_store("/one", "key_manager = [\"local\"]", credentials, &keys),
        ..Config::default()
    }
}

#[test]
fn credentials_are_exchanged_without_a_gap_on_a_live_connection() {
    let installation = Installation::new(&with_credentials(&[&A]));
    let server = installation.start();
    let mut old = Api::new(&installation, &server);
    let mut new = Api::new(&installation, &server);
    new.credential = B;
    let works = |api: &mut Api| {
        let request = Request::health(&server, "rotation").with(|r| r.credential = api.credential);
        let response = api.wire.call(&request);
        assert!(!response.closes());
        response.status == 200
    };
    assert_eq!((works(&mut old), works(&mut new)), (true, false));
    installation.configure(&with_credentials(&[&A, &B]));
    server.reload();
    assert_eq!((works(&mut old), works(&mut new)), (true, true));
    installation.configure(&with_credentials(&[&B]));
    server.reload();
    assert_eq!((works(&mut old), works(&mut new)), (false, true));
    // The same id with another secret: the signing key that was cached for it must not live on.
    installation.write(&format!("secrets/{}", B.id), C.secret);
    server.reload();
    assert!(!works(&mut new));
    new.credential = Credential { secret: C.secret, ..B };
    assert!(works(&mut new));
    new.round_trip("foo");
}

#[test]
fn a_reload_that_is_wrong_changes_nothing_and_tells_why() {
    let installation = Installation::new(&with_credentials(&[&A]));
    let server = installation.start();
    for (config, word) in [
        ("[server]\nlisten = 1\n".to_owned(), "server.listen"),
        (with_credentials(&[&A]).text() + "unknown = 1\n", "unknown"),
        (with_credentials(&[]).text(), "credential"),
        ("not TOML".to_owned(), "xksd.toml"),
        (with_credentials(&[&B]).text().replace("secrets/", "secrets/none-"), "secrets/none-"),
    ] {
        installation.write("xksd.toml", &config);
        let told = server.reload();
        assert!(told.contains("not reloaded") && told.contains(word), "{told}");
        still_serves(&installation, &server);
    }
    let mut api = Api::new(&installation, &server);
    api.credential = B;
    assert_eq!(
        api.wire.call(&Request::health(&server, "b").with(|r| r.credential = B)).status,
        401
    );
    installation.configure(&with_credentials(&[&A, &B]));
    assert!(server.reload().ends_with("reloaded"));
    assert_eq!(
        api.wire.call(&Request::health(&server, "b").with(|r| r.credential = B)).status,
        200
    );
}

#[test]
fn keys_and_key_stores_are_cut_off_by_a_reload() {
    let installation = Installation::new(&with_credentials(&[&A]));
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let answer = api.encrypt("foo", b"text", &json!({}));
    let state = |config: Config| {
        installation.configure(&config);
        server.reload();
    };
    let disabled = with_credentials(&[&A]);
    let disabled = Config {
        key_stores: disabled.key_stores.replace("id = \"foo\"", "id = \"foo\"\nenabled = false"),
        ..disabled
    };
    state(disabled);
    assert_eq!(api.decrypt_error("foo", &answer, &json!({})), name(400, "InvalidStateException"));
    let gone = with_credentials(&[&A]);
    let gone = Config {
        key_stores: gone.key_stores.replace("id = \"foo\"", "id = \"bar\"\nlabel = \"foo\""),
        ..gone
    };
    state(gone);
    assert_eq!(api.decrypt_error("foo", &answer, &json!({})), name(404, "KeyNotFoundException"));
    assert_eq!(api.decrypt("bar", &answer, &json!({})), b"text");
    let moved = with_credentials(&[&A]);
    state(Config { key_stores: moved.key_stores.replace("\"/one\"", "\"/moved\""), ..moved });
    assert_eq!(api.decrypt_error("foo", &answer, &json!({})), name(404, "InvalidUriPathException"));
    state(with_credentials(&[&A]));
    assert_eq!(api.decrypt("foo", &answer, &json!({})), b"text");
}
