//! Stopping: what is in flight is answered, what is idle is closed, and it ends in time.

use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use test_harness::api::encrypt_body;
use test_harness::wire::End;
use test_harness::{Api, Config, Installation, Request, Server, Wire, bytes, eventually};

/// A connection with all of a health call but its last byte, which the server is known to be
/// reading.
fn in_flight(installation: &Installation, server: &Server) -> (Wire, u8) {
    let bytes = Request::health(server, "in flight").header("Expect", "100-continue").bytes();
    let (last, most) = bytes.split_last().expect("bytes");
    let (head, body) =
        most.split_at(most.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4);
    let mut wire = Wire::connect(installation, server);
    wire.send(head);
    assert_eq!(wire.response().status, 100);
    wire.send(body);
    (wire, *last)
}

fn stopping(server: &Server) {
    eventually("stopping", || server.get("/readyz") == (503, "stopping\n".to_owned()));
    assert_eq!(
        server.admin_request("HEAD /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        (503, String::new())
    );
}

#[test]
fn sigterm_answers_what_is_in_flight_and_closes_what_is_idle() {
    for signal in [Signal::TERM, Signal::INT] {
        let installation = Installation::default();
        let mut server = installation.start();
        let mut never_used = Wire::connect(&installation, &server);
        let mut used = Api::new(&installation, &server);
        used.round_trip("foo");
        let (mut slow, last) = in_flight(&installation, &server);
        assert_eq!(server.get("/readyz"), (200, "ready\n".to_owned()));

        server.signal(signal);
        stopping(&server);
        assert_eq!(server.get("/livez").0, 200);
        assert_eq!(
            (server.metric("xksd_ready"), &server.status()["draining"]),
            (0.0, &json!(true))
        );
        assert_eq!(used.wire.end(), End::CloseNotify);
        eventually("the listener is closed", || {
            TcpStream::connect(("127.0.0.1", server.port)).is_err()
        });

        assert!(server.is_running());
        slow.send(&[last]);
        let answer = slow.response();
        assert_eq!((answer.status, answer.closes()), (200, true));
        assert_eq!(slow.end(), End::CloseNotify);
        drop(slow);
        // It had a second more for a first request.
        assert_eq!(never_used.end(), End::CloseNotify);
        assert_eq!(server.wait().code(), Some(0));
        server.wait_event(&[if signal == Signal::TERM { "SIGTERM" } else { "SIGINT" }, "stopping"]);
        server.wait_event(&["stopped"]);
        // The last request is in the log too.
        assert_eq!(server.request_line("in flight")["status"], 200);
    }
}

#[test]
fn requests_pipelined_behind_the_one_in_flight_are_answered_too() {
    let installation = Installation::default();
    let mut server = installation.start();
    let api = Api::new(&installation, &server);
    let behind: Vec<u8> = (1..=3)
        .flat_map(|n| {
            api.request("keys/foo/encrypt", &encrypt_body(&vec![n; n.into()], &json!({}))).bytes()
        })
        .collect();
    drop(api);
    let (mut wire, last) = in_flight(&installation, &server);
    server.signal(Signal::TERM);
    stopping(&server);
    wire.send(&[&[last], &behind[..]].concat());
    let first = wire.response();
    assert_eq!((first.status, first.closes()), (200, false));
    for n in 1..=3 {
        let answer = wire.response();
        assert_eq!((bytes(&answer.json(), "ciphertext").len(), answer.closes()), (n, n == 3));
    }
    assert_eq!(wire.end(), End::CloseNotify);
    drop(wire);
    assert_eq!(server.wait().code(), Some(0));
}

fn with_delay() -> (Installation, Server) {
    let config = Config::default();
    let installation = Installation::new(&Config {
        server: config.server.replace("shutdown_delay_ms = 0", "shutdown_delay_ms = 4000"),
        ..config
    });
    let server = installation.start();
    (installation, server)
}

#[test]
fn sigterm_lets_load_balancers_see_it_while_all_are_still_served() {
    let (installation, mut server) = with_delay();
    let mut kept = Api::new(&installation, &server);
    kept.round_trip("foo");
    let start = Instant::now();
    server.signal(Signal::TERM);
    stopping(&server);
    server.wait_event(&["SIGTERM: stopping", "serving for 4000 ms more"]);
    let mut served = 0;
    while start.elapsed() < Duration::from_millis(1500) {
        // Over new connections, and over old ones, which stay.
        Api::new(&installation, &server).round_trip("foo");
        kept.round_trip("foo");
        served += 1;
    }
    assert!(served > 0);
    assert_eq!(kept.wire.end(), End::CloseNotify);
    assert!(start.elapsed() >= Duration::from_secs(4));
    assert_eq!(server.wait().code(), Some(0));
}

/// Readiness has been off for some time when SIGTERM comes, as with an HSM that hangs.
#[test]
fn what_load_balancers_have_seen_already_is_not_waited_for_again() {
    let tokens = tempfile::tempdir().expect("a directory");
    let softhsm = tokens.path().join("softhsm2.conf");
    std::fs::write(&softhsm, format!("directories.tokendir = {}\n", tokens.path().display()))
        .expect("written");
    for delay in [1000, 60_000] {
        let manager = "module = \"/usr/lib/softhsm/libsofthsm2.so\"\nprofile = \"softhsm\"\ntoken \
            = \"none\"\npin = { value = \"1234\" }";
        let config = Config::hsm(manager, &["foo"]);
        let server =
            config.server.replace("shutdown_delay_ms = 0", &format!("shutdown_delay_ms = {delay}"));
        let installation = Installation::new(&Config { server, ..config });
        let mut server = Server::spawn(&installation, &[], |command| {
            command.env("SOFTHSM2_CONF", &softhsm);
        });
        assert_eq!(server.get("/readyz").0, 503);
        sleep(Duration::from_millis(1500));
        server.signal(Signal::TERM);
        let told = server.wait_event(&["SIGTERM: stopping"]);
        if delay > 1000 {
            let left = told
                .split(' ')
                .find_map(|word| word.parse::<u64>().ok())
                .expect("a number of milliseconds");
            assert!((delay - 30_000..=delay - 1400).contains(&left), "{told}");
            server.signal(Signal::TERM);
        } else {
            assert_eq!(told, "SIGTERM: stopping");
            assert_eq!(server.wait().code(), Some(0));
        }
    }
}

#[test]
fn only_sigterm_waits_for_load_balancers_and_a_second_signal_for_nobody() {
    let (_site, mut server) = with_delay();
    server.signal(Signal::INT);
    assert_eq!(server.wait().code(), Some(0));
    assert!(!server.log().iter().any(|line| line.contains("ms more")));

    for second in [Signal::TERM, Signal::INT] {
        let (_site, mut server) = with_delay();
        server.signal(Signal::TERM);
        server.wait_event(&["serving for 4000 ms more"]);
        server.signal(second);
        assert_eq!(server.wait().code(), Some(1));
        server.wait_for("why", |line| line.contains("second signal").then_some(()));
    }
}

#[test]
fn a_reload_still_works_while_load_balancers_are_waited_for() {
    let (installation, mut server) = with_delay();
    server.signal(Signal::TERM);
    stopping(&server);
    installation.configure(&Config::default().server("shutdown_ms = 300"));
    assert!(server.reload().ends_with("reloaded"));
    // In force at once, as every reload.
    let (_held, _) = in_flight(&installation, &server);
    server.wait_event(&["connections still open after 300 ms: 1"]);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn an_idle_server_stops_at_once() {
    let installation = Installation::default();
    let (code, log) = installation.start().stop();
    assert_eq!(code, Some(0));
    assert!(log.last().is_some_and(|line| line.contains("\"stopped\"")), "{log:?}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let installation = Installation::default();
    let mut server = installation.start();
    let (mut wire, _) = in_flight(&installation, &server);
    server.signal(Signal::TERM);
    stopping(&server);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(1));
    assert!(wire.try_response().is_err());
    server.wait_for("why", |line| line.contains("second signal").then_some(()));
}

#[test]
fn a_second_signal_ends_at_once_also_when_nobody_reads_the_log() {
    let installation = Installation::default();
    let mut server = installation.start();
    let stall = server.stall_log();
    let stalled = stall.lock().expect("free");
    // Fills the pipe.
    let mut wire = Wire::connect(&installation, &server);
    let bytes = Request::health(&server, &"x".repeat(2000)).bytes();
    (0..200).for_each(|_| {
        wire.send(&bytes);
        assert_eq!(wire.response().status, 200);
    });
    let (_held, _) = in_flight(&installation, &server);
    server.signal(Signal::TERM);
    stopping(&server);
    server.signal(Signal::INT);
    assert_eq!(server.wait().code(), Some(1));
    drop(stalled);
}

#[test]
fn what_does_not_end_is_cut_off_when_its_time_is_over() {
    let installation = Installation::new(&Config::default().server("shutdown_ms = 300"));
    let mut server = installation.start();
    let (mut wire, _) = in_flight(&installation, &server);
    let start = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(wire.try_response().is_err());
    server.wait_event(&["connections still open after 300 ms: 1"]);
}

#[test]
fn a_hangup_while_stopping_does_not_count_as_a_second_signal() {
    let installation = Installation::default();
    let mut server = installation.start();
    let (mut wire, last) = in_flight(&installation, &server);
    server.signal(Signal::TERM);
    stopping(&server);
    server.signal(Signal::HUP);
    sleep(Duration::from_millis(100));
    assert!(server.is_running());
    wire.send(&[last]);
    assert_eq!(wire.response().status, 200);
    drop(wire);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn clients_that_have_not_finished_their_handshake_do_not_hold_it_up() {
    let installation = Installation::default();
    let mut server = installation.start();
    let silent = test_harness::wire::tcp(&server);
    eventually("accepted", || server.metric("xksd_connections_open{shard=\"0\"}") == 1.0);
    let start = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    // Its handshake could take 5 s.
    assert!(start.elapsed() < Duration::from_secs(4));
    drop(silent);
}
