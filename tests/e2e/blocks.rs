//! The kill switch of the real server: `xksd block`, `unblock`, `blocks`, and what the control
//! socket does besides.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use test_harness::api::{encrypt_body, name};
use test_harness::{Api, C, Config, Installation, Server, eventually, programs};

fn xksd(installation: &Installation, arguments: &[&str]) -> Output {
    let config = installation.config_file();
    let mut command = Command::new(programs::xksd());
    command.args(arguments).arg("--config").arg(config).output().expect("runs")
}

/// Must be done; its output.
fn done(installation: &Installation, arguments: &[&str]) -> String {
    let output = xksd(installation, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Must fail with exit code 1; what it says.
fn refused(installation: &Installation, arguments: &[&str]) -> String {
    let output = xksd(installation, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).expect("text")
}

/// It must not start; why.
fn refused_start(installation: &Installation) -> String {
    let output = xksd(installation, &["serve"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

fn block(installation: &Installation, more: &[&str]) -> String {
    done(installation, &[&["block", "--key-store", "/one", "--reason", "case 7"], more].concat())
}

fn unblock(installation: &Installation, more: &[&str]) -> String {
    done(installation, &[&["unblock", "--key-store", "/one", "--reason", "solved"], more].concat())
}

fn outcome(api: &mut Api) -> (u16, String) {
    api.error("keys/foo/encrypt", &encrypt_body(b"text", &json!({})))
}

fn blocked() -> (u16, String) {
    name(400, "InvalidStateException")
}

#[test]
fn a_key_store_is_cut_off_on_open_connections_and_over_restarts() {
    let installation = Installation::new(&Config::default().server("request_budget_ms = 150"));
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let mut other = Api { prefix: "/two", credential: C, ..Api::new(&installation, &server) };
    api.round_trip("foo");
    assert_eq!(block(&installation, &[]), "key store \"/one\" is blocked\n");
    assert_eq!(outcome(&mut api), blocked());
    assert_eq!(api.error("keys/foo/metadata", &metadata_body()), blocked());
    other.round_trip("foo");
    assert!(api.health()["ekmFleetDetails"].is_array(), "health uses no key");
    server.wait_for("why", |line| line.contains("\"detail\":\"blocked: case 7\"").then_some(()));
    let blocks = server.status()["blocks"].clone();
    assert_eq!((&blocks[0]["key_store"], &blocks[0]["reason"]), (&json!("/one"), &json!("case 7")));
    assert!(blocks[0]["who"].as_str().is_some_and(|who| who.starts_with("uid ")));
    assert_eq!(server.metric("xksd_blocks"), 1.0);
    drop(server);

    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    assert_eq!(outcome(&mut api), blocked(), "after a restart");
    assert!(done(&installation, &["blocks"]).contains("key store \"/one\", since "));
    assert!(
        refused(
            &installation,
            &["unblock", "--key-store", "/one", "--key", "foo", "--reason", "x"]
        )
        .contains("it is not blocked. Its key store")
    );
    assert_eq!(unblock(&installation, &[]), "key store \"/one\" is no longer blocked\n");
    api.round_trip("foo");
    assert_eq!(done(&installation, &["blocks"]), "nothing is blocked\n");
}

fn metadata_body() -> Value {
    json!({"requestMetadata": {
        "awsPrincipalArn": "arn:aws:iam::210987654321:role/Backup",
        "kmsOperation": "DescribeKey",
        "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    }})
}

#[test]
fn a_block_of_a_key_ends_by_itself_and_leaves_the_others() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let said = block(&installation, &["--key", "foo", "--for", "2s"]);
    assert!(said.starts_with("key \"foo\" of key store \"/one\" until 20"), "{said}");
    assert_eq!(outcome(&mut api), blocked());
    // The key that is not in the key file: another answer than a blocked one's.
    let other = api.error("keys/absent/encrypt", &encrypt_body(b"text", &json!({})));
    assert_eq!(other.1, "KeyNotFoundException");
    eventually("its end", || outcome(&mut api).0 == 200);
    server.wait_event(&["no longer blocked: its time is over"]);
    assert_eq!(server.status()["blocks"], json!([]));
    let kept = fs::read_to_string(installation.path().join("state/blocks.json")).expect("kept");
    assert!(!kept.contains("foo"), "{kept}");
}

#[test]
fn what_is_not_there_cannot_be_blocked() {
    let installation = Installation::default();
    let server = installation.start();
    let of = |store, key: &[&str], reason| {
        let arguments = ["block", "--key-store", store, "--reason", reason];
        refused(&installation, &[&arguments, key].concat())
    };
    assert!(of("/none", &[], "x").contains("there is: \"/one\", \"/two\", \"/off\""));
    assert!(of("/one", &["--key", "fo"], "x").contains("has no key \"fo\""));
    assert!(of("/one", &[], " ").contains("a reason of 1 to 500 bytes is needed"));
    assert!(of("/one", &[], &"x".repeat(501)).contains("1 to 500 bytes"));
    let longest = "x".repeat(500);
    done(&installation, &["block", "--key-store", "/one", "--reason", &longest]);
    drop(server);
    assert!(refused(&installation, &["blocks"]).contains("nobody listens here"));
}

#[test]
fn a_block_list_that_cannot_be_read_is_not_served_without() {
    let installation = Installation::default();
    let server = installation.start();
    block(&installation, &[]);
    drop(server);
    let file = installation.path().join("state/blocks.json");
    let text = fs::read_to_string(&file).expect("there");
    fs::write(&file, &text[..text.len() / 2]).expect("cut");
    let refused = |why: &str| {
        let said = refused_start(&installation);
        assert!(said.contains("blocks.json") && said.contains("must not be answered"), "{said}");
        assert!(said.contains(why), "{said}");
        said
    };
    refused("cannot be read");
    // One letter of what is blocked.
    fs::write(&file, text.replace("/one", "/onf")).expect("changed");
    refused("its sha256 is another one");
    fs::remove_file(&file).expect("removed");
    let said = refused("is missing");
    // The message says what to do where that is meant.
    let mark = installation.path().join("state/initialised");
    assert!(said.contains(&format!("run: rm {}", mark.display())), "{said}");
    fs::remove_file(mark).expect("removed");
    let server = installation.start();
    assert_eq!(server.status()["blocks"], json!([]));
    drop(server);
    fs::remove_file(&file).expect("written at every start that finds none");
    refused("is missing");
}

#[test]
fn a_block_of_nothing_is_told_at_the_start() {
    let installation = Installation::default();
    let server = installation.start();
    block(&installation, &[]);
    drop(server);
    let renamed = Config::default().text().replace("\"/one\"", "\"/uno\"");
    installation.write("xksd.toml", &renamed);
    let server = installation.start();
    server.wait_event(&["key store \"/one\" is blocked and is not in this configuration"]);
}

#[test]
fn two_processes_do_not_share_a_state_directory() {
    let installation = Installation::default();
    let server = installation.start();
    let said = refused_start(&installation);
    assert!(said.contains("another xksd uses it"), "{said}");
    Api::new(&installation, &server).round_trip("foo");
}

/// The default configuration with an audit trail, whose disk each answer waits for.
fn audited() -> Config {
    let config = Config::default();
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let admin = format!(
        "{}\n[audit]\ndirectory = \"audit\"\norigin = \"a/b\"\nsigning_key = {{ value = \"{key}\" }}",
        config.admin
    );
    Config { admin, ..config }
}

#[test]
fn under_load_nothing_is_answered_after_the_block() {
    for config in [Config::default(), audited()] {
        nothing_is_answered_after_the_block(&config);
    }
}

fn nothing_is_answered_after_the_block(config: &Config) {
    let installation = Installation::new(config);
    let server = installation.start();
    let (ended, block_done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut api = Api::new(&installation, &server);
                    let mut answered = 0;
                    while !ended.load(Ordering::Acquire) {
                        let asked_after = block_done.load(Ordering::Acquire);
                        match outcome(&mut api).0 {
                            200 => {
                                assert!(!asked_after, "answered after the block was told");
                                answered += 1;
                            }
                            status => assert_eq!(status, 400),
                        }
                    }
                    answered
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        block(&installation, &["--key", "foo"]);
        block_done.store(true, Ordering::Release);
        std::thread::sleep(Duration::from_millis(300));
        ended.store(true, Ordering::Release);
        for client in clients {
            assert!(client.join().expect("no answer after the block") > 0);
        }
    });
}

#[test]
fn wrong_requests_and_silent_clients_do_not_stop_the_control_socket() {
    let installation = Installation::default();
    let server = installation.start();
    let path = installation.path().join("state/control.sock");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    let ask = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&path).expect("connected");
        let _ = stream.write_all(bytes);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    };
    let long = vec![b'a'; 600_000];
    for wrong in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\n",
        b"{\"command\":\"format\"}\n",
        b"{\"command\":\"blocks\",\"x\":1}\n",
        &[&b"{\"command\":\""[..], &long, b"\"}\n"].concat(),
    ] {
        assert!(ask(wrong).starts_with("{\"ok\":false"), "{}", String::from_utf8_lossy(wrong));
    }
    let silent: Vec<_> = (0..8).map(|_| UnixStream::connect(&path).expect("connected")).collect();
    block(&installation, &[]);
    drop(silent);
    assert_eq!(server.status()["blocks"].as_array().map(Vec::len), Some(1));
}

/// By the user of the process that asks, whatever the modes of the files say.
#[test]
fn another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let installation = Installation::default();
    let server = installation.start();
    let socket = installation.path().join("state/control.sock");
    for (path, mode) in [
        (installation.path().to_owned(), 0o755),
        (installation.path().join("state"), 0o755),
        (socket.clone(), 0o666),
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root's");
    }
    const ASK: &str = "import socket, sys; s = socket.socket(socket.AF_UNIX); \
        s.connect(sys.argv[1]); s.sendall(b'{\"command\":\"blocks\"}\\n'); print(s.recv(999))";
    let nobody =
        ["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", ASK];
    let asked = Command::new("setpriv").args(nobody).arg(&socket).output().expect("runs");
    let answer = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(answer.contains("only root and the user that xksd runs as"), "{asked:?}");
    server.wait_event(&["control socket: a request of uid 65534", "is refused"]);
}

#[test]
fn reload_and_status_answer() {
    let installation = Installation::default();
    let server = installation.start();
    let config = Config::default();
    installation.configure(&config.clone().server("shards = 1"));
    assert!(refused(&installation, &["reload"]).contains("not reloaded"), "shards stands twice");
    let mut config = config.server("request_budget_ms = 150");
    config.server = config.server.replace("delay_ms = 0", "delay_ms = 60000");
    installation.configure(&config);
    let said = done(&installation, &["reload"]);
    assert!(said.contains("server.request_budget_ms is 150, was 200"), "{said}");
    server.wait_event(&["reload: server.request_budget_ms is 150"]);
    let status = done(&installation, &["status"]);
    assert!(status.starts_with("xksd 0.1.0") && status.contains("key manager local: ACTIVE"));
    let json: Value =
        serde_json::from_str(&done(&installation, &["status", "--json"])).expect("JSON");
    assert_eq!(json["ready"], true);
    done(&installation, &["status", "--ready"]);
    server.signal(Signal::TERM);
    eventually("stopping", || done(&installation, &["status"]).contains("stopping"));
    assert!(refused(&installation, &["status", "--ready"]).contains("not ready: stopping"));
}

/// What is blocked is in the audit trail with who did it.
#[test]
fn blocks_are_audited() {
    let installation = Installation::new(&audited());
    let server = installation.start();
    block(&installation, &["--key", "foo", "--for", "1h"]);
    let mut api = Api::new(&installation, &server);
    assert_eq!(outcome(&mut api), blocked());
    unblock(&installation, &["--key", "foo"]);
    stop(server);
    let file = installation.path().join("audit/records/0000000000.jsonl");
    let text = fs::read_to_string(file).expect("records");
    let records: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let one = |kind: &str| records.iter().find(|record| record["kind"] == kind).expect(kind);
    assert_eq!((&one("block")["key"], &one("block")["reason"]), (&json!("foo"), &json!("case 7")));
    assert!(one("block")["until"].is_string() && one("block")["who"].is_string());
    assert_eq!(one("request")["outcome"], "InvalidStateException");
    assert_eq!(one("unblock")["reason"], "solved");
}

fn stop(server: Server) {
    assert_eq!(server.stop().0, Some(0));
}

#[test]
fn a_socket_that_is_removed_is_bound_again() {
    let installation = Installation::default();
    let server = installation.start();
    let socket = installation.path().join("state/control.sock");
    for _ in 0..2 {
        fs::remove_file(&socket).expect("removed");
        eventually("bound again", || socket.exists());
        eventually("said", || server.log().iter().any(|line| line.contains("was removed: bound")));
        assert!(done(&installation, &["blocks"]).contains("nothing is blocked"));
    }
    // Something else in its place is not touched, and alarms.
    fs::remove_file(&socket).expect("removed");
    fs::write(&socket, "kept").expect("written");
    server.wait_event(&["the control socket was removed, and", "something else of this name"]);
    assert_eq!(server.metric("xksd_control_socket_reachable"), 0.0);
    assert_eq!(fs::read(&socket).expect("there"), b"kept");
    fs::remove_file(&socket).expect("removed");
    eventually("bound again", || server.metric("xksd_control_socket_reachable") == 1.0);
    assert!(done(&installation, &["blocks"]).contains("nothing is blocked"));
}

#[test]
fn a_state_directory_that_is_empty_is_not_taken_for_the_first_start() {
    let installation = Installation::new(&Config::default().server("require_state = true"));
    let why = refused_start(&installation);
    assert!(why.contains("is its volume mounted?"), "{why}");
    let touched =
        why.split("run: ").nth(1).and_then(|rest| rest.lines().next()).expect("a command");
    let done = Command::new("sh").args(["-c", touched]).status().expect("sh");
    assert!(done.success(), "{touched}");
    assert_eq!(installation.start().stop().0, Some(0));
    fs::remove_dir_all(installation.path().join("state")).expect("removed");
    refused_start(&installation);
    // Where it is not asked for, it is said.
    installation.configure(&Config::default());
    let server = installation.start();
    server.wait_event(&["state directory", "is new: nothing is blocked"]);
}
