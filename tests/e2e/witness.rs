//! Checkpoints that leave the machine: to syslog, and to another instance that cosigns them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use test_harness::{Api, Config, Installation, Server, programs};

pub(super) const ORIGIN: &str = "xks.bank.example/site-a";
pub(super) const WITNESS: &str = "xks.bank.example/witness-b";

pub(super) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

pub(super) fn xksd(arguments: &[&str]) -> Output {
    Command::new(programs::xksd()).args(arguments).output().expect("runs")
}

/// Makes a key in `secrets/NAME`; gives its verifier key.
pub(super) fn new_key(installation: &Installation, name: &str, of: [&str; 2]) -> String {
    let file = installation.path().join("secrets").join(name);
    let made = xksd(&["audit", "key", "new", of[0], of[1], "--write-secret", text(&file)]);
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).expect("text").trim().to_owned()
}

/// With these sections besides.
pub(super) fn with_sections(installation: &Installation, sections: &str) {
    let admin = format!("{}\n\n{sections}", Config::default().admin);
    installation.configure(&Config { admin, ..Config::default() });
}

pub(super) fn audited(installation: &Installation, more: &str) {
    let sections = format!(
        "[audit]\ndirectory = \"audit\"\nsigning_key = {{ file = \"secrets/audit-key\" }}\n\
         origin = \"{ORIGIN}\"\n{more}"
    );
    with_sections(installation, &sections);
}

/// A witness of this trail, its installation, and its key.
fn witness_of(verifier: &str) -> (Installation, String) {
    let installation = Installation::default();
    let key = new_key(&installation, "witness-key", ["--witness", WITNESS]);
    with_sections(&installation, &witness_section(WITNESS, "witness-key", verifier));
    (installation, key)
}

/// A witness of this trail with this name and the key in this file.
pub(super) fn witness_section(name: &str, key: &str, verifier: &str) -> String {
    format!(
        "[witness]\nlisten = \"127.0.0.1:0\"\nname = \"{name}\"\n\
         signing_key = {{ file = \"secrets/{key}\" }}\nverifier_keys = [\"{verifier}\"]"
    )
}

/// Where it is asked.
fn url(witness: &Server) -> String {
    url_of(witness, WITNESS)
}

/// Where the witness of this name is asked.
pub(super) fn url_of(witness: &Server, name: &str) -> String {
    let line = witness.wait_event(&["witness", name, "/add-checkpoint"]);
    let at = line.find("http://").expect("a URL");
    line[at..].split(": ").next().expect("an address").to_owned()
}

pub(super) fn asks(installation: &Installation, url: &str, key: &str) {
    let section = format!("[[audit.witness]]\nurl = \"{url}\"\nverifier_key = \"{key}\"");
    audited(installation, &section);
}

pub(super) fn verify(installation: &Installation, more: &[&str]) -> (Option<i32>, String) {
    let config = installation.config_file();
    let output = xksd(&[&["audit", "verify", "--config", text(&config)], more].concat());
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", text(from), text(to)]).status().expect("cp");
    assert!(copied.success());
}

pub(super) fn sent(server: &Server) -> f64 {
    server.metric(&format!("xksd_audit_checkpoint_sent{{to=\"{WITNESS}\"}}"))
}

#[test]
fn another_instance_cosigns_and_a_trail_that_went_back_is_found_by_it() {
    let installation = Installation::default();
    let verifier = new_key(&installation, "audit-key", ["--origin", ORIGIN]);
    let (of_witness, key) = witness_of(&verifier);
    let witness = of_witness.start();
    asks(&installation, &url(&witness), &key);
    assert_eq!(verify(&installation, &[]).0, Some(1), "there is nothing yet");

    let server = installation.start();
    server.wait_event(&["audit witness", WITNESS, "cosigns"]);
    test_harness::eventually("kept", || verify(&installation, &[]).0 == Some(0));
    assert_eq!(sent(&server), 1.0);
    Api::new(&installation, &server).round_trip("foo");
    assert_eq!(server.stop().0, Some(0));
    let (code, told) = verify(&installation, &[]);
    assert!(code == Some(0) && told.contains(&format!("The witness {WITNESS} saw")), "{told}");
    let trail = installation.path().join("audit");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/verify_trail.py");
    let python = Command::new("python3")
        .args([script, text(&trail), &verifier, &key])
        .output()
        .expect("runs");
    assert!(python.status.success(), "{python:?}");
    let stranger = new_key(&installation, "stranger", ["--witness", "stranger.example"]);
    let (code, told) = verify(&installation, &["--witness", &stranger]);
    assert!(code == Some(1) && told.contains("stranger.example"), "{told}");

    // What was then is brought back after the witness has seen more, also after its own restart.
    let backup = installation.path().join("backup");
    copy(&trail, &backup);
    let server = installation.start();
    server.wait_event(&["audit witness", WITNESS, "cosigns"]);
    assert_eq!(server.stop().0, Some(0));
    assert_eq!(witness.stop().0, Some(0));
    fs::remove_dir_all(&trail).expect("removed");
    fs::rename(&backup, &trail).expect("brought back");
    let witness = of_witness.start();
    asks(&installation, &url(&witness), &key);
    let server = installation.start();
    // Its kept state would say how far it was: who brings files back brings that back, too.
    let went_back = |server: &Server| {
        server.wait_event(&["audit witness", WITNESS, "does not cosign"]);
    };
    went_back(&server);
    Api::new(&installation, &server).round_trip("foo");
    assert_eq!(sent(&server), 0.0);
}

#[test]
fn without_its_witness_an_instance_serves_and_alarms() {
    let installation = Installation::default();
    let verifier = new_key(&installation, "audit-key", ["--origin", ORIGIN]);
    let (of_witness, key) = witness_of(&verifier);
    let witness = of_witness.start();
    asks(&installation, &url(&witness), &key);
    assert_eq!(witness.stop().0, Some(0));
    let server = installation.start();
    server.wait_event(&["audit witness", WITNESS, "does not cosign", "connecting to"]);
    assert_eq!(sent(&server), 0.0);
    Api::new(&installation, &server).round_trip("foo");
    assert_eq!(server.stop().0, Some(0));
    let records = fs::read_to_string(installation.path().join("audit/records/0000000000.jsonl"));
    assert!(records.expect("records").contains("\"kind\":\"witness\""));
}

/// Status line, head and body.
pub(super) fn ask(url: &str, request: &str) -> (String, String) {
    let address = url.strip_prefix("http://").expect("a URL");
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

#[test]
fn the_witness_answers_as_the_specification_says_and_nothing_else() {
    let installation = Installation::default();
    let verifier = new_key(&installation, "audit-key", ["--origin", ORIGIN]);
    let (of_witness, _) = witness_of(&verifier);
    let witness = of_witness.start();
    let url = url(&witness);
    let status =
        |request: &str| ask(&url, request).0.split(' ').nth(1).expect("a status").to_owned();
    let post = |body: &str| {
        let length = body.len();
        let head = "POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length:";
        ask(&url, &format!("{head} {length}\r\n\r\n{body}"))
    };
    audited(&installation, "");
    let server = installation.start();
    server.wait_event(&["audit checkpoint"]);
    assert_eq!(server.stop().0, Some(0));
    let note = fs::read_to_string(installation.path().join("audit/checkpoint")).expect("a note");

    let (head, body) = post(&format!("old 1\n\n{note}"));
    assert!(head.contains(" 409 ") && head.contains("text/x.tlog.size"), "{head}");
    assert_eq!(body, "0\n");
    let (head, line) = post(&format!("old 0\n\n{note}"));
    assert!(head.contains(" 200 ") && line.starts_with(&format!("\u{2014} {WITNESS} ")), "{head}");
    for (body, expected) in [
        ("nonsense".to_owned(), " 400 "),
        (format!("old 0\n\n{}", note.replace(ORIGIN, "other.example")), " 404 "),
        (format!("old 0\n\n{}", note.replacen("\n", "\n1", 1)), " 403 "),
        (format!("old 0\n\n{note}"), " 409 "),
    ] {
        let (head, answer) = post(&body);
        assert!(head.contains(expected), "{expected}: {head} {answer}");
    }
    assert_eq!(status("GET /add-checkpoint HTTP/1.1\r\nHost: w\r\n\r\n"), "405");
    assert_eq!(status("GET /metrics HTTP/1.1\r\nHost: w\r\n\r\n"), "404");
    assert_eq!(status("POST /block HTTP/1.1\r\nHost: w\r\nContent-Length: 0\r\n\r\n"), "405");
    assert_eq!(status("GET / HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: x\r\n\r\n"), "501");
    let hash = ring::digest::digest(&ring::digest::SHA256, ORIGIN.as_bytes());
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let (head, shown) = ask(&url, &format!("GET /{hash}/checkpoint HTTP/1.1\r\nHost: w\r\n\r\n"));
    assert!(head.contains(" 200 "), "{head}");
    assert_eq!(shown, format!("{note}{line}"));
    // A state that cannot be read is not taken for none.
    assert_eq!(witness.stop().0, Some(0));
    fs::write(of_witness.path().join("state/witness.json"), "{").expect("written");
    let config = of_witness.config_file();
    let refused = xksd(&["serve", "--config", text(&config)]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("witness.json"), "{refused:?}");
}

#[test]
fn syslog_gets_each_checkpoint_on_one_line_and_its_absence_alarms() {
    let installation = Installation::default();
    new_key(&installation, "audit-key", ["--origin", ORIGIN]);
    let socket = installation.path().join("log");
    audited(&installation, &format!("syslog = \"{}\"", text(&socket)));
    let server = installation.start();
    server.wait_event(&["does not take checkpoints"]);
    assert_eq!(server.metric("xksd_audit_checkpoint_sent{to=\"syslog\"}"), 0.0);
    Api::new(&installation, &server).round_trip("foo");
    assert_eq!(server.stop().0, Some(0));

    let daemon = UnixDatagram::bind(&socket).expect("bound");
    daemon.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    let server = installation.start();
    let mut buffer = [0; 8192];
    let length = daemon.recv(&mut buffer).expect("a checkpoint");
    let line = std::str::from_utf8(&buffer[..length]).expect("text");
    assert!(line.is_ascii() && !line.contains('\n'), "{line}");
    let words: Vec<&str> = line.splitn(8, ' ').collect();
    assert_eq!((words[0], words[3], words[5], words[6]), ("<85>1", "xksd", "checkpoint", "-"));
    assert_eq!(words[4], server.pid().to_string());
    let note = words[7].strip_prefix("audit checkpoint ").expect("a checkpoint");
    let note: String = serde_json::from_str(note).expect("a JSON string");
    let kept = installation.write("kept", &format!("{note}\n"));
    assert_eq!(server.stop().0, Some(0));
    let (code, told) = verify(&installation, &["--against", text(&kept)]);
    assert_eq!(code, Some(0), "{told}");
}
