//! What systemd asks of a service: it is told how things are, and hands sockets over.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::Signal;
use serde_json::json;
use test_harness::api::encrypt_body;
use test_harness::config::{A, key, key_store};
use test_harness::hsm_sim::KEY;
use test_harness::{Config, Installation, PATIENCE, Request, Server, Wire, eventually};

/// In the place of systemd: standard input becomes the socket 3, for the process that this becomes.
const PASS: &[&str] = &["sh", "-c", "export LISTEN_PID=$$; exec \"$@\" 3<&0 0</dev/null", "sh"];

fn start_on(installation: &Installation, socket: &TcpListener) -> Server {
    let socket = OwnedFd::from(socket.try_clone().expect("a descriptor"));
    Server::start(installation, PASS, |command| {
        command.stdin(Stdio::from(socket)).env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "xks");
    })
}

/// The socket of a service manager.
fn manager(installation: &Installation) -> (PathBuf, UnixDatagram) {
    let path = installation.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("bound");
    manager.set_read_timeout(Some(PATIENCE)).expect("set");
    (path, manager)
}

fn receive(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 500];
    let count = manager.recv(&mut buffer).expect("something is told");
    String::from_utf8(buffer[..count].to_vec()).expect("text")
}

/// Over an HSM that takes far longer to open than a request may wait.
fn slow_hsm() -> Installation {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    hsm.prepare("slow_start = { initialize_ms = 700, calls = 0, ms = 0 }");
    installation.configure(&Config {
        key_managers: hsm.key_manager(2),
        key_stores: key_store("/one", "key_manager = [\"hsm\"]", &[&A], &key(KEY, "")),
        ..Config::default()
    });
    installation
}

#[test]
fn the_service_manager_is_told_how_things_are() {
    let installation = Installation::default();
    let (path, manager) = manager(&installation);
    let hear = |what: &str| loop {
        let told = receive(&manager);
        if told.starts_with(what) {
            return told;
        }
    };
    let mut server = Server::start(&installation, &[], |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    });
    hear("READY=1");
    hear("WATCHDOG=1");
    hear("STATUS=ready; 1 of 1 key managers serve");
    hear("WATCHDOG=1");
    installation.write("xksd.toml", "broken");
    assert!(server.reload().contains("not reloaded"));
    let reloading = hear("RELOADING=1");
    assert!(
        reloading.split_once("MONOTONIC_USEC=").is_some_and(|(_, us)| us.parse::<u64>().is_ok())
    );
    hear("READY=1");
    hear("STATUS=ready; 1 of 1 key managers serve; the last reload was refused");
    server.terminate();
    assert_eq!(hear("STOPPING=1"), "STOPPING=1\nSTATUS=stopping\nWATCHDOG_USEC=0");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_start_is_over_once_the_hsm_serves() {
    let installation = slow_hsm();
    let (path, manager) = manager(&installation);
    let server = Server::start(&installation, &[], |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    let told = std::iter::repeat_with(|| receive(&manager)).take_while(|told| told != "READY=1");
    let told: Vec<String> = told.collect();
    let unready = told.iter().filter(|told| told.starts_with("STATUS=not ready"));
    assert!(!told.is_empty() && unready.count() == told.len(), "{told:?}");
    assert!(server.is_ready());
}

#[test]
fn a_request_in_a_passed_socket_waits_for_the_hsm() {
    let installation = slow_hsm();
    let socket = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = socket.local_addr().expect("bound").port();
    let body = encrypt_body(b"early", &json!({})).to_string().into_bytes();
    let encrypt =
        Request::to(&format!("localhost:{port}"), "/one/kms/xks/v1/keys/foo/encrypt", body);
    let tls = installation.client();
    let early = || Wire::connect_to(&tls, port).expect("a handshake").call(&encrypt);
    std::thread::scope(|scope| {
        let early = scope.spawn(early);
        let _server = start_on(&installation, &socket);
        let answer = early.join().expect("answered");
        assert_eq!(answer.status, 200, "{answer:?}");
    });
}

/// The socket stays open while one process ends and the next one starts: connections wait in it.
#[test]
fn a_restart_on_a_passed_socket_refuses_no_connection() {
    let installation = Installation::new(&two_shards());
    let socket = TcpListener::bind("127.0.0.1:0").expect("bound");
    let first = start_on(&installation, &socket);
    assert_eq!(first.port, socket.local_addr().expect("bound").port());
    let (tls, request) = (installation.client(), Request::health(&first, "over a restart"));
    let (end, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    let port = first.port;
    let client = || {
        while !end.load(Ordering::Relaxed) {
            let mut wire = Wire::connect_to(&tls, port).expect("a handshake");
            assert_eq!(wire.call(&request).status, 200);
            calls.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        let more = |what| {
            let before = calls.load(Ordering::Relaxed);
            eventually(what, || {
                calls.load(Ordering::Relaxed) > before + 20
                    || clients.iter().any(|client| client.is_finished())
            });
        };
        more("calls of the first");
        assert_eq!(first.stop().0, Some(0));
        let mut second = start_on(&installation, &socket);
        more("calls of the second");
        end.store(true, Ordering::Relaxed);
        let outcomes: Vec<_> = clients.into_iter().map(|client| client.join().is_ok()).collect();
        second.signal(Signal::TERM);
        assert_eq!(second.wait().code(), Some(0));
        assert_eq!(outcomes, [true; 4]);
    });
}

fn two_shards() -> Config {
    let config = Config::default();
    Config { server: config.server.replace("shards = 1", "shards = 2"), ..config }
}
