//! SIGHUP on the real server: what waits for a restart does not hold up who is to be cut off, and
//! what became of a reload can be seen.

use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::KeyPair;
use serde_json::{Value, json};
use test_harness::pki::{Ca, KMS_NAME, SERVER_NAME};
use test_harness::{Api, Config, Installation, Server, Wire, eventually};

/// With `enabled` of the first key store.
fn enabled(config: &Config, enabled: bool) -> Config {
    let key_stores = config.key_stores.replacen(
        "\n[[keystore.credential]]",
        &format!("\nenabled = {enabled}\n[[keystore.credential]]"),
        1,
    );
    Config { key_stores, ..config.clone() }
}

#[test]
fn what_became_of_the_last_reload_is_in_status_and_metrics() {
    const AT: &str = "xksd_config_last_reload_success_timestamp_seconds";
    let unix_time =
        || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let before = unix_time();
    let installation = Installation::default();
    let server = installation.start();
    let seen = || {
        let status = server.status()["config_last_reload"].clone();
        assert_eq!(
            server.metric("xksd_config_last_reload_successful"),
            f64::from(u8::from(status["successful"] == true)),
            "{status}"
        );
        let at = server.metric(AT);
        assert!(
            (status["success_timestamp_seconds"].as_f64().expect("a number") - at).abs() < 1e-3,
            "{status}"
        );
        (at, status["refused"].clone())
    };
    let (started, refused) = seen();
    assert!((before..=unix_time()).contains(&started), "{before} {started}");
    assert_eq!(refused, Value::Null);

    for _ in 0..2 {
        installation.write(
            "xksd.toml",
            &Config::default().text().replace("shards = 1", "shards = -1\ncolour = 3"),
        );
        assert!(server.reload().contains("not reloaded"));
        let (at, refused) = seen();
        // The first of two; what is in force is of the start.
        let refused = refused.as_str().expect("text");
        assert!(
            refused.contains("xksd.toml:")
                && refused.contains(": server.shards: ")
                && !refused.contains("colour"),
            "{refused}"
        );
        assert!((at - started).abs() < f64::EPSILON, "{at}");
    }

    installation.configure(&Config::default());
    assert!(server.reload().ends_with("reloaded"));
    let (at, refused) = seen();
    assert!(at > started && at <= unix_time(), "{started} {at}");
    assert_eq!(refused, Value::Null);
}

#[test]
fn what_waits_for_a_restart_is_in_the_status_until_it_is_taken_back() {
    let installation = Installation::default();
    let server = installation.start();
    let waiting = || server.status()["config_last_reload"]["waiting_for_restart"].clone();
    assert_eq!(waiting(), json!([]));

    let changed = Config::default().text().replace("shards = 1", "shards = 2");
    installation.write("xksd.toml", &changed);
    assert!(server.reload().ends_with("reloaded"));
    let told = json!(["server.shards is 2, was 1: in force from the next start only"]);
    assert_eq!(waiting(), told);
    server.wait_event(&[told[0].as_str().expect("text")]);

    // One that is refused says nothing of what waits.
    installation.write("xksd.toml", "");
    assert!(server.reload().contains("not reloaded"));
    assert_eq!(waiting(), told);

    installation.configure(&Config::default());
    assert!(server.reload().ends_with("reloaded"));
    assert_eq!(waiting(), json!([]));
}

/// The certificates in the status; log and metrics must tell the same, the log at the `event`.
fn certificates(server: &Server, event: &str) -> Vec<Value> {
    let told = server.status()["tls"]["certificates"].as_array().expect("a list").clone();
    for (place, certificate) in (1..).zip(&told) {
        let text = |field: &str| certificate[field].as_str().expect("text").to_owned();
        let (subject, serial, not_after) = (text("subject"), text("serial"), text("not_after"));
        server.wait_event(&[
            event,
            ": server certificate is ",
            &format!("\"{subject}\", serial {serial}, valid until {not_after}"),
        ]);
        let sample = format!(
            "xksd_tls_certificate_not_after_timestamp_seconds{{place=\"{place}\",subject=\"{subject}\"}}"
        );
        assert_eq!(
            Some(server.metric(&sample)),
            certificate["not_after_timestamp_seconds"].as_f64(),
            "{sample}"
        );
    }
    told
}

#[test]
fn the_certificate_that_is_served_is_told_at_the_start_and_when_a_reload_brings_another() {
    let installation = Installation::default();
    let server = installation.start();
    let told = || server.log().iter().filter(|line| line.contains("server certificate is")).count();
    let before = certificates(&server, "start");
    assert_eq!(
        before.iter().map(|certificate| &certificate["subject"]).collect::<Vec<_>>(),
        [SERVER_NAME, "Test Root"]
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let days_left =
        (before[0]["not_after_timestamp_seconds"].as_f64().expect("a number") - now) / 86_400.0;
    assert!((300.0..400.0).contains(&days_left), "{days_left}");

    assert!(server.reload().ends_with("reloaded"));
    assert_eq!(
        (certificates(&server, "start"), told()),
        (before.clone(), 1),
        "the same one is not told again"
    );

    installation.new_certificate();
    assert!(server.reload().ends_with("reloaded"));
    let after = certificates(&server, "reload");
    assert_eq!(told(), 2);
    assert!(
        after.len() == 2
            && after[0]["serial"] != before[0]["serial"]
            && after[1]["serial"] != before[1]["serial"],
        "{after:?}"
    );

    // A key of another certificate is refused, with the line that names it; the certificate stays.
    installation.write("tls/key.pem", &KeyPair::generate().expect("a key").serialize_pem());
    assert!(server.reload().contains("not reloaded"));
    assert_eq!(certificates(&server, "reload"), after);
    let refused = server.status()["config_last_reload"]["refused"].clone();
    let line = 1 + Config::default()
        .text()
        .lines()
        .position(|line| line.starts_with("private_key"))
        .expect("there");
    let expected = format!(
        "xksd.toml:{line}: tls.private_key: {}",
        installation.path().join("tls/key.pem").display()
    );
    assert!(
        refused.as_str().is_some_and(
            |refused| refused.contains(&expected) && refused.contains("does not match")
        ),
        "{refused}"
    );
}

#[test]
fn what_is_left_out_lets_nobody_in() {
    let (ca, other) = (Ca::root("Client Root"), Ca::root("Other Root"));
    let installation = Installation::default();
    installation.write("anchors.pem", &ca.pem());
    let client = format!(
        "\n[tls.client]\ntrust_anchors = \"anchors.pem\"\nsubject_common_names = [\"{KMS_NAME}\"]"
    );
    let open = Config::default();
    let mut closed = enabled(&open, false);
    closed.tls += &client;
    installation.configure(&closed);
    let server = installation.start();
    let said = |words: &str| server.log().iter().filter(|line| line.contains(words)).count();
    eventually("said at the start", || said("subject CN") == 1);
    eventually("said at the start", || said("trust anchor of clients") == 1);

    for (config, missing) in [
        (&open, "tls.client: missing, and clients must show a certificate now. "),
        (&enabled(&open, true), "tls.client: missing"),
        (&Config { tls: closed.tls.clone(), ..open.clone() }, "keystore[0].enabled: missing"),
    ] {
        installation.configure(config);
        assert!(server.reload().contains("not reloaded"));
        let refused = server.status()["config_last_reload"]["refused"].clone();
        assert!(refused.as_str().is_some_and(|refused| refused.contains(missing)), "{refused}");
    }
    // Everything is as it was.
    let stranger = Wire::connect_with(&installation.client(), &server).and_then(|mut wire| {
        wire.try_send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
        wire.try_response().map(|response| response.status)
    });
    assert!(stranger.is_err(), "{stranger:?}");

    // Another file of anchors is said; one that is the same is not said again.
    installation.write("anchors.pem", &[ca.pem(), other.pem()].concat());
    installation.configure(&closed);
    assert!(server.reload().ends_with("reloaded"));
    server.wait_event(&["reload: clients may connect", "one of 2 authorities"]);
    server.wait_event(&["reload: trust anchor of clients: \"CN=Other Root\", SHA-256 "]);
    assert!(server.reload().ends_with("reloaded"));
    assert_eq!(said("CN=Other Root"), 1);

    // SIGHUP says which command gives it up; only that does, and nothing else that is missing.
    installation.configure(&enabled(&open, true));
    assert!(server.reload().contains("--accept-loss-of-client-auth"));
    let accept = |config: &Config| {
        installation.configure(config);
        installation.reload(&["--accept-loss-of-client-auth"])
    };
    let refused = accept(&open);
    assert_eq!(refused.0, Some(1), "{refused:?}");
    let accepted = accept(&enabled(&open, true));
    assert_eq!(accepted.0, Some(0), "{accepted:?}");
    server.wait_event(&["reload: any client may connect"]);
    installation.configure(&closed);
    assert!(server.reload().ends_with("reloaded"));

    let mut stated = enabled(&open, true);
    stated.tls += "\nclient_authentication = \"none\"";
    installation.configure(&stated);
    assert!(server.reload().ends_with("reloaded"));
    server.wait_event(&["reload: any client may connect"]);
    server.wait_event(&["reload: key store \"/one\": enabled"]);
    Api::new(&installation, &server).round_trip("foo");
}
