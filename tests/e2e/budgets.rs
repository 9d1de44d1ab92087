//! The invocation budget of keys: counted over restarts and crashes, told, and refused beyond.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use test_harness::api::{encrypt_body, name};
use test_harness::config::{key, key_store};
use test_harness::{A, Api, C, Config, Installation, Server, eventually, programs};

/// One key may encrypt so often.
const ALL: u64 = 1 << 32;
/// The smallest block.
const BLOCK: u64 = 1 << 16;

/// Two key stores whose keys are one key in the key manager, the first with this more.
fn one_key(more: &str) -> Config {
    let managers = "key_manager = [\"local\"]";
    let first = key_store("/one", &format!("{managers}\n{more}"), &[&A], &key("foo", ""));
    let second = key_store("/two", managers, &[&C], &key("bar", "label = \"foo\""));
    Config { key_stores: [first, second].concat(), ..Config::default() }
}

fn encrypt(api: &mut Api, id: &str, count: u64) {
    (0..count).for_each(|_| drop(api.encrypt(id, b"text", &json!({}))));
}

/// What `/status` says of the only key of the first key store.
fn budget(server: &Server) -> Value {
    server.status()["key_stores"][0]["key_versions"][0]["versions"][0]["budget"].clone()
}

fn used(server: &Server) -> u64 {
    budget(server)["used"].as_u64().expect("a number")
}

fn file(installation: &Installation) -> std::path::PathBuf {
    installation.path().join("state/encryptions.json")
}

/// What the file says of `foo`.
fn on_disk(installation: &Installation) -> u64 {
    let text = fs::read_to_string(file(installation)).expect("a file");
    let saved: Value = serde_json::from_str(&text).expect("JSON");
    let keys = saved["keys"].as_array().expect("keys");
    let key = keys.iter().find(|key| key["label"] == "foo").expect("foo");
    key["encryptions"].as_u64().expect("a number")
}

/// As if `foo` had encrypted so often.
fn save(installation: &Installation, encryptions: u64) {
    let state = installation.path().join("state");
    fs::create_dir_all(&state).expect("made");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).expect("set");
    let key = json!({"key_managers": ["local"], "label": "foo", "encryptions": encryptions,
        "counted_since": 0});
    let saved = json!({"version": 1, "keys": [key]});
    fs::write(file(installation), saved.to_string()).expect("written");
}

/// What a command says.
fn xksd(installation: &Installation, command: &str) -> String {
    let config = installation.config_file();
    let mut xksd = Command::new(programs::xksd());
    let output = xksd.arg(command).arg("--config").arg(config).output().expect("runs");
    String::from_utf8(output.stdout).expect("text")
}

fn refused(api: &mut Api) -> (u16, String) {
    api.error("keys/foo/encrypt", &encrypt_body(b"text", &json!({})))
}

#[test]
fn key_stores_with_one_key_have_one_budget_which_a_stop_settles() {
    let installation = Installation::new(&one_key(""));
    let server = installation.start();
    assert_eq!(budget(&server)["share"], ALL);
    let mut one = Api::new(&installation, &server);
    let mut two = Api { prefix: "/two", credential: C, ..Api::new(&installation, &server) };
    encrypt(&mut one, "foo", 70);
    encrypt(&mut two, "bar", 30);
    let two_says = server.status()["key_stores"][1]["key_versions"][0]["versions"][0].clone();
    assert_eq!(two_says["budget"]["used"], used(&server));
    assert!((100..200).contains(&used(&server)), "{}", used(&server));
    assert!(on_disk(&installation) >= BLOCK, "reserved before it is used");
    let made = api_decrypts(&mut one);
    let (code, _) = server.stop();
    assert_eq!((code, on_disk(&installation)), (Some(0), 100 + made));
    let said = xksd(&installation, "keys");
    assert!(said.contains(&format!("\"foo\" has encrypted up to {} times", 100 + made)), "{said}");
    let server = installation.start();
    assert_eq!(used(&server), 100 + made);
}

/// A decrypt does not count, nor what is refused; gives what does.
fn api_decrypts(api: &mut Api) -> u64 {
    api.round_trip("foo");
    let made = api.encrypt("foo", b"text", &json!({}));
    let other = json!({"ciphertext": test_harness::api::b64(b"tex?")});
    assert_eq!(api.decrypt_error("foo", &made, &other).1, "InvalidCiphertextException");
    2
}

#[test]
fn a_crash_counts_a_block_too_many_and_never_too_few() {
    let installation = Installation::new(&one_key(""));
    let (mut made, mut crashes) = (0, 0);
    for count in [3, 0, 200, 90] {
        let mut server = installation.start();
        let before = used(&server);
        assert!(before >= made && before <= made + crashes * BLOCK, "{before} of {made}");
        encrypt(&mut Api::new(&installation, &server), "foo", count);
        made += count;
        server.kill();
        crashes += 1;
    }
    assert!(on_disk(&installation) >= made);
}

#[test]
fn a_crash_under_load_counts_all_that_was_answered() {
    let installation = Installation::new(&one_key(""));
    let answered = AtomicU64::new(0);
    for round in 1..=3 {
        let mut server = installation.start();
        let mut clients = [(); 4].map(|()| Api::new(&installation, &server));
        std::thread::scope(|scope| {
            for api in &mut clients {
                scope.spawn(|| {
                    // Its connection ends in the middle of a request.
                    let _ = catch_unwind(AssertUnwindSafe(|| {
                        loop {
                            encrypt(api, "foo", 1);
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                    }));
                });
            }
            eventually("load", || answered.load(Ordering::SeqCst) > round * 300);
            server.kill();
        });
        let (least, counted) = (answered.load(Ordering::SeqCst), on_disk(&installation));
        assert!(counted >= least && counted <= least + round * 2 * BLOCK, "{counted} of {least}");
    }
}

/// Encrypts until the server is gone, with many requests after one another: the same one, whose
/// signature holds for minutes. `answered` counts.
fn encrypt_until_it_is_gone(api: &mut Api, answered: &AtomicU64) {
    let request = api.request("keys/foo/encrypt", &encrypt_body(b"text", &json!({}))).bytes();
    let many = request.repeat(16);
    while api.wire.try_send(&many).is_ok() {
        for _ in 0..16 {
            let Ok(response) = api.wire.try_response() else { return };
            match response.error() {
                (200, _) => answered.fetch_add(1, Ordering::SeqCst),
                // Too late, where the machine is busy.
                (503, _) => continue,
                other => panic!("{other:?}"),
            };
        }
    }
}

/// Beyond the first block, which the start reserves, a key encrypts with what is reserved under its
/// requests. Where none was, it would be refused; where the disk had it later, a crash would count
/// too few.
#[test]
fn the_next_block_is_reserved_before_the_first_is_used_up() {
    let config = one_key("invocation_budget = \"refuse\"");
    let installation = Installation::new(&config);
    let answered = AtomicU64::new(0);
    for _ in 0..2 {
        let mut server = installation.start();
        // A line of each request would be kept by this test.
        installation.configure(&config.clone().server("log_level = \"error\""));
        assert!(xksd(&installation, "reload").contains("log_level"));
        installation.configure(&config);
        let first = on_disk(&installation);
        let before = used(&server);
        assert!(before >= answered.load(Ordering::SeqCst) && first <= before + BLOCK, "{before}");
        // So many more than the start has reserved.
        let beyond = answered.load(Ordering::SeqCst) + BLOCK + BLOCK / 8;
        let mut api = Api::new(&installation, &server);
        let fewer = std::thread::scope(|scope| {
            let client = scope.spawn(|| encrypt_until_it_is_gone(&mut api, &answered));
            let mut fewer = None;
            while fewer.is_none() && !client.is_finished() {
                let made = answered.load(Ordering::SeqCst);
                if made >= beyond {
                    break;
                }
                fewer = Some((on_disk(&installation), made)).filter(|(counted, _)| *counted < made);
                std::thread::sleep(Duration::from_millis(10));
            }
            server.kill();
            fewer
        });
        assert_eq!(fewer, None);
        let (least, counted) = (answered.load(Ordering::SeqCst), on_disk(&installation));
        assert!(counted > first && counted >= least, "{counted} of {least}");
        assert!(least >= beyond, "{least} of {beyond}");
    }
}

#[test]
fn thresholds_are_told_once() {
    let installation = Installation::new(&one_key("").server("instances = 2"));
    save(&installation, ALL / 2 / 4 * 3 - 100);
    let server = installation.start();
    server.wait_event(&["50 % of the invocation budget of the key \"foo\"", "rotate it"]);
    assert_eq!(budget(&server)["share"], ALL / 2);
    encrypt(&mut Api::new(&installation, &server), "foo", 200);
    let said = server.wait_event(&["75 % of the invocation budget"]);
    assert!(said.contains("key \"foo\" of key store \"/one\""), "{said}");
    let shown = xksd(&installation, "status");
    assert!(shown.contains("key \"foo\": version 0 has used 75.0 % of its"), "{shown}");
    let ratio = server.metric("xksd_key_budget_used_ratio_max");
    assert!((0.75..0.76).contains(&ratio), "{ratio}");
    let label = "xksd_key_budget_used_ratio{key_manager=\"local\",label=\"foo\",version=\"\"}";
    assert_eq!(server.metric(label), ratio);
    // A larger share, and the smaller one again.
    installation.configure(&one_key(""));
    server.reload();
    eventually("another share", || budget(&server)["percent"].as_f64() < Some(50.0));
    let (_, lines) = server.stop();
    for percent in ["50 % of", "75 % of"] {
        assert_eq!(lines.iter().filter(|line| line.contains(percent)).count(), 1, "{percent}");
    }
}

#[test]
fn beyond_its_budget_a_key_refuses_where_that_is_asked_for_and_decrypts() {
    let installation = Installation::new(&one_key("invocation_budget = \"refuse\""));
    save(&installation, ALL - 100);
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let made = api.encrypt("foo", b"text", &json!({}));
    eventually("its end", || {
        let answer = api.call("keys/foo/encrypt", &encrypt_body(b"text", &json!({})));
        answer.status != 200
    });
    assert_eq!(refused(&mut api), name(400, "InvalidStateException"));
    assert_eq!(used(&server), ALL);
    assert_eq!(api.decrypt("foo", &made, &json!({})), b"text");
    server.wait_event(&["100 % of the invocation budget"]);
    // The other key store only warns.
    let mut two = Api { prefix: "/two", credential: C, ..Api::new(&installation, &server) };
    two.round_trip("bar");
    // A reload ends it.
    installation.configure(&one_key(""));
    server.reload();
    encrypt(&mut api, "foo", 1);
    assert!(used(&server) > ALL);
}

#[test]
fn a_state_directory_that_cannot_be_written_stops_nothing_and_is_told() {
    let installation = Installation::new(&one_key(""));
    save(&installation, 7);
    // The file is written beside and renamed: a directory in its way, also for root.
    let in_the_way = installation.path().join("state/encryptions.new");
    fs::create_dir(&in_the_way).expect("made");
    let server = installation.start();
    encrypt(&mut Api::new(&installation, &server), "foo", 10);
    server.wait_event(&["the encryptions of keys cannot be saved", "encryptions.json"]);
    server.wait_event(&["after a crash too few would be counted"]);
    assert_eq!(server.metric("xksd_key_budgets_unsaved"), 1.0);
    assert_eq!(on_disk(&installation), 7);
    fs::remove_dir(&in_the_way).expect("removed");
    server.wait_event(&["can be saved again"]);
    assert!(on_disk(&installation) > BLOCK);
    assert_eq!(server.metric("xksd_key_budgets_unsaved"), 0.0);
}

#[test]
fn what_cannot_be_counted_is_refused_where_that_is_asked_for() {
    let installation = Installation::new(&one_key("invocation_budget = \"refuse\""));
    save(&installation, 7);
    let in_the_way = installation.path().join("state/encryptions.new");
    fs::create_dir(&in_the_way).expect("made");
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    assert_eq!(refused(&mut api), name(500, "InternalException"));
    assert!(api.health()["ekmFleetDetails"].is_array());
    fs::remove_dir(&in_the_way).expect("removed");
    server.wait_event(&["can be saved again"]);
    api.round_trip("foo");
}

#[test]
fn a_file_that_cannot_be_read_is_not_an_empty_one() {
    let installation = Installation::new(&one_key(""));
    save(&installation, 7);
    for wrong in ["", "{\"version\":1,\"keys\":[{}]}", "{\"version\":2,\"keys\":[]}"] {
        fs::write(file(&installation), wrong).expect("written");
        let mut command = Command::new(programs::xksd());
        command.arg("serve").arg("--config").arg(installation.config_file());
        let output = command.output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(said.contains("encryptions.json of the state directory cannot be read"), "{said}");
    }
}

#[test]
fn quotas_bound_what_was_not_counted() {
    let quota = "quota = { requests_per_second = 1, burst = 1 }";
    let key = key(
        "foo",
        "[[keystore.key.version]]\nnumber = 0\nlabel = \"foo\"\nstate = \"primary\"\n\
         promoted = 2026-01-01T00:00:00Z",
    );
    let managers = format!("key_manager = [\"local\"]\n{quota}");
    let key_stores = key_store("/one", &managers, &[&A], &key);
    let installation = Installation::new(&Config { key_stores, ..Config::default() });
    let server = installation.start();
    let budget = budget(&server);
    assert_eq!(budget["since_promoted"], true);
    // More than a month of a request a second, each tried twice.
    assert!(budget["used"].as_u64() > Some(2 * 86_400 * 30), "{budget}");
}
