//! Calls that do not return.

use crate::budget::BUDGET;
use crate::proxy::{Proxy, key_store};
use std::time::{Duration, Instant};
use test_harness::{Installation, eventually};

const SHORT: Duration = Duration::from_millis(700);

/// Every request is answered while calls of an HSM hang for ever; others in the process notice
/// nothing; released, it serves as before.
#[test]
fn an_hsm_that_hangs_delays_nobody_and_heals() {
    let installation = Installation::default();
    let (a, b) = (installation.hsm("a", ""), installation.hsm("b", ""));
    let server = Proxy::start(
        installation,
        &[a.key_manager(6), b.key_manager(4), key_store("/a", &["a"]), key_store("/b", &["b"])],
    );
    server.wait_for_sessions("a", 6);
    server.wait_for_sessions("b", 4);
    let (hanging, beside) = (server.load("/a", 4), server.load("/b", 2));
    hanging.serves(20);
    let mut latest = Duration::ZERO;
    for (n, fault) in [
        "hang = \"C_Encrypt\"",
        "hang = \"C_DecryptInit\"",
        "hang = \"*\"",
        // Sessions that are opened again hang on their way, or with their first IVs.
        "hang = \"C_OpenSession\"",
        "hang = \"C_Login\"",
        "hang = \"C_GenerateRandom\"",
        "hang = \"C_FindObjectsInit\"",
        "hang = \"C_CloseSession\"\nerror = { call = \"C_Encrypt\", code = \"CKR_DEVICE_ERROR\" }",
    ]
    .iter()
    .enumerate()
    {
        a.control(&format!("sessions_lost = {n}\n{fault}"));
        beside.tally();
        let tally = hanging.tally_during(SHORT);
        latest = latest.max(tally.latest);
        assert!(tally.failed() > 0, "{fault}: {tally:?}");
        let others = beside.tally();
        assert!(others.failed() == 0 && others.good > 0, "{fault}: {others:?}");
        a.heal();
        let healed = hanging.serves(20);
        println!(
            "{fault}: {:?}, latest {:?}; serves {healed:?} after release",
            tally.errors, tally.latest
        );
    }
    server.wait_for_sessions("a", 6);
    println!("the client's latest answer: {latest:?}");
    hanging.end();
    beside.end();
    println!("the latest by the server's clock: {:?}", server.kept_the_budget());
    // Nothing was left behind: six lanes, and one that holds the login.
    eventually("sessions are closed", || a.sessions() <= 7);
}

/// Sessions that hang are left behind and replaced, up to twice as many as there are; then nothing
/// more is risked, and requests are refused at once. Health tells it. When the calls return, all is
/// as before.
#[test]
fn sessions_that_hang_are_replaced_up_to_a_bound() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    let server = Proxy::start(installation, &[hsm.key_manager(2), key_store("/s", &["hsm"])]);
    server.wait_for_sessions("hsm", 2);
    server.wait_until_ready();
    let load = server.load("/s", 3);
    load.serves(10);
    hsm.control("hang = \"C_Encrypt\"");
    let abandoned = || server.key_manager("hsm")["sessions"]["abandoned"].as_u64().unwrap();
    eventually("two replaced once", || abandoned() >= 3);
    // Those at work when the bound of four is reached are not replaced either.
    eventually("the last two hang in their places", || {
        server.sessions("hsm") == (2, 6) && abandoned() == 4
    });
    eventually("not ready", || !server.is_ready());
    assert_eq!(server.client("/s").fleet()["hsm"], "UNAVAILABLE");
    // What was waited for is answered; from then on nothing is.
    std::thread::sleep(BUDGET);
    let refused = load.tally_during(Duration::from_millis(300));
    assert!(
        refused.good == 0
            && refused.errors.keys().all(|error| error == "DependencyTimeoutException"),
        "{refused:?}"
    );
    server.wait_event(&["\"hsm\"", "hang"]);
    // Nothing but a restart would help if they did not return.
    server.wait_event(&[
        "key manager \"hsm\": only a restart of xksd can bring it back",
        "hang in calls into its library",
    ]);
    let restart_needed = || server.key_manager("hsm")["restart_needed"].is_string();
    eventually("shown in the status", restart_needed);
    assert!(
        server.get("/metrics").1.contains("xksd_key_manager_restart_needed{key_manager=\"hsm\"} 1")
    );

    hsm.heal();
    load.serves(20);
    server.wait_for_sessions("hsm", 2);
    eventually("no more in the status", || !restart_needed());
    assert!(
        server.get("/metrics").1.contains("xksd_key_manager_restart_needed{key_manager=\"hsm\"} 0")
    );
    server.wait_until_ready();
    eventually("ACTIVE", || server.client("/s").fleet()["hsm"] == "ACTIVE");
    assert!((4..=5).contains(&abandoned()));
    load.end();
    server.kept_the_budget();
}

/// What hangs once in a while costs the requests that meet it and no others.
#[test]
fn some_sessions_hang_and_the_others_serve() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "seed = 1");
    let server = Proxy::start(installation, &[hsm.key_manager(8), key_store("/s", &["hsm"])]);
    server.wait_for_sessions("hsm", 8);
    let load = server.load("/s", 4);
    load.serves(20);

    hsm.control("stall = { call = [\"C_Encrypt\", \"C_Decrypt\"], ms = 400, probability = 0.01 }");
    let tally = load.tally_during(Duration::from_secs(2));
    assert!(tally.good > 20 * tally.failed().max(1) / 2, "stalls: {tally:?}");
    println!("stalls of 1%: {tally:?}");

    hsm.control("hang = { call = \"C_Encrypt\", probability = 0.003 }");
    eventually("some hang", || hsm.hung() >= 2);
    // These stay hung, and no more are added.
    hsm.control("hang = { call = \"C_Encrypt\", probability = 0.000000001 }");
    println!("{} of 8 sessions hang", hsm.hung());
    // Longer than it takes to leave a session behind.
    let tally = load.tally_during(Duration::from_secs(3));
    println!("meanwhile: {tally:?}");
    assert!(tally.good > 10 * tally.failed().max(1), "hangs: {tally:?}");
    assert!(server.is_ready(), "most sessions serve");
    assert_eq!(server.client("/s").fleet()["hsm"], "DEGRADED");

    hsm.heal();
    load.serves(20);
    server.wait_for_sessions("hsm", 8);
    eventually("ACTIVE", || server.client("/s").fleet()["hsm"] == "ACTIVE");
    load.end();
    server.kept_the_budget();
}

/// A probe that hangs blinds nobody: it is reported, what it leaves behind is bounded, and the next
/// one is made.
#[test]
fn a_probe_that_hangs_is_reported_and_repeated() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    // What a probe does beyond a request: it makes its test key.
    hsm.prepare("hang = \"C_GenerateKey\"");
    let server = Proxy::start(installation, &[hsm.key_manager(2), key_store("/s", &["hsm"])]);
    server.wait_for_sessions("hsm", 2);
    assert!(!server.is_ready(), "no probe has been good yet");
    server.wait_event(&["\"hsm\" does not serve", "hangs"]);
    assert!(hsm.hung() <= 4, "{}", hsm.stats());
    assert_eq!(server.client("/s").fleet()["hsm"], "UNAVAILABLE");
    hsm.heal();
    server.wait_until_ready();
    server.client("/s").round_trip(b"served").unwrap();
    eventually("its sessions are closed", || hsm.sessions() <= 3);
}

/// SIGTERM while everything hangs: requests in flight are answered, and it ends in time.
#[test]
fn stopping_does_not_wait_for_what_hangs() {
    // When its time is over, or when nothing has come out of the library for two seconds.
    for (shutdown_ms, bound_ms) in [(1500, 2000), (60_000, 10_000)] {
        let installation = Installation::default();
        let hsm = installation.hsm("hsm", "");
        let config = format!("shutdown_ms = {shutdown_ms}");
        let mut server = Proxy::start_with(
            installation,
            &config,
            &[hsm.key_manager(3), key_store("/s", &["hsm"])],
        );
        server.wait_for_sessions("hsm", 3);
        server.wait_until_ready();
        let mut client = server.client("/s");
        client.round_trip(b"before").unwrap();
        hsm.control("hang = \"*\"");
        let in_flight = std::thread::spawn(move || client.encrypt(b"never answered by the HSM"));
        eventually("it hangs", || hsm.hung() > 0);
        let start = Instant::now();
        server.terminate();
        let (status, time) = (server.wait(), start.elapsed());
        println!("shutdown_ms = {shutdown_ms}: {time:?}");
        assert!(status.success(), "{status}");
        assert!(time < Duration::from_millis(bound_ms), "{time:?}");
        in_flight.join().unwrap().must_be(503, "DependencyTimeoutException");
        server.wait_event(&["still hangs in the module of hsm"]);
    }
}

/// A second signal ends it at once, also while it waits for sessions that hang.
#[test]
fn a_second_signal_ends_it_at_once() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    let mut server = Proxy::start_with(
        installation,
        "shutdown_ms = 60000",
        &[hsm.key_manager(2), key_store("/s", &["hsm"])],
    );
    server.wait_for_sessions("hsm", 2);
    let mut client = server.client("/s");
    hsm.control("hang = \"*\"");
    client.encrypt(b"left behind").must_be(503, "DependencyTimeoutException");
    drop(client);
    server.terminate();
    server.wait_event(&["SIGTERM: stopping"]);
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    server.terminate();
    let (status, time) = (server.wait(), start.elapsed());
    assert!(status.code() == Some(1) && time < Duration::from_secs(5), "{status} {time:?}");
}

/// With nothing wrong, stopping closes every session.
#[test]
fn stopping_closes_the_sessions() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    let mut server = Proxy::start(installation, &[hsm.key_manager(3), key_store("/s", &["hsm"])]);
    server.wait_for_sessions("hsm", 3);
    server.wait_until_ready();
    server.client("/s").round_trip(b"work").unwrap();
    assert!(hsm.settled_stats()["sessions"]["open"].as_u64().unwrap() >= 4);
    server.terminate();
    let status = server.wait();
    assert!(status.success(), "{status}");
    let stats = hsm.stats();
    assert_eq!(stats["sessions"]["open"], 0, "{stats:#}");
    assert_eq!(stats["finalized_while_busy"], 0);
}
