//! Sessions, logins and tokens that go away and come back.

use crate::proxy::{Proxy, key_store};
use std::time::Duration;
use test_harness::{Installation, eventually};

const SESSIONS: u64 = 4;

/// Under load and without a restart: what is lost comes back, few requests fail, each by name.
#[test]
fn what_is_lost_comes_back_under_load() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    let server = Proxy::start(
        installation,
        &[hsm.key_manager(SESSIONS as usize), key_store("/s", &["hsm"])],
    );
    server.wait_for_sessions("hsm", SESSIONS);
    server.wait_until_ready();
    let load = server.load("/s", 3);
    load.serves(20);

    for generation in 1..=3 {
        load.tally();
        hsm.control(&format!("sessions_lost = {generation}"));
        let tally = load.tally_during(Duration::from_millis(500));
        println!("all sessions lost: {tally:?}");
        // One request finds it out, or one at each lane that was at work, and each is tried again;
        // then the login and the keys are found.
        assert!(tally.failed() <= SESSIONS && tally.good > 0, "{tally:?}");
        load.serves(20);
        server.wait_for_sessions("hsm", SESSIONS);
    }

    hsm.control("token_removed = true");
    let tally = load.tally_during(Duration::from_millis(700));
    assert!(tally.good == 0 && tally.failed() > 0, "{tally:?}");
    hsm.heal();
    let healed = load.serves(20);
    println!("token back: serves after {healed:?}");
    server.wait_for_sessions("hsm", SESSIONS);

    // The login is lost and the sessions stay: as if somebody had logged the application out.
    hsm.control(
        "error = { call = \"C_EncryptInit\", code = \"CKR_USER_NOT_LOGGED_IN\", \
        probability = 0.2 }",
    );
    load.tally_during(Duration::from_millis(300));
    hsm.heal();
    load.serves(20);
    server.wait_for_sessions("hsm", SESSIONS);
    load.end();
    server.kept_the_budget();
    // The lanes' and the one that holds the login: what was lost was not opened twice.
    eventually("no session too many", || hsm.sessions() <= SESSIONS + 1);
}

/// A session lost while nothing happens is no outage: health does not flicker.
#[test]
fn sessions_lost_in_silence_make_no_outage() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    let server = Proxy::start(installation, &[hsm.key_manager(2), key_store("/s", &["hsm"])]);
    server.wait_for_sessions("hsm", 2);
    server.wait_until_ready();
    let probes = hsm.settled_stats()["calls"]["C_Decrypt"].as_u64();
    hsm.control("sessions_lost = 1");
    // The next probe finds its session gone.
    eventually("the next probe", || {
        assert!(server.is_ready());
        hsm.stats()["calls"]["C_Decrypt"].as_u64() > probes
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(server.is_ready());
    assert!(
        !server.messages().iter().any(|message| message.contains("does not serve")),
        "{:#?}",
        server.messages()
    );
    let mut client = server.client("/s");
    hsm.control("sessions_lost = 2");
    let failed = (0..10).filter(|_| client.round_trip(b"after").is_err()).count();
    assert_eq!(failed, 0, "one try finds it out, the next one has a session");
}

/// Keys that vanish all at once are a fault of the HSM, never missing keys; when they are back, so
/// is everything, without a restart.
#[test]
fn keys_out_of_sight_are_never_reported_as_missing() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    let (tokens, away) = (installation.path().join("tokens"), installation.path().join("away"));
    let server = Proxy::start(
        installation,
        &[hsm.key_manager(SESSIONS as usize), key_store("/s", &["hsm"])],
    );
    server.wait_for_sessions("hsm", SESSIONS);
    server.wait_until_ready();
    let load = server.load("/s", 3);
    load.serves(20);
    let mut client = server.client("/s");
    for round in 0..2 {
        // Under load, and noticed only by a probe.
        let beside = (round == 0).then(|| load.tally());
        std::fs::rename(&tokens, &away).unwrap();
        eventually("UNAVAILABLE", || client.fleet()["hsm"] == "UNAVAILABLE");
        client.metadata().must_be_a_fault();
        if beside.is_some() {
            server.wait_event(&[
                "key manager \"hsm\" does not serve",
                "no secret key at all, where it had some",
            ]);
        }
        std::fs::rename(&away, &tokens).unwrap();
        println!("in sight again: serves after {:?}", load.serves(20));
        server.wait_until_ready();
        server.wait_for_sessions("hsm", SESSIONS);
        let tally = load.tally();
        assert!(!tally.errors.contains_key("KeyNotFoundException"), "{tally:?}");
        client.round_trip(b"as before").unwrap();
    }
    server.wait_event(&["key manager \"hsm\": its library was initialised again"]);
    load.end();
    assert!(server.requests().iter().all(|line| line["error"] != "KeyNotFoundException"));
    server.kept_the_budget();
}

/// Health follows the HSM: for KMS, for load balancers and in the log.
#[test]
fn health_follows_the_token() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    let server = Proxy::start(installation, &[hsm.key_manager(2), key_store("/s", &["hsm"])]);
    server.wait_for_sessions("hsm", 2);
    server.wait_until_ready();
    let mut client = server.client("/s");
    assert_eq!(client.fleet()["hsm"], "ACTIVE");
    let health = client.health().json;
    assert_eq!(
        (&health["xksProxyFleetSize"], &health["xksProxyVendor"]),
        (&1.into(), &"xksd".into())
    );
    assert!(
        health["ekmFleetDetails"][0]["model"].as_str().unwrap().contains("SoftHSM"),
        "{health}"
    );
    assert!(server.key_manager("hsm")["probe_age_ms"].as_u64().unwrap() < 30_000);
    assert!(server.get("/metrics").1.contains("xksd_key_manager_health{key_manager=\"hsm\"} 2"));

    hsm.control("token_removed = true");
    client.encrypt(b"notices it").must_be_a_fault();
    client.encrypt(b"notices it").must_be_a_fault();
    eventually("UNAVAILABLE", || client.fleet()["hsm"] == "UNAVAILABLE");
    eventually("not ready", || !server.is_ready());
    assert_eq!(server.get("/livez").0, 200);
    assert!(server.get("/metrics").1.contains("xksd_key_manager_health{key_manager=\"hsm\"} 0"));
    server.wait_event(&["\"hsm\"", "does not serve"]);

    hsm.heal();
    server.wait_until_ready();
    eventually("ACTIVE", || client.fleet()["hsm"] == "ACTIVE");
    client.round_trip(b"as before").unwrap();
}
