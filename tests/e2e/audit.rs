//! The audit trail of the real server: what stands in it, and that no answer leaves without.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};
use test_harness::api::{b64, decrypt_body, encrypt_body, name, request_id, with};
use test_harness::config::{key, key_store};
use test_harness::hsm_sim::KEY;
use test_harness::wire::Wire;
use test_harness::{A, Api, Config, Installation, Request, Server, programs};
use xksd::limits::AUDIT_UNAUTHENTICATED_RECORDS_MAX;
use xksd::telemetry::names;

const ORIGIN: &str = "xks.bank.example/site-a";

/// An installation with a trail of this configuration, and its verifier key.
fn audited(more: &str) -> (Installation, String) {
    let installation = Installation::default();
    let key = installation.path().join("secrets/audit-key");
    let made = xksd(&["audit", "key", "new", "--origin", ORIGIN, "--write-secret", text(&key)]);
    assert!(made.status.success(), "{made:?}");
    installation.configure(&with_trail(more, Config::default()));
    (installation, String::from_utf8(made.stdout).expect("text").trim().to_owned())
}

fn with_trail(more: &str, config: Config) -> Config {
    let admin = format!(
        "{}\n\n[audit]\ndirectory = \"audit\"\nsigning_key = {{ file = \"secrets/audit-key\" }}\n\
         origin = \"{ORIGIN}\"\n{more}",
        config.admin
    );
    Config { admin, ..config }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn xksd(arguments: &[&str]) -> Output {
    Command::new(programs::xksd()).args(arguments).output().expect("runs")
}

fn audit(installation: &Installation, command: &[&str]) -> Output {
    let config = installation.config_file();
    xksd(&[&["audit"], command, &["--config", text(&config)]].concat())
}

fn records(installation: &Installation) -> Vec<Value> {
    let file = installation.path().join("audit/records/0000000000.jsonl");
    let lines = fs::read_to_string(file).expect("records");
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// An encrypt with this kmsRequestId.
fn encryption(id: &str) -> Value {
    let mut body = encrypt_body(b"text", &json!({}));
    body["requestMetadata"]["kmsRequestId"] = json!(id);
    body
}

fn of_kind<'a>(records: &'a [Value], kind: &str) -> Vec<&'a Value> {
    records.iter().filter(|record| record["kind"] == kind).collect()
}

#[test]
fn an_hsm_that_hangs_is_named_and_not_the_trail() {
    let (installation, _) = audited("");
    let hsm = installation.hsm("hsm", "");
    let key_manager = hsm.key_manager(2);
    let key_store = key_store("/one", "key_manager = [\"hsm\"]", &[&A], &key(KEY, ""));
    installation.configure(&with_trail(
        "",
        Config { key_managers: key_manager, key_stores: key_store, ..Config::default() },
    ));
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    api.round_trip(KEY);
    hsm.control("hang = \"*\"");
    let call = format!("keys/{KEY}/encrypt");
    let error = api.error(&call, &encrypt_body(b"text", &json!({})));
    assert_eq!(error, name(503, "DependencyTimeoutException"));
    hsm.heal();
}

#[test]
fn what_happened_stands_in_the_trail_and_others_can_verify_it() {
    let (installation, verifier) = audited("");
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let id = request_id();
    let encrypted = api.ok("keys/foo/encrypt", &encryption(&id));
    assert_eq!(api.decrypt("foo", &encrypted, &json!({})), b"text");
    assert_eq!(api.error("keys/nokey/encrypt", &encrypt_body(b"text", &json!({}))).0, 404);
    let tag = json!({"authenticationTag": b64([0; 16])});
    assert_eq!(
        api.error("keys/foo/decrypt", &with(&decrypt_body(&encrypted, &json!({})), &tag)).0,
        400
    );
    let forged = api.request("keys/foo/encrypt", &encryption("forged"));
    let forged = forged.with(|request| request.credential.secret = test_harness::C.secret);
    assert_eq!(api.wire.call(&forged).status, 401);
    api.health();
    assert!(server.reload().ends_with("reloaded"));
    assert_eq!(server.stop().0, Some(0));

    let records = records(&installation);
    let outcomes: Vec<&str> =
        of_kind(&records, "request").iter().map(|r| r["outcome"].as_str().expect("one")).collect();
    assert_eq!(
        outcomes,
        ["success", "success", "KeyNotFoundException", "InvalidCiphertextException"]
    );
    let first = of_kind(&records, "request")[0];
    assert_eq!(first["kmsRequestId"], id);
    assert_eq!((&first["key_store"], &first["key"]), (&json!("/one"), &json!("foo")));
    assert_eq!((&first["operation"], &first["key_version"]), (&json!("encrypt"), &json!(0)));
    assert!(first["principal"].as_str().is_some_and(|arn| arn.starts_with("arn:aws:")));
    for kind in ["start", "stop", "reload", "unauthenticated", "key_manager"] {
        assert_eq!(of_kind(&records, kind).len(), 1, "{kind}");
    }
    assert_eq!(records[0]["kind"], "start");
    assert_eq!(records.last().expect("some")["kind"], "stop");

    let verified = audit(&installation, &["verify", "--json"]);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    let report: Value = serde_json::from_slice(&verified.stdout).expect("JSON");
    assert_eq!((&report["ok"], &report["records"]), (&json!(true), &json!(records.len())));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/verify_trail.py");
    let trail = installation.path().join("audit");
    let python =
        Command::new("python3").args([script, text(&trail), &verifier]).output().expect("python3");
    assert!(python.status.success(), "{python:?}");
    assert_eq!(String::from_utf8_lossy(&python.stdout).trim(), records.len().to_string());

    let found = audit(&installation, &["search", "--kms-request-id", &id]);
    assert_eq!(serde_json::from_slice::<Value>(&found.stdout).expect("a record"), *first);
    assert_eq!(audit(&installation, &["search", "--key", "none"]).status.code(), Some(1));
    let proof = audit(&installation, &["prove", "--kms-request-id", &id]);
    assert!(proof.stdout.starts_with(b"c2sp.org/tlog-proof@v1\nindex "), "{proof:?}");
}

#[test]
fn a_changed_record_is_found_and_not_gone_on_with() {
    let (installation, _) = audited("");
    let server = installation.start();
    Api::new(&installation, &server).round_trip("foo");
    assert_eq!(server.stop().0, Some(0));
    let file = installation.path().join("audit/records/0000000000.jsonl");
    let content = fs::read_to_string(&file).expect("records");
    fs::write(&file, content.replacen("\"decrypt\"", "\"encrypt\"", 1)).expect("written");
    let verified = audit(&installation, &["verify"]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&verified.stdout).contains("WRONG: record"), "{verified:?}");
    // Records taken away are seen at the start, too.
    fs::write(&file, content.lines().next().expect("one").to_owned() + "\n").expect("written");
    let config = installation.config_file();
    let refused = xksd(&["serve", "--config", text(&config)]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("taken away"), "{refused:?}");
}

#[test]
fn what_was_answered_is_in_the_trail_however_the_process_ends() {
    let (installation, _) = audited("");
    let answered = std::sync::Mutex::new(HashSet::new());
    // More of them for a long run: XKSD_KILLS=200 cargo test --test e2e -- however_the_process_ends
    let kills = std::env::var("XKSD_KILLS").map_or(6, |kills| kills.parse().expect("a number"));
    for round in 0..kills {
        let server = installation.start();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| ask_until(&ended, &installation, &server, &answered));
            }
            // After some hundred answers, wherever the writer is then.
            let before = answered.lock().expect("whole").len();
            let wanted = before + 50 + 37 * (round % 16);
            test_harness::eventually("answers", || answered.lock().expect("whole").len() > wanted);
            server.signal(Signal::KILL);
            ended.store(true, Ordering::Release);
        });
        drop(server);
    }
    let server = installation.start();
    assert_eq!(server.stop().0, Some(0));
    let records = records(&installation);
    let ids: HashSet<&str> =
        records.iter().filter_map(|record| record["kmsRequestId"].as_str()).collect();
    let answered = answered.into_inner().expect("whole");
    let missing: Vec<_> = answered.iter().filter(|id| !ids.contains(id.as_str())).collect();
    assert!(missing.is_empty(), "{} of {} lack", missing.len(), answered.len());
    assert_eq!(audit(&installation, &["verify"]).status.code(), Some(0));
}

/// Asks over one connection and notes what was answered, until the server is gone.
fn ask_until(
    ended: &AtomicBool,
    installation: &Installation,
    server: &Server,
    answered: &std::sync::Mutex<HashSet<String>>,
) {
    let Ok(mut wire) = Wire::connect_with(&installation.client(), server) else { return };
    while !ended.load(Ordering::Acquire) {
        let id = request_id();
        let request = Request::new(server, "/one/kms/xks/v1/keys/foo/encrypt", &encryption(&id));
        if wire.try_send(&request.bytes()).is_err() {
            return;
        }
        match wire.try_response() {
            Ok(response) if response.status == 200 => {
                answered.lock().expect("whole").insert(id);
            }
            // On a slow disk some records are too late: those answers are no promise.
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// A trail whose files may not grow beyond some kilobytes, as on a full disk.
fn nearly_full(installation: &Installation) -> Server {
    Server::start(installation, &["prlimit", "--fsize=8192"], |_| ())
}

#[test]
fn a_flood_of_wrong_signatures_has_few_records_and_its_number() {
    let (installation, _) = audited("");
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let count = 10 * u64::from(AUDIT_UNAUTHENTICATED_RECORDS_MAX);
    for _ in 0..count {
        let forged = api.request("keys/foo/encrypt", &encryption("forged"));
        let forged = forged.with(|request| request.credential.secret = test_harness::C.secret);
        assert_eq!(api.wire.call(&forged).status, 401);
    }
    assert_eq!(server.stop().0, Some(0));
    let records = records(&installation);
    let (some, more) =
        (of_kind(&records, "unauthenticated"), of_kind(&records, "unauthenticated_more"));
    // One shard; a minute may have ended meanwhile.
    let most = 2 * AUDIT_UNAUTHENTICATED_RECORDS_MAX as usize;
    assert!(!some.is_empty() && some.len() <= most, "{}", some.len());
    let left_out: u64 = more.iter().map(|record| record["count"].as_u64().expect("one")).sum();
    assert_eq!(some.len() as u64 + left_out, count);
}

#[test]
fn where_no_record_can_be_written_no_key_is_used() {
    let (installation, _) = audited("");
    let server = nearly_full(&installation);
    let mut api = Api::new(&installation, &server);
    let mut refused = None;
    for _ in 0..100 {
        let (status, error) = api.error("keys/foo/encrypt", &encrypt_body(b"text", &json!({})));
        if status != 200 {
            refused = Some((status, error));
            break;
        }
    }
    assert_eq!(refused, Some(name(500, "InternalException")));
    server.wait_event(&["the audit trail cannot be written"]);
    assert!(api.health()["ekmFleetDetails"].is_array(), "health needs no record");
    drop(server);
    let server = installation.start();
    Api::new(&installation, &server).round_trip("foo");
    assert_eq!(server.stop().0, Some(0));
    assert_eq!(audit(&installation, &["verify"]).status.code(), Some(0));
}

#[test]
fn where_it_is_wished_answers_go_on_without_a_record_and_that_is_counted() {
    let (installation, _) =
        audited("durability = \"interval\"\ninterval_ms = 20\nwhen_unwritable = \"continue\"");
    let server = nearly_full(&installation);
    // The record of the start is on disk before there are more than the file takes: a batch is
    // written whole or not at all.
    server.wait_event(&["audit checkpoint"]);
    let mut api = Api::new(&installation, &server);
    for _ in 0..100 {
        api.encrypt("foo", b"text", &json!({}));
    }
    server.wait_event(&["the audit trail cannot be written"]);
    api.round_trip("foo");
    assert_eq!(server.metric("xksd_audit_writable"), 0.0);
    assert!(server.metric("xksd_audit_records") > 0.0);
}

/// Shown only where there is an etcd.
const OF_A_FLEET: &[&str] = &[
    "xksd_fleet_age_seconds",
    "xksd_fleet_connected",
    "xksd_fleet_documents_not_applied",
    "xksd_fleet_instances_away",
    "xksd_fleet_values_refused",
];

/// Here, because some metrics are shown only where there is a trail.
#[test]
fn the_metrics_are_those_that_are_documented() {
    let (installation, _) = audited("");
    let server = installation.start();
    let (_, text) = server.get("/metrics");
    let shown = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut shown: Vec<String> = shown.map(str::to_owned).collect();
    let name_and_kind =
        |metric: &&names::Metric| format!("{} {}", metric.name, metric.kind.as_str());
    let all = names::ALL.iter().filter(|metric| !OF_A_FLEET.contains(&metric.name));
    let mut named: Vec<String> = all.map(name_and_kind).collect();
    shown.sort();
    named.sort();
    // `tests/documents.rs` compares them with docs/metrics.md.
    assert_eq!(shown, named);
}

/// Of a proxy before xksd: in the log and in the record, if it is right, and nothing else changes.
#[test]
fn a_trace_is_in_the_log_and_in_the_record() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (installation, _) = audited("");
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    for (id, trace) in [("t1", TRACE), ("t2", "00-evil\u{e9}")] {
        let request = api.request("keys/foo/encrypt", &encryption(id));
        let response = api.wire.call(&request.header("traceparent", trace));
        assert_eq!(response.status, 200, "{response:?}");
    }
    assert_eq!(server.request_line("t1")["traceparent"], TRACE);
    assert!(server.request_line("t2")["traceparent"].is_null());
    let records = records(&installation);
    let traces: Vec<_> =
        of_kind(&records, "request").iter().map(|record| &record["traceparent"]).collect();
    assert_eq!(traces, [&json!(TRACE), &Value::Null]);
}

#[test]
fn a_trail_without_records_is_not_in_order_beside_cloudtrail() {
    let (installation, _) = audited("");
    let server = installation.start();
    server.stop();
    let key = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    let event = |id: &str| {
        format!(
            r#"{{"eventTime":"2026-11-28T10:00:00Z","eventSource":"kms.amazonaws.com",
            "eventName":"Decrypt","requestID":"{id}","resources":[{{"ARN":"{key}"}}]}}"#
        )
    };
    let export = installation.path().join("export.json");
    std::fs::write(&export, format!(r#"{{"Records":[{},{}]}}"#, event("a"), event("b"))).unwrap();

    let unnamed = audit(&installation, &["search", "--cloudtrail", text(&export)]);
    let said = String::from_utf8_lossy(&unnamed.stderr).into_owned();
    assert_eq!(unnamed.status.code(), Some(1), "{said}");
    assert!(said.contains("2 events are not compared") && said.contains("--kms-key-arn"), "{said}");

    let named = &["search", "--cloudtrail", text(&export), "--kms-key-arn", key];
    let named = audit(&installation, named);
    let printed = String::from_utf8_lossy(&named.stdout).into_owned();
    assert_eq!(named.status.code(), Some(1), "{printed}");
    assert_eq!(printed.matches("only in CloudTrail: ").count(), 2, "{printed}");
}

#[test]
fn a_reload_does_not_end_the_trail_by_omission() {
    let (installation, _) = audited("");
    let server = installation.start();
    installation.configure(&Config::default());
    assert!(server.reload().contains("--accept-loss-of-audit"));
    let (code, said) = installation.reload(&["--accept-loss-of-audit"]);
    assert!(code == Some(0) && said.contains("from the next start only"), "{said}");
    // Until then it goes on.
    assert_eq!(server.status()["audit"]["writable"], true);
}
