//! HSMs that are not well when the server starts.

use crate::proxy::{Proxy, key_store};
use rustix::process::Signal;
use std::time::Duration;
use test_harness::hsm_sim::SimulatedHsm;
use test_harness::{Installation, eventually};

use xksd::limits::PROBE_INTERVAL;

fn start_with(fault: &str) -> (SimulatedHsm, Proxy) {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    hsm.prepare(fault);
    let server = Proxy::start(installation, &[hsm.key_manager(2), key_store("/s", &["hsm"])]);
    (hsm, server)
}

/// Starts all the same, is not ready, says why, and heals.
#[test]
fn an_hsm_that_is_down_at_the_start_may_come_later() {
    let down = [
        ("initialize_fails = \"CKR_DEVICE_ERROR\"", "C_Initialize: CKR_DEVICE_ERROR"),
        ("token_removed = true", "the module shows no tokens"),
        ("login_fails = \"CKR_DEVICE_ERROR\"", "C_Login: CKR_DEVICE_ERROR"),
        ("slow_start = { initialize_ms = 1500, calls = 10, ms = 50 }", ""),
    ];
    std::thread::scope(|scope| {
        down.iter()
            .for_each(|(fault, reason)| drop(scope.spawn(|| starts_and_heals(fault, reason))))
    });
}

fn starts_and_heals(fault: &str, reason: &str) {
    let (hsm, server) = start_with(fault);
    assert_eq!((server.get("/livez").0, server.get("/readyz").0), (200, 503), "{fault}");
    let mut client = server.client("/s");
    assert_eq!(client.fleet()["hsm"], "UNAVAILABLE");
    let reply = client.encrypt(b"too early");
    assert!([500, 503].contains(&reply.status), "{fault}: {}", reply.json);
    if !reason.is_empty() {
        server.wait_event(&["\"hsm\" does not serve", reason]);
        // A C_Initialize that fails leaves nothing that would see a new control file before it is
        // tried again.
        hsm.prepare("");
    }
    let ready = server.wait_until_ready();
    server.wait_for_sessions("hsm", 2);
    client.round_trip(b"now").unwrap();
    println!("{fault}: ready {ready:?} after it was well");
    server.kept_the_budget();
}

/// Until the keys are listed, the first request of each searches for it, which may take long.
#[test]
fn an_instance_is_ready_once_it_has_listed_its_keys() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    hsm.prepare("hang = \"C_FindObjects\"");
    let later = installation.hsm("later", "");
    later.prepare("token_removed = true");
    let server = Proxy::start(
        installation,
        &[hsm.key_manager(2), later.key_manager(2), key_store("/s", &["hsm", "later"])],
    );
    let why_unready = || server.get("/readyz");
    eventually("it serves, and lists", || {
        why_unready() == (503, "listing the keys for the first time\n".to_owned())
    });
    eventually("in the HSM", || hsm.hung() > 0);
    assert!(!server.is_ready());
    hsm.heal();
    server.wait_until_ready();
    // By its handle.
    let searches = |hsm: &SimulatedHsm| hsm.settled_stats()["calls"]["C_FindObjectsInit"].as_u64();
    let before = searches(&hsm);
    server.client("/s").round_trip(b"served").unwrap();
    assert_eq!((before.is_some(), searches(&hsm)), (true, before));

    // A key manager that comes later lists its keys as well, and nobody waits for that.
    later.prepare("hang = \"C_FindObjects\"");
    eventually("it lists", || later.hung() > 0);
    assert!(server.is_ready());
    later.heal();
    server.wait_for_sessions("later", 2);
    assert!(server.is_ready());
}

/// Each try with a wrong PIN brings the token nearer to its lock.
#[test]
fn a_wrong_pin_is_tried_once() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    let mut server = Proxy::start(
        installation,
        &[hsm.key_manager_with_pin(8, "87654321"), key_store("/s", &["hsm"])],
    );
    server.wait_event(&[
        "\"hsm\" does not serve",
        "CKR_PIN_INCORRECT",
        "does not try the PIN again",
    ]);
    let mut client = server.client("/s");
    for _ in 0..30 {
        client.encrypt(b"no").must_be_a_fault();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!((server.get("/livez").0, server.is_ready()), (200, false));
    assert_eq!(hsm.settled_stats()["calls"]["C_Login"], 1);
    server.terminate();
    assert!(server.wait().success());
    assert_eq!(hsm.stats()["calls"]["C_Login"], 1);
}

/// Fewer sessions than configured: serves with what it gets, is healthy, and says so.
#[test]
fn fewer_sessions_than_configured_are_lived_with() {
    std::thread::scope(|scope| {
        [1, 5].iter().for_each(|&sessions_max| drop(scope.spawn(move || lives_with(sessions_max))))
    });
}

fn lives_with(sessions_max: u64) {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", &format!("sessions_max = {sessions_max}"));
    let server = Proxy::start(installation, &[hsm.key_manager(8), key_store("/s", &["hsm"])]);
    server.wait_until_ready();
    let load = server.load("/s", 3);
    load.serves(20);
    server.wait_event(&["\"hsm\"", "of 8 sessions", "CKR_SESSION_COUNT"]);
    let open = server.sessions("hsm").0;
    assert!((1..=sessions_max).contains(&open), "{open}");
    assert_eq!(server.key_manager("hsm")["sessions"]["configured"], 8);
    let metrics = server.get("/metrics").1;
    assert!(
        metrics.contains("xksd_sessions{key_manager=\"hsm\",state=\"configured\"} 8"),
        "{metrics}"
    );
    let tally = load.tally_during(Duration::from_millis(500));
    assert_eq!(tally.failed(), 0, "{tally:?}");
    assert!(server.is_ready());
    assert_eq!(
        server.client("/s").fleet()["hsm"],
        if open * 2 < 8 { "DEGRADED" } else { "ACTIVE" }
    );

    // Also after all were lost: whoever comes first must not keep the others from being well.
    hsm.control("sessions_lost = 1");
    load.serves(20);
    // Longer than the time from one probe to the next.
    std::thread::sleep(PROBE_INTERVAL);
    assert!(server.is_ready());
    load.end();
    server.kept_the_budget();
}

/// Ready, and what is known of it is shown.
#[test]
fn a_module_that_makes_no_key_for_probes_serves() {
    std::thread::scope(|scope| {
        for (config, fault, key) in [
            ("read_write_calls = \"C_GenerateKey\"", "", "own"),
            (
                "",
                "error = { call = \"C_GenerateKey\", code = \"CKR_FUNCTION_REJECTED\" }",
                "in use",
            ),
        ] {
            scope.spawn(move || serves_without_test_key(config, fault, key));
        }
    });
}

fn serves_without_test_key(config: &str, fault: &str, probe_key: &str) {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", config);
    hsm.prepare(fault);
    let server = Proxy::start(installation, &[hsm.key_manager(4), key_store("/s", &["hsm"])]);
    server.wait_until_ready();
    let mut client = server.client("/s");
    client.round_trip(b"served").unwrap();
    assert_eq!(client.fleet()["hsm"], "ACTIVE");
    eventually(probe_key, || server.key_manager("hsm")["probe_key"] == probe_key);
    server.wait_for_sessions("hsm", 4);
    server.kept_the_budget();
}

#[test]
fn a_token_without_aes_gcm_is_told_by_all_that_tell_of_it() {
    const WHY: &str = "the token has no AES-GCM";
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "[gcm]\nabsent = true");
    let server = Proxy::start(installation, &[hsm.key_manager(4), key_store("/s", &["hsm"])]);
    server.wait_event(&["\"hsm\" does not serve", WHY]);
    assert_eq!((server.get("/livez").0, server.get("/readyz").0), (200, 503));
    let status = server.key_manager("hsm");
    for member in ["health_reason", "probe_error", "last_fault"] {
        assert!(
            status[member].as_str().is_some_and(|told| told.contains(WHY)),
            "{member}: {status}"
        );
    }
    let reply = server.client("/s").encrypt(b"no");
    assert_eq!((reply.status, reply.json["errorName"].as_str()), (500, Some("InternalException")));
    let told = reply.json["errorMessage"].as_str();
    assert_eq!(told, Some("the key manager does not serve; the proxy's log says why"));
    for words in [["keys"].as_slice(), &["check", "--open"]] {
        let (code, told) = server.xksd(words);
        assert!(code == 1 && told.contains(WHY), "{words:?}: {told}");
    }
}

/// The process is stopped and reloaded by signals, and must not end by one that a failed write
/// causes.
#[test]
fn signals_that_a_module_takes_are_taken_back() {
    let (_hsm, mut server) = start_with("takes_signals = true");
    server.wait_until_ready();
    for signal in ["SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE"] {
        server.wait_event(&["a PKCS#11 module has taken", signal]);
    }
    assert!(server.reload().ends_with("reloaded"));
    server.client("/s").round_trip(b"served").unwrap();
    // Also in between: SIGPIPE and SIGXFSZ are blocked in each thread.
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("its threads");
    let mut threads = 0;
    for task in tasks {
        let status = task.expect("a thread").path().join("status");
        // One may have ended meanwhile.
        let Ok(status) = std::fs::read_to_string(status) else { continue };
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a mask");
        let blocked = u64::from_str_radix(blocked.trim(), 16).expect("a mask");
        for signal in [Signal::PIPE, Signal::XFSZ] {
            assert!(blocked & 1 << (signal.as_raw() - 1) != 0, "{status}");
        }
        threads += 1;
    }
    assert!(threads > 4, "{threads}");
    server.terminate();
    assert!(server.wait().success());
}
