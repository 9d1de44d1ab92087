//! `[audit]` and `[witness]` change by a reload, under load: no record is lost, and what a witness
//! has seen is not forgotten.

use std::collections::HashMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use test_harness::api::{encrypt_body, request_id};
use test_harness::wire::Wire;
use test_harness::{Config, Installation, Request, Server, eventually};

use super::admin::is_closed;
use super::witness::{
    ORIGIN, WITNESS, ask, asks, audited, new_key, sent, text, url_of, verify, with_sections,
    witness_section, xksd,
};

/// kmsRequestIds that were answered with success.
type Answered = Mutex<Vec<String>>;

/// Asks over two connections while `change` runs; gives what was answered.
fn under_load(
    installation: &Installation,
    server: &Server,
    change: impl FnOnce(&Answered),
) -> Vec<String> {
    let (answered, ended) = (Answered::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut wire = Wire::connect_with(&installation.client(), server).expect("open");
                while !ended.load(Ordering::Acquire) {
                    let id = request_id();
                    let mut body = encrypt_body(b"text", &json!({}));
                    body["requestMetadata"]["kmsRequestId"] = json!(id);
                    let path = "/one/kms/xks/v1/keys/foo/encrypt";
                    let answer = wire.call(&Request::new(server, path, &body));
                    if answer.status == 200 {
                        answered.lock().expect("whole").push(id);
                    } else {
                        // On a slow disk some records are too late.
                        assert!(answer.message().contains("audit trail"), "{answer:?}");
                    }
                }
            });
        }
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| change(&answered)));
        ended.store(true, Ordering::Release);
        changed.unwrap_or_else(|why| std::panic::resume_unwind(why));
    });
    answered.into_inner().expect("whole")
}

/// Until so many more were answered.
fn more(answered: &Answered, count: usize) {
    let before = answered.lock().expect("whole").len();
    eventually("answers", || answered.lock().expect("whole").len() > before + count);
}

/// Of the trail, how often each kmsRequestId is in it.
fn records(installation: &Installation) -> HashMap<String, usize> {
    let file = installation.path().join("audit/records/0000000000.jsonl");
    let mut found = HashMap::new();
    for line in fs::read_to_string(file).expect("records").lines() {
        let record: Value = serde_json::from_str(line).expect("JSON");
        if let Some(id) = record["kmsRequestId"].as_str() {
            *found.entry(id.to_owned()).or_default() += 1;
        }
    }
    found
}

/// The level and message of each event that tells of a change by a reload.
fn told(log: &[String]) -> Vec<(String, String)> {
    let event = |line: &String| {
        let json: Value = serde_json::from_str(line).ok()?;
        let message = json["message"].as_str()?.strip_prefix("reload: ")?;
        Some((json["level"].as_str()?.to_owned(), message.to_owned()))
    };
    log.iter().filter_map(event).collect()
}

fn reload(installation: &Installation) -> String {
    let (code, said) = installation.reload(&[]);
    assert_eq!(code, Some(0), "{said}");
    said
}

#[test]
fn a_trail_changes_under_load_and_has_every_record() {
    let installation = Installation::default();
    let verifier = new_key(&installation, "audit-key", ["--origin", ORIGIN]);
    let witness = Installation::default();
    let key = new_key(&witness, "witness-key", ["--witness", WITNESS]);
    let cosigner = witness.start();
    let late = "durability = \"interval\"\ninterval_ms = 60000";
    audited(&installation, late);
    let server = installation.start();

    let socket = installation.path().join("log");
    let daemon = UnixDatagram::bind(&socket).expect("bound");
    daemon.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    let answered = under_load(&installation, &server, |answered| {
        for settings in [
            "",
            late,
            "when_unwritable = \"continue\"",
            "durability = \"interval\"\ninterval_ms = 10\nretention_days = 1",
            &format!("syslog = \"{}\"", text(&socket)),
        ] {
            more(answered, 20);
            audited(&installation, settings);
            reload(&installation);
        }
        more(answered, 20);
        assert!(daemon.recv(&mut [0; 8192]).expect("a checkpoint") > 0);
        // The witness is added there and here, while both run.
        with_sections(&witness, &witness_section(WITNESS, "witness-key", &verifier));
        reload(&witness);
        asks(&installation, &url_of(&cosigner, WITNESS), &key);
        let said = reload(&installation);
        assert!(said.contains("audit.witness is [\"url http://127.0.0.1:"), "{said}");
        server.wait_event(&["audit witness", WITNESS, "cosigns"]);
        assert_eq!(sent(&server), 1.0);
        eventually("kept", || verify(&installation, &[]).0 == Some(0));
        more(answered, 20);
        audited(&installation, late);
        reload(&installation);
        more(answered, 20);
    });
    assert!(server.status()["audit"]["checkpoint_sent"].as_object().expect("map").is_empty());
    let (code, log) = server.stop();
    assert_eq!(code, Some(0));
    let warned: Vec<String> =
        told(&log).into_iter().filter(|it| it.0 == "warn").map(|it| it.1).collect();
    for line in [
        "audit.durability is \"interval\", was \"answer\"",
        "audit.when_unwritable is \"continue\", was \"refuse\"",
        "audit.retention_days is 1, was 0",
        "audit.syslog is left out now",
        "audit.witness is left out now",
    ] {
        assert!(warned.iter().any(|warning| warning == line), "{line}: {warned:?}");
    }
    assert!(warned.iter().all(|line| !line.contains("is \"answer\"")), "{warned:?}");

    let records = records(&installation);
    let missing = answered.iter().filter(|id| records.get(*id) != Some(&1)).count();
    assert_eq!(missing, 0, "of {}", answered.len());
    let (code, report) = verify(&installation, &["--witness", &key]);
    assert_eq!(code, Some(0), "{report}");
}

#[test]
fn a_trail_begins_under_load_and_ends_by_a_start_only() {
    let installation = Installation::default();
    new_key(&installation, "audit-key", ["--origin", ORIGIN]);
    let server = installation.start();
    assert!(server.status()["audit"].is_null());

    // Where it cannot be, all stays as it was.
    let taken = installation.write("audit", "a file");
    audited(&installation, "");
    let (code, said) = installation.reload(&[]);
    assert!(code == Some(1) && said.contains("audit: "), "{said}");
    assert!(server.status()["audit"].is_null());
    fs::remove_file(taken).expect("removed");

    let mut since = 0;
    let answered = under_load(&installation, &server, |answered| {
        more(answered, 20);
        let said = reload(&installation);
        assert!(said.contains("audit.directory is "), "{said}");
        // Also what was under way.
        since = answered.lock().expect("whole").len() + 2;
        more(answered, 50);
    });
    let records_before = server.metric("xksd_audit_records");
    assert!(records_before > 0.0);

    // It goes on where it is and under its name.
    new_key(&installation, "other-key", ["--origin", "other.example"]);
    let config = installation.config_file();
    let text = fs::read_to_string(&config).expect("text");
    let other = text.replace("directory = \"audit\"", "directory = \"other\"");
    let other = other.replace("secrets/audit-key", "secrets/other-key");
    installation.write("xksd.toml", &other.replace(ORIGIN, "other.example"));
    let said = reload(&installation);
    for key in ["directory is", "signing_key changed", "origin is"] {
        let line = format!("audit.{key}");
        let waits = |said: &str| said.starts_with(&line) && said.contains("next start only");
        assert!(said.lines().any(waits), "{key}: {said}");
    }
    installation.configure(&Config::default());
    assert!(installation.reload(&[]).1.contains("--accept-loss-of-audit"));
    installation.write("xksd.toml", &text);
    reload(&installation);
    assert!(server.metric("xksd_audit_records") >= records_before);
    assert_eq!(server.stop().0, Some(0));

    let records = records(&installation);
    let missing = answered[since..].iter().filter(|id| records.get(*id) != Some(&1)).count();
    assert_eq!(missing, 0, "of {}", answered.len() - since);
    let (code, report) = verify(&installation, &[]);
    assert_eq!(code, Some(0), "{report}");
    let first = fs::read_to_string(installation.path().join("audit/records/0000000000.jsonl"));
    assert!(first.expect("text").lines().next().expect("one").contains("\"kind\":\"start\""));
}

/// No file of this server may grow beyond so many bytes, as on a full disk.
fn limit_files(server: &Server, bytes: &str) {
    let (pid, limit) = (server.pid().to_string(), format!("--fsize={bytes}:"));
    let set = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(set.expect("util-linux").success());
}

#[test]
fn a_trail_that_cannot_be_written_does_not_begin_and_does_not_end_the_service() {
    let installation = Installation::default();
    new_key(&installation, "audit-key", ["--origin", ORIGIN]);
    let server = installation.start();
    let mut wire = Wire::connect_with(&installation.client(), &server).expect("open");
    let mut encrypt = || {
        let body = encrypt_body(b"text", &json!({}));
        wire.call(&Request::new(&server, "/one/kms/xks/v1/keys/foo/encrypt", &body)).status
    };
    limit_files(&server, "0");
    audited(&installation, "");
    let (code, said) = installation.reload(&[]);
    let why = said.contains("audit cannot be written: File too large");
    assert!(code == Some(1) && why, "{said}");
    assert_eq!(encrypt(), 200);
    assert!(server.status()["audit"].is_null());

    limit_files(&server, "unlimited");
    reload(&installation);
    assert_eq!(encrypt(), 200);

    // The disk is full later: who asks is told, and by what the service is to go on.
    limit_files(&server, "0");
    assert_eq!(encrypt(), 500);
    server.wait_event(&["the audit trail cannot be written", "when_unwritable = \"continue\""]);
    assert_eq!(server.metric("xksd_audit_writable"), 0.0);
    let status = xksd(&["status", "--config", text(&installation.config_file())]);
    let shown = String::from_utf8_lossy(&status.stdout);
    assert!(shown.contains("THE AUDIT TRAIL CANNOT BE WRITTEN: File too large"), "{shown}");
    audited(&installation, "when_unwritable = \"continue\"");
    reload(&installation);
    assert_eq!(encrypt(), 200);
    limit_files(&server, "unlimited");
    server.wait_event(&["the audit trail can be written again; nothing is missing"]);
    assert_eq!(server.stop().0, Some(0));
    assert_eq!(verify(&installation, &[]).0, Some(0));
}

#[test]
fn a_witness_changes_its_name_and_place_and_remembers_what_it_has_seen() {
    const RENAMED: &str = "xks.bank.example/witness-c";
    const AGAIN: &str = "xks.bank.example/witness-d";
    let installation = Installation::default();
    let verifier = new_key(&installation, "audit-key", ["--origin", ORIGIN]);
    audited(&installation, "");
    let server = installation.start();
    let witness = Installation::default();
    let key = new_key(&witness, "witness-key", ["--witness", WITNESS]);
    let new = new_key(&witness, "new-key", ["--witness", RENAMED]);
    new_key(&witness, "last-key", ["--witness", AGAIN]);

    let cosigner = witness.start();
    let set = |section: &str| {
        with_sections(&witness, section);
        reload(&witness)
    };
    set(&witness_section(WITNESS, "witness-key", &verifier));
    let url = url_of(&cosigner, WITNESS);
    asks(&installation, &url, &key);
    reload(&installation);
    server.wait_event(&["audit witness", WITNESS, "cosigns"]);

    // Another name and key, in the same place: whoever asks it goes on from what it has seen.
    let said = set(&witness_section(RENAMED, "new-key", &verifier));
    assert!(said.contains(RENAMED) && said.contains("witness.signing_key changed"), "{said}");
    asks(&installation, &url, &new);
    reload(&installation);
    server.wait_event(&["audit witness", RENAMED, "cosigns"]);

    // A place that is taken: all stays.
    let section = witness_section(AGAIN, "last-key", &verifier);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("one");
    let there = taken.local_addr().expect("bound").to_string();
    with_sections(&witness, &section.replace("127.0.0.1:0", &there));
    let (code, said) = witness.reload(&[]);
    assert!(code == Some(1) && said.contains("witness.listen: cannot listen on"), "{said}");
    assert!(ask(&url, "GET / HTTP/1.1\r\nHost: w\r\n\r\n").0.contains(" 404 "));

    // Gone, and there again elsewhere.
    set("");
    let port = url.rsplit(':').next().expect("a port").parse().expect("a number");
    eventually("it is closed", || is_closed(port));
    let gone = ("warn".to_owned(), "witness.listen is left out now".to_owned());
    eventually("a warning", || told(&cosigner.log()).contains(&gone));
    set(&section);
    let url = url_of(&cosigner, AGAIN);
    let note = fs::read_to_string(installation.path().join("audit/checkpoint")).expect("a note");
    let body = format!("old 0\n\n{note}");
    let length = body.len();
    let head = format!("POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: {length}");
    let (head, size) = ask(&url, &format!("{head}\r\n\r\n{body}"));
    assert!(head.contains(" 409 "), "{head}");
    assert!(size.trim_end().parse::<u64>().expect("a size") > 1, "{size}");
}
