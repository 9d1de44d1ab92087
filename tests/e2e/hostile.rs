//! Clients that are broken, slow, gone or hostile: after each the server still answers.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::json;
use test_harness::api::{encrypt_body, still_serves};
use test_harness::wire::{End, tcp};
use test_harness::{Api, Installation, Request, Server, Wire, eventually};
use xksd::limits::{
    ADMIN_CONNECTIONS_MAX, CONNECTIONS_A_SHARD_MIN, DESCRIPTORS_A_SHARD, DESCRIPTORS_RESERVED,
    UNAUTHENTICATED_IDLE_TIME_MAX, UNAUTHENTICATED_LOG_LINES_MAX,
};

/// Waits until the peer has closed.
fn closed(mut socket: &TcpStream) {
    let mut scratch = [0; 4096];
    loop {
        match socket.read(&mut scratch) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("still open")
            }
            Err(_) => return,
        }
    }
}

fn open(server: &Server) -> f64 {
    server.metric("xksd_connections_open{shard=\"0\"}")
}

#[test]
fn bytes_that_are_no_tls() {
    let installation = Installation::default();
    let server = installation.start();
    let mut noise = vec![0; 100_000];
    let mut state = 0x2545_f491_u32;
    for byte in &mut noise {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let record_of_zeros = [&[22, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat();
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n",
        b"\0",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        &[0x16, 0x03, 0x01, 0x00, 0x05, 0x01, 0x00, 0x00, 0x01, 0x03],
        &[0x80, 0x2e, 0x01, 0x00, 0x02],
        &record_of_zeros,
        &noise,
    ] {
        let mut socket = tcp(&server);
        // The server may hang up before it has taken everything.
        let _ = socket.write_all(garbage);
        let _ = socket.shutdown(Shutdown::Write);
        closed(&socket);
    }
    assert!(server.metric("xksd_tls_handshake_failures_total{reason=\"not_tls\"}") >= 4.0);
    still_serves(&installation, &server);
    eventually("all closed", || open(&server) == 0.0);
}

#[test]
fn garbage_within_tls() {
    let installation = Installation::default();
    let server = installation.start();
    for garbage in [
        &[0xff; 20_000][..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        &[b'\r'; 17_000],
        b"\n",
        b"{}\r\n\r\n",
    ] {
        let mut wire = Wire::connect(&installation, &server);
        wire.send(garbage);
        let answer = wire.response();
        assert!(matches!(answer.status, 400 | 414 | 431) && answer.closes(), "{answer:?}");
        answer.error();
        assert_eq!(wire.end(), End::CloseNotify);
    }
    // Broken below HTTP: a record that does not decrypt.
    let mut wire = Wire::connect(&installation, &server);
    wire.stream
        .sock
        .write_all(&[
            23, 3, 3, 0, 32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3,
            4, 5, 6, 7, 8, 9, 0, 1, 2,
        ])
        .expect("sent");
    closed(&wire.stream.sock);
    still_serves(&installation, &server);
}

#[test]
fn connections_that_end_in_the_middle_of_everything() {
    let installation = Installation::default();
    let server = installation.start();
    let path = "/one/kms/xks/v1/keys/foo/encrypt";
    let bytes = Request::new(&server, path, &encrypt_body(&[1; 4000], &json!({}))).bytes();
    for cut in [0, 1, 20, 200, 600, bytes.len() - 1, bytes.len()] {
        let mut wire = Wire::connect(&installation, &server);
        wire.send(&bytes[..cut]);
        match cut % 3 {
            // Gone without a word.
            0 => drop(wire.stream.sock.shutdown(Shutdown::Both)),
            // With a word, and then deaf.
            1 => {
                wire.stream.conn.send_close_notify();
                let _ = wire.stream.conn.complete_io(&mut wire.stream.sock);
            }
            // Half-open: sends nothing more, still listens.
            _ => drop(wire.stream.sock.shutdown(Shutdown::Write)),
        }
        if cut % 3 == 2 {
            closed(&wire.stream.sock);
        }
    }
    still_serves(&installation, &server);
    eventually("all closed", || open(&server) == 0.0);
}

#[test]
fn connections_that_are_reset_before_they_are_accepted_delay_nobody() {
    let installation = Installation::default();
    let server = installation.start();
    for _ in 0..500 {
        let socket = tcp(&server);
        // Closing it is a reset then.
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).expect("set");
    }
    still_serves(&installation, &server);
    // After an error the shard pauses: here each would have been a pause for whoever stands behind
    // in the queue.
    assert_eq!(server.metric("xksd_accept_errors_total"), 0.0);
}

#[test]
fn a_client_that_pipelines_lets_others_have_their_turn() {
    let installation = Installation::default();
    let server = installation.start();
    let (mut greedy, mut other) =
        (Wire::connect(&installation, &server), Wire::connect(&installation, &server));
    let address = |wire: &Wire| wire.stream.sock.local_addr().expect("an address").to_string();
    let (greedy_address, other_address) = (address(&greedy), address(&other));
    let request = Request::health(&server, "turn").bytes();
    let count = 16_000 / request.len();
    let mut seen = 0;
    eventually("a turn between two of the greedy one's", || {
        // One TLS record: all of it is there at once.
        greedy.send(&request.repeat(count));
        other.send(&request);
        assert_eq!(other.response().status, 200);
        (0..count).for_each(|_| assert_eq!(greedy.response().status, 200));
        let clients = || -> Vec<bool> {
            let lines = server.log();
            let is_of =
                |line: &str, address: &str| line.contains(&format!("\"client\":\"{address}\""));
            let of_either = lines
                .iter()
                .filter(|line| is_of(line, &greedy_address) || is_of(line, &other_address));
            of_either.map(|line| is_of(line, &other_address)).collect()
        };
        eventually("all told", || clients().len() == seen + count + 1);
        let round = clients().split_off(seen);
        seen += round.len();
        // Not the first and not the last.
        round[1..count].contains(&true)
    });
}

#[test]
fn a_client_process_killed_in_the_middle_of_a_request() {
    let installation = Installation::default();
    let server = installation.start();
    let bytes = Request::health(&server, "killed").bytes();
    let mut handshakes = 0.0;
    for cut in [0, 30, bytes.len() - 10] {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{}", server.port)])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is missing: run scripts/test");
        client.stdin.as_mut().expect("piped").write_all(&bytes[..cut]).expect("sent");
        // Its own, and one for each check before it.
        handshakes += 1.0;
        eventually("connected", || server.metric("xksd_tls_handshakes_total") == handshakes);
        client.kill().expect("SIGKILL");
        client.wait().expect("ended");
        still_serves(&installation, &server);
        handshakes += 1.0;
    }
    eventually("all closed", || open(&server) == 0.0);
}

#[test]
fn five_hundred_connections_opened_and_dropped() {
    let installation = Installation::default();
    let server = installation.start();
    let config = installation.client();
    let mut sockets: Vec<TcpStream> = (0..400).map(|_| tcp(&server)).collect();
    let mut wires: Vec<Wire> =
        (0..100).map(|_| Wire::connect_with(&config, &server).expect("connects")).collect();
    eventually("all open", || open(&server) >= 500.0);
    // Served while they are there, and each of them too.
    still_serves(&installation, &server);
    assert_eq!(wires[99].call(&Request::health(&server, "one of many")).status, 200);
    sockets.truncate(10);
    wires.truncate(10);
    still_serves(&installation, &server);
    drop((sockets, wires));
    still_serves(&installation, &server);
    eventually("all closed", || open(&server) == 0.0);
}

#[test]
fn more_connections_than_descriptors() {
    let installation = Installation::default();
    let limit = (DESCRIPTORS_RESERVED + DESCRIPTORS_A_SHARD) as usize + 40;
    let server =
        Server::start(&installation, &["prlimit", &format!("--nofile={limit}:{limit}")], |_| ());
    server.wait_event(&["serves on", "up to 40 connections each"]);
    assert_eq!(
        (server.metric("xksd_connections_max"), &server.status()["connections_a_shard_max"]),
        (40.0, &json!(40))
    );
    let mut first = Api::new(&installation, &server);
    first.round_trip("foo");
    let crowd: Vec<TcpStream> = (0..39).map(|_| tcp(&server)).collect();
    eventually("full", || open(&server) == 40.0);
    assert_eq!(server.metric("xksd_connections_refused_total"), 0.0);
    // Further ones have the places of those who are strangers still: who holds connections keeps
    // nobody out, and who has signed is not put out.
    let more: Vec<TcpStream> = (0..100).map(|_| tcp(&server)).collect();
    crowd.iter().for_each(closed);
    server.wait_event(&["a shard has as many connections as it may"]);
    eventually("counted", || server.metric("xksd_connections_refused_total") == 100.0);
    eventually("as many as before", || open(&server) == 40.0);
    first.round_trip("foo");
    still_serves(&installation, &server);
    // The admin listener has its descriptors, all of them, and so has a reload.
    let admins: Vec<TcpStream> = (0..ADMIN_CONNECTIONS_MAX)
        .map(|_| TcpStream::connect(("127.0.0.1", server.admin)).expect("connects"))
        .collect();
    assert_eq!(server.get("/readyz").0, 200);
    assert!(server.reload().ends_with("reloaded"));
    assert_eq!(server.metric("xksd_accept_errors_total"), 0.0);
    drop((admins, more));
    eventually("all others gone", || open(&server) == 1.0);

    // Where all are known, a newcomer is closed at once.
    let mut known: Vec<Wire> = (0..39).map(|_| Wire::connect(&installation, &server)).collect();
    let serve = |known: &mut Vec<Wire>| {
        known
            .iter_mut()
            .for_each(|wire| assert_eq!(wire.call(&Request::health(&server, "known")).status, 200))
    };
    serve(&mut known);
    let refused = server.metric("xksd_connections_refused_total");
    (0..10).for_each(|_| closed(&tcp(&server)));
    assert_eq!(server.metric("xksd_connections_refused_total"), refused + 10.0);
    serve(&mut known);
    first.round_trip("foo");
    known.pop();
    eventually("room", || open(&server) == 39.0);
    still_serves(&installation, &server);
}

#[test]
fn too_few_descriptors_are_one_clear_sentence() {
    let installation = Installation::default();
    let least = DESCRIPTORS_RESERVED + DESCRIPTORS_A_SHARD + CONNECTIONS_A_SHARD_MIN as u64;
    let too_few = least - 1;
    let config = installation.config_file();
    let output = Command::new("prlimit")
        .arg(format!("--nofile={too_few}:{too_few}"))
        .args([env!("CARGO_BIN_EXE_xksd"), "serve", "--config"])
        .arg(config)
        .output()
        .expect("runs");
    let told = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{told}");
    for words in
        [&format!("limited to {too_few}"), &format!("need {least}"), "LimitNOFILE", "ulimit -n"]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
    let server =
        Server::start(&installation, &["prlimit", &format!("--nofile={least}:{least}")], |_| ());
    server.wait_event(&["up to 16 connections each"]);
    still_serves(&installation, &server);
}

#[test]
fn a_flood_of_broken_handshakes_is_told_by_number() {
    let installation = Installation::default();
    let server = installation.start();
    for _ in 0..200 {
        let mut socket = tcp(&server);
        let _ = socket.write_all(b"GET / HTTP/1.1\r\n\r\n");
        closed(&socket);
    }
    let told = || -> (usize, usize) {
        let lines = server.log();
        let left_out = |line: &String| {
            line.split_once(" more TLS handshakes failed: not_tls")?
                .0
                .rsplit('"')
                .next()?
                .parse::<usize>()
                .ok()
        };
        let each = lines
            .iter()
            .filter(|line| {
                line.contains("TLS handshake with 127.0.0.1:") && line.contains("failed: not_tls")
            })
            .count();
        (each, lines.iter().filter_map(left_out).sum())
    };
    eventually("each is told or counted", || told().0 + told().1 == 200);
    assert!(told().1 > 0, "{:?}", told());
}

#[test]
fn a_flood_of_unsigned_requests_is_told_by_number_and_hides_no_signed_one() {
    let installation = Installation::default();
    let server = installation.start();
    let mut wire = Wire::connect(&installation, &server);
    let (unsigned, count) = (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", 500);
    wire.send(&unsigned.repeat(count));
    (0..count).for_each(|_| assert_eq!(wire.response().status, 404));
    let signed = Request::health(&server, "among-strangers").bytes();
    wire.send(&signed.repeat(2 * UNAUTHENTICATED_LOG_LINES_MAX as usize));
    (0..2 * UNAUTHENTICATED_LOG_LINES_MAX).for_each(|_| assert_eq!(wire.response().status, 200));
    let told = || {
        let lines = server.log();
        let left_out = |line: &String| {
            let (before, _) = line.split_once(
                " more requests without a valid signature were refused: InvalidUriPathException",
            )?;
            before.rsplit('"').next()?.parse::<usize>().ok()
        };
        let of = |word: &str| {
            lines
                .iter()
                .filter(|line| line.contains("\"event\":\"request\"") && line.contains(word))
                .count()
        };
        (
            of("InvalidUriPathException"),
            lines.iter().filter_map(left_out).sum::<usize>(),
            of("among-strangers"),
        )
    };
    eventually("each is told or counted", || told().0 + told().1 == count);
    let (each, left_out, signed) = told();
    assert!(left_out > 0 && each >= UNAUTHENTICATED_LOG_LINES_MAX as usize, "{each} {left_out}");
    assert_eq!(signed, 2 * UNAUTHENTICATED_LOG_LINES_MAX as usize);
}

#[test]
fn handshakes_by_the_hundred_take_turns_with_requests() {
    let installation = Installation::default();
    let server = installation.start();
    let mut wire = Wire::connect(&installation, &server);
    let request = Request::health(&server, "beside-handshakes").bytes();
    let hello = {
        let mut client = rustls::ClientConnection::new(
            installation.client(),
            "localhost".try_into().expect("a name"),
        )
        .expect("made");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("written");
        bytes
    };
    let mut among_handshakes = || {
        let strangers: Vec<TcpStream> = (0..300).map(|_| tcp(&server)).collect();
        for mut stranger in &strangers {
            stranger.write_all(&hello).expect("sent");
        }
        wire.send(&request);
        assert_eq!(wire.response().status, 200);
        // An order and no time: theirs came before, and most had not been answered.
        let waits = |stranger: &&TcpStream| {
            stranger.set_nonblocking(true).expect("set");
            matches!(stranger.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
        };
        strangers.iter().filter(waits).count() > strangers.len() / 2
    };
    // By chance, one or the other may be so with a server that makes no difference.
    let rounds = (0..9).filter(|_| among_handshakes()).count();
    assert!(rounds > 4, "in {rounds} of 9 rounds");
}

/// Nothing can hurry it: half a minute.
#[test]
fn who_never_sent_a_signed_request_may_not_stay_for_long() {
    let installation = Installation::default();
    let server = installation.start();
    let (start, mut known) = (Instant::now(), Api::new(&installation, &server));
    known.round_trip("foo");
    let mut silent = Wire::connect(&installation, &server);
    let mut unsigned = Wire::connect(&installation, &server);
    assert_eq!(
        unsigned.call(&Request::health(&server, "x").with(|r| r.unsigned = true)).status,
        401
    );
    let patience = Some(UNAUTHENTICATED_IDLE_TIME_MAX * 3);
    for stranger in [&mut silent, &mut unsigned] {
        stranger.stream.sock.set_read_timeout(patience).expect("set");
        assert_eq!(stranger.end(), End::CloseNotify);
        assert!(start.elapsed() >= UNAUTHENTICATED_IDLE_TIME_MAX);
    }
    // Idle for longer than they were.
    known.round_trip("foo");
}

/// One test for all limits of time, which have five seconds each.
#[test]
fn who_is_slow_is_told_or_closed_and_delays_nobody() {
    let installation = Installation::default();
    let server = installation.start();
    let bytes = Request::health(&server, "slow").bytes();
    let start = Instant::now();

    let silent = tcp(&server);
    let mut in_handshake = tcp(&server);
    in_handshake.write_all(&[22, 3, 1, 1, 0, 1]).expect("sent");
    let mut dripping = Wire::connect(&installation, &server);
    let mut in_body = Wire::connect(&installation, &server);
    in_body.send(&bytes[..bytes.len() - 1]);
    let mut idle = Wire::connect(&installation, &server);
    let mut admin = TcpStream::connect(("127.0.0.1", server.admin)).expect("connects");
    admin.set_read_timeout(Some(test_harness::PATIENCE)).expect("set");

    // A byte now and then does not extend the time for a head.
    let mut sent = 0;
    while start.elapsed() < Duration::from_secs(6) && sent < 100 {
        if dripping.try_send(&bytes[sent..=sent]).is_err() {
            break;
        }
        let _ = admin.write_all(&b"GET /livez HTTP/1.1\r\nX: "[sent.min(23)..=sent.min(23)]);
        sent += 1;
        // What takes its time must not take others'.
        still_serves(&installation, &server);
        std::thread::sleep(Duration::from_millis(200));
    }
    for wire in [&mut dripping, &mut in_body] {
        let answer = wire.response();
        assert_eq!((answer.error().0, answer.closes()), (408, true));
        assert_eq!(wire.end(), End::CloseNotify);
    }
    closed(&silent);
    closed(&in_handshake);
    closed(&admin);
    assert_eq!(server.metric("xksd_tls_handshake_failures_total{reason=\"timeout\"}"), 2.0);
    assert!(start.elapsed() >= Duration::from_millis(4900));
    // Without a request there is nothing to be late with.
    assert_eq!(idle.call(&Request::health(&server, "still there")).status, 200);
}

#[test]
fn a_client_that_never_reads_is_not_waited_for() {
    let installation = Installation::default();
    let server = installation.start();
    let path = "/one/kms/xks/v1/keys/foo/encrypt";
    let bytes = Request::new(&server, path, &encrypt_body(&[1; 4300], &json!({}))).bytes();
    let mut deaf = Wire::connect(&installation, &server);
    deaf.stream.sock.set_nonblocking(true).expect("set");
    // Until both directions are full.
    let full = Instant::now();
    let mut stuck = 0;
    while stuck < 50 && full.elapsed() < Duration::from_secs(20) {
        match deaf.try_send(&bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                stuck += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(_) => break,
            Ok(()) => stuck = 0,
        }
    }
    assert!(stuck > 0, "never full");
    still_serves(&installation, &server);
    eventually("given up on", || open(&server) == 0.0);
    drop(deaf);
    still_serves(&installation, &server);
}

#[test]
fn what_it_holds_in_memory_reaches_no_core_file() {
    // Whoever starts it would have core files.
    let maximum = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: maximum, maximum }).expect("up to the hard limit");
    let installation = Installation::default();
    let mut server = installation.start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).expect("there");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    server.signal(Signal::ABORT);
    let ended = server.wait();
    assert_eq!((ended.signal(), ended.core_dumped()), (Some(Signal::ABORT.as_raw()), false));
}
