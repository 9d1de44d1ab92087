//! Two instances that share an etcd, or know each other as peers.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use rcgen::KeyPair;
use serde_json::{Value, json};
use test_harness::api::{encrypt_body, name};
use test_harness::pki::{Ca, Leaf};
use test_harness::{Api, Config, Etcd, Installation, Server, b64, eventually, programs};

const SECRET: &str = "DAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const BLOCKS: &str = "/xksd/test/documents/blocks";

pub(super) fn config(fleet: &str) -> Config {
    let config = Config::default();
    let admin = format!("{}\n\n[fleet]\n{fleet}", config.admin);
    // Not the 2 that register: the size says 2 only when etcd has said so.
    Config { admin, ..config }.server("instances = 3")
}

pub(super) fn in_etcd(etcd: &Etcd, name: &str) -> Config {
    config(&format!(
        "name = \"{name}\"\nsecret = {{ file = \"secrets/fleet\" }}\netcd = {{ endpoints = \
         [\"{}\"], prefix = \"/xksd/test\" }}",
        etcd.url()
    ))
}

pub(super) fn installation(etcd: &Etcd, name: &str) -> Installation {
    let installation = Installation::default();
    installation.write("secrets/fleet", SECRET);
    installation.configure(&in_etcd(etcd, name));
    installation
}

fn xksd(installation: &Installation, arguments: &[&str]) -> Output {
    let config = installation.config_file();
    let mut command = Command::new(programs::xksd());
    command.args(arguments).arg("--config").arg(config).output().expect("runs")
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(text).expect("text")
}

pub(super) fn done(installation: &Installation, arguments: &[&str]) -> String {
    let output = xksd(installation, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

pub(super) fn failed(installation: &Installation, arguments: &[&str]) -> String {
    let output = xksd(installation, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", said(&output));
    said(&output)
}

const BLOCK: &[&str] = &["block", "--fleet", "--key-store", "/one", "--reason", "case 7"];
const UNBLOCK: &[&str] = &["unblock", "--fleet", "--key-store", "/one", "--reason", "solved"];

fn is_blocked(installation: &Installation, server: &Server) -> bool {
    let mut api = Api::new(installation, server);
    let outcome = api.error("keys/foo/encrypt", &encrypt_body(b"text", &json!({})));
    outcome == name(400, "InvalidStateException")
}

fn serves(installation: &Installation, server: &Server) {
    Api::new(installation, server).round_trip("foo");
}

pub(super) fn both_registered(server: &Server) {
    eventually("etcd answers", || server.metric("xksd_fleet_connected") == 1.0);
    eventually("both are registered", || server.metric("xksd_fleet_size") == 2.0);
}

#[test]
fn a_block_reaches_all_and_outlives_etcd() {
    let mut etcd = Etcd::start();
    let (a, b) = (installation(&etcd, "a"), installation(&etcd, "b"));
    let (server_a, mut server_b) = (a.start(), b.start());
    both_registered(&server_a);
    both_registered(&server_b);
    assert_eq!(Api::new(&a, &server_a).health()["xksProxyFleetSize"], 2);

    let text = done(&a, BLOCK);
    assert_eq!(text, "key store \"/one\" is blocked in the fleet. 2 instances have confirmed\n");
    assert!(is_blocked(&a, &server_a) && is_blocked(&b, &server_b), "at once, on both");
    assert!(done(&b, &["blocks"]).contains("key store \"/one\" in the fleet, since"));
    let here = failed(&b, &["unblock", "--key-store", "/one", "--reason", "x"]);
    assert!(here.contains("run `xksd unblock --fleet`"), "{here}");
    assert!(!etcd.get(BLOCKS).expect("there").windows(4).any(|w| w == b"/one"), "sealed");

    etcd.kill();
    eventually("it is seen", || server_a.metric("xksd_fleet_connected") == 0.0);
    assert!(is_blocked(&a, &server_a));
    server_b.kill();
    let server_b = b.start();
    assert!(is_blocked(&b, &server_b), "started without etcd");
    let text = failed(&a, &[BLOCK, &["--key", "foo"]].concat());
    assert!(text.contains("on this instance only"), "{text}");
    assert!(failed(&a, UNBLOCK).contains("connecting to"), "nothing is unblocked here only");
    assert!(is_blocked(&a, &server_a));

    etcd.start_again();
    both_registered(&server_a);
    both_registered(&server_b);
    let text = done(&b, UNBLOCK);
    assert!(text.contains("no longer blocked in the fleet. 2 instances have confirmed"), "{text}");
    serves(&b, &server_b);
    assert!(is_blocked(&a, &server_a), "by its own block of the key");
}

#[test]
fn a_reload_brings_a_fleet_where_there_was_none() {
    let etcd = Etcd::start();
    let (a, b) = (installation(&etcd, "a"), installation(&etcd, "b"));
    a.configure(&Config::default().server("instances = 3"));
    let (server_a, server_b) = (a.start(), b.start());
    assert!(failed(&a, &["fleet", "status"]).contains("no [fleet]"));
    done(&b, BLOCK);
    serves(&a, &server_a);
    a.configure(&in_etcd(&etcd, "a"));
    let said = done(&a, &["reload"]);
    assert!(said.contains("fleet.etcd.endpoints is"), "{said}");
    both_registered(&server_a);
    both_registered(&server_b);
    eventually("the block is there", || is_blocked(&a, &server_a));
    assert!(done(&a, UNBLOCK).contains("2 instances have confirmed"));
}

#[test]
fn what_the_fleet_has_blocked_is_not_forgotten_by_a_fleet_that_is_left_out() {
    let etcd = Etcd::start();
    let a = installation(&etcd, "a");
    let without = Config::default().server("instances = 3");
    let peers = config("name = \"a\"\npeers = [\"http://127.0.0.1:9\"]");
    let server = a.start();
    eventually("etcd answers", || server.metric("xksd_fleet_connected") == 1.0);
    done(&a, BLOCK);
    for other in [&peers, &without] {
        a.configure(other);
        let said = failed(&a, &["reload"]);
        assert!(said.contains("fleet.etcd: missing, and without it"), "{said}");
        assert!(is_blocked(&a, &server));
    }
    drop(server);

    for other in [&peers, &without] {
        a.configure(other);
        let output = xksd(&a, &["serve"]);
        assert_eq!(output.status.code(), Some(2));
        let text = said(&output);
        assert!(text.contains("documents/blocks.sealed says what the fleet has blocked"), "{text}");
    }
    a.configure(&in_etcd(&etcd, "a"));
    let server = a.start();
    assert!(is_blocked(&a, &server));
    drop(server);

    // It leaves.
    a.configure(&without);
    fs::remove_file(a.path().join("state/fleet/documents/blocks.sealed")).expect("there");
    let server = a.start();
    serves(&a, &server);
}

#[test]
fn a_reload_brings_other_members_of_etcd() {
    let (before, after) = (Etcd::start(), Etcd::start());
    let a = installation(&before, "a");
    let server = a.start();
    eventually("etcd answers", || server.metric("xksd_fleet_connected") == 1.0);
    done(&a, BLOCK);
    a.configure(&in_etcd(&after, "other-name"));
    let said = done(&a, &["reload"]);
    assert!(said.contains("fleet.etcd.endpoints is"), "{said}");
    assert!(
        said.contains("fleet.name is \"other-name\", was \"a\": in force from the next"),
        "{said}"
    );
    eventually("it is there", || after.get("/xksd/test/instances/a").is_some());
    let blocks = before.get(BLOCKS).expect("there");
    eventually("it brings what it holds", || after.get(BLOCKS).as_ref() == Some(&blocks));
    assert!(is_blocked(&a, &server));
    assert!(done(&a, UNBLOCK).contains("1 instance has confirmed"));

    // What cannot be used changes nothing.
    a.write("empty.pem", "");
    let text = read(&a, "xksd.toml");
    a.write("xksd.toml", &text.replace("[fleet]\n", "[fleet]\ntrust_anchors = \"empty.pem\"\n"));
    let said = failed(&a, &["reload"]);
    assert!(said.contains("fleet.trust_anchors: "), "{said}");
    assert!(done(&a, BLOCK).contains("1 instance has confirmed"));
}

#[test]
fn what_is_older_or_forged_is_refused_and_put_back() {
    let etcd = Etcd::start();
    let (a, b) = (installation(&etcd, "a"), installation(&etcd, "b"));
    let (server_a, server_b) = (a.start(), b.start());
    both_registered(&server_a);
    done(&a, &[BLOCK, &["--key", "off"]].concat());
    let older = etcd.get(BLOCKS).expect("there");
    done(&a, BLOCK);
    let newest = etcd.get(BLOCKS).expect("there");

    let mut forged = newest.clone();
    *forged.last_mut().expect("bytes") ^= 1;
    for (value, why) in [(older, "it is older"), (forged, "was not sealed"), (Vec::new(), "")] {
        match why {
            "" => etcd.delete(BLOCKS),
            _ => etcd.put(BLOCKS, &value),
        }
        eventually("it is put back", || etcd.get(BLOCKS).as_ref() == Some(&newest));
        assert!(is_blocked(&a, &server_a) && is_blocked(&b, &server_b), "{why}");
        // The other one may have been first to put it back.
        if !why.is_empty() {
            server_a.wait_event(&["is refused", why]);
        }
    }
    eventually("nothing is refused", || server_a.metric("xksd_fleet_values_refused") == 0.0);

    // Nobody registers without the secret.
    etcd.put("/xksd/test/instances/evil", b"anything");
    eventually("it is seen", || server_a.metric("xksd_fleet_values_refused") == 1.0);
    assert_eq!(server_a.metric("xksd_fleet_size"), 2.0);
    drop(server_b);

    // What was changed on the disk is found, and not taken for nothing.
    drop(server_a);
    let kept = a.path().join("state/fleet/documents/blocks.sealed");
    let mut bytes = fs::read(&kept).expect("kept");
    bytes[30] ^= 1;
    fs::write(&kept, bytes).expect("written");
    let output = xksd(&a, &["serve"]);
    assert_eq!(output.status.code(), Some(2));
    let text = said(&output);
    assert!(text.contains("blocks.sealed: it was changed"), "{text}");
}

#[test]
fn files_come_to_all_and_take_effect() {
    let etcd = Etcd::start();
    let (a, b) = (installation(&etcd, "a"), installation(&etcd, "b"));
    let (server_a, server_b) = (a.start(), b.start());
    both_registered(&server_a);
    let permit = a.write("permit.cedar", "@id(\"all\") permit(principal, action, resource);");
    let deny = a.write("deny.cedar", "@id(\"none\") forbid(principal, action, resource);");
    let put = |file: &std::path::Path| {
        xksd(&a, &["fleet", "put", "who.cedar", file.to_str().expect("UTF-8")])
    };
    let output = put(&permit);
    assert!(said(&output).contains("2 instances have confirmed"), "{}", said(&output));
    let path = b.path().join("state/fleet/files/who.cedar");
    assert_eq!(fs::read(&path).expect("there"), fs::read(&permit).expect("there"));

    for (installation, name) in [(&a, "a"), (&b, "b")] {
        let mut config = in_etcd(&etcd, name);
        let section = "[keystore.policy]\nfiles = [\"state/fleet/files/who.cedar\"]\n";
        let first = "[[keystore.credential]]";
        config.key_stores = config.key_stores.replacen(first, &format!("{section}{first}"), 1);
        installation.configure(&config);
        done(installation, &["reload"]);
    }
    serves(&b, &server_b);
    assert!(put(&deny).status.success());
    let mut api = Api::new(&b, &server_b);
    let outcome = api.error("keys/foo/encrypt", &encrypt_body(b"text", &json!({})));
    assert_eq!(outcome, name(403, "AccessDeniedException"));

    // What cannot be taken over is said, by each that has not.
    let output = put(&a.write("wrong.cedar", "permit("));
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("not reloaded here") && text.contains("NOT CONFIRMED: b"), "{text}");
    assert!(put(&deny).status.success());
    assert_eq!(
        done(&b, &["fleet", "get", "who.cedar"]).as_bytes(),
        fs::read(&deny).expect("there")
    );
    assert!(done(&b, &["fleet", "list"]).contains("who.cedar, "));
    done(&a, &["fleet", "put", "other", permit.to_str().expect("UTF-8")]);
    done(&a, &["fleet", "remove", "other"]);
    assert!(!b.path().join("state/fleet/files/other").exists());
    drop(server_a);
}

fn read(installation: &Installation, file: &str) -> String {
    fs::read_to_string(installation.path().join(file)).expect("there")
}

/// With key stores that the fleet gives, and a policy.
fn given(etcd: &Etcd, policy: &str) -> (Installation, String) {
    let (installation, config) = (installation(etcd, "a"), in_etcd(etcd, "a"));
    let server = installation.start();
    eventually("etcd answers", || server.metric("xksd_fleet_connected") == 1.0);
    let section = "[keystore.policy]\nfiles = [\"state/fleet/files/who.cedar\"]\n";
    let first = "[[keystore.credential]]";
    let stores = config.key_stores.replacen(first, &format!("{section}{first}"), 1);
    for (name, content) in [("who.cedar", policy), ("stores.toml", &stores)] {
        let file = installation.write(name, content);
        done(&installation, &["fleet", "put", name, file.to_str().expect("UTF-8")]);
    }
    let without = Config { key_stores: String::new(), ..config };
    let text = format!("include = [\"state/fleet/files/stores.toml\"]\n{}", without.text());
    installation.write("xksd.toml", &text);
    drop(server);
    (installation, stores)
}

const PERMIT: &str = "@id(\"all\") permit(principal, action, resource);";
const FORBID: &str = "@id(\"none\") forbid(principal, action, resource);";

#[test]
fn files_of_the_fleet_bring_no_edit_of_the_configuration_into_force() {
    let etcd = Etcd::start();
    let (a, stores) = given(&etcd, PERMIT);
    let server = a.start();
    eventually("etcd answers", || server.metric("xksd_fleet_connected") == 1.0);
    let put = |name: &str, content: &str| {
        let file = a.write(name, content);
        xksd(&a, &["fleet", "put", name, file.to_str().expect("UTF-8")])
    };
    let digest = || server.status()["instance"]["config_sha256"].clone();
    let before = digest();

    // Key stores that are included come with the file, and by one reload.
    let shorter = stores.rfind("[[keystore.key]]").expect("there");
    let output = put("stores.toml", &stores[..shorter]);
    assert!(output.status.success(), "{}", said(&output));
    assert_ne!(digest(), before);
    let output = put("stores.toml", &stores);
    assert!(output.status.success() && digest() == before, "{}", said(&output));

    // What nothing was read from brings no reload; what was waits for an edit that is not finished.
    let (in_force, text) = (digest(), read(&a, "xksd.toml"));
    a.write("xksd.toml", &format!("{text}\n# not finished\n"));
    assert!(put("other", "anything").status.success());
    let output = put("who.cedar", FORBID);
    assert!(!output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("xksd.toml has changed, too"), "{}", said(&output));
    assert_eq!(digest(), in_force);
    serves(&a, &server);

    a.write("xksd.toml", &text);
    let forbidden = || {
        let outcome =
            Api::new(&a, &server).error("keys/foo/encrypt", &encrypt_body(b"t", &json!({})));
        outcome == name(403, "AccessDeniedException")
    };
    eventually("the edit is undone: the policy is in force", || {
        server.status()["config_last_reload"]["refused"] == Value::Null
    });
    assert!(forbidden());

    // Refused, and taken back: nothing is left of it.
    assert!(!put("who.cedar", "forbid(").status.success());
    assert!(put("who.cedar", FORBID).status.success());
    assert_eq!(server.status()["config_last_reload"]["refused"], Value::Null);
    assert!(forbidden());
}

#[test]
fn a_file_of_the_fleet_that_is_refused_is_refused_once_by_whoever_sees_it() {
    let etcd = Etcd::start();
    let (a, _) = given(&etcd, PERMIT);
    let text = read(&a, "xksd.toml").replace("watch_files = false", "watch_files = true");
    a.write("xksd.toml", &text);
    let server = a.start();
    eventually("etcd answers", || server.metric("xksd_fleet_connected") == 1.0);
    let put = |content: &str| {
        let file = a.write("who.cedar", content);
        xksd(&a, &["fleet", "put", "who.cedar", file.to_str().expect("UTF-8")])
    };
    let refused = || server.metric("xksd_file_changes_total{result=\"refused\"}");
    assert!(!put("forbid(").status.success());
    // Time for the watch to see the change, too.
    std::thread::sleep(Duration::from_secs(2));
    assert!(!put("forbid(").status.success(), "the same again, which changes nothing");
    let lines = server.messages();
    let count = lines.iter().filter(|line| line.contains("configuration not reloaded")).count();
    assert_eq!((count, refused()), (1, 1.0), "{lines:#?}");

    // What else is refused meanwhile is not forgotten by the fleet's file that is put right.
    let key = read(&a, "tls/key.pem");
    a.write("tls/key.pem", "no key");
    eventually("the watch has refused it", || refused() == 2.0);
    put(PERMIT);
    assert_ne!(server.status()["config_last_reload"]["refused"], Value::Null);
    a.write("tls/key.pem", &key);
    eventually("nothing is refused any more", || {
        server.status()["config_last_reload"]["refused"] == Value::Null
    });
    serves(&a, &server);
}

#[test]
fn a_file_of_the_fleet_that_another_hand_changed_is_in_force_after_a_start_without_etcd() {
    let mut etcd = Etcd::start();
    let (a, _) = given(&etcd, FORBID);
    etcd.kill();
    a.write("state/fleet/files/who.cedar", PERMIT);
    let server = a.start();
    server.wait_event(&["reload: ", "polic"]);
    eventually("what the fleet says is in force", || {
        let outcome =
            Api::new(&a, &server).error("keys/foo/encrypt", &encrypt_body(b"t", &json!({})));
        outcome == name(403, "AccessDeniedException")
    });
    assert_eq!(read(&a, "state/fleet/files/who.cedar"), FORBID);
}

#[test]
fn who_is_away_is_named_until_it_is_forgotten() {
    let etcd = Etcd::start();
    let (a, b) = (installation(&etcd, "a"), installation(&etcd, "b"));
    let (server_a, mut server_b) = (a.start(), b.start());
    both_registered(&server_a);
    eventually("both are ready", || !done(&a, &["fleet", "status"]).contains("not ready"));
    server_b.kill();
    eventually("its lease ends", || server_a.metric("xksd_fleet_instances_away") == 1.0);
    let text = failed(&a, BLOCK);
    assert!(text.contains("NOT CONFIRMED: b: it is not there"), "{text}");
    let output = xksd(&a, &["fleet", "status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), &status["members"][1]["present"]), (Some(1), &json!(false)));

    let server_b = b.start();
    assert!(is_blocked(&b, &server_b), "ready with the block that was made meanwhile");
    both_registered(&server_a);
    assert_eq!(server_b.stop().0, Some(0));
    eventually("it has left", || server_a.metric("xksd_fleet_size") == 1.0);
    assert!(done(&a, UNBLOCK).contains("1 instance has confirmed"));
}

/// A member with TLS that asks for a client's certificate, and users with passwords.
#[test]
fn etcd_over_tls_with_a_user_and_a_client_certificate() {
    let a = installation_with_pki();
    let path = |name: &str| a.path().join(name).to_str().expect("UTF-8").to_owned();
    let (ca, chain, key) = (path("ca.pem"), path("tls/chain.pem"), path("tls/key.pem"));
    let server = ["--cert-file", &chain, "--key-file", &key, "--trusted-ca-file", &ca];
    let client = ["--cacert", &ca, "--cert", &chain, "--key", &key].map(str::to_owned);
    let etcd = Etcd::with_tls(&[&server[..], &["--client-cert-auth"]].concat(), client.to_vec());
    for (call, body) in [
        ("role/add", json!({"name": "xksd"})),
        (
            "role/grant",
            json!({"name": "xksd", "perm": {
                "permType": "READWRITE", "key": b64(b"/xksd/test/"), "range_end": b64(b"/xksd/test0"),
            }}),
        ),
        ("user/add", json!({"name": "root", "password": "r"})),
        ("user/grant", json!({"user": "root", "role": "root"})),
        ("user/add", json!({"name": "xksd", "password": "pass"})),
        ("user/grant", json!({"user": "xksd", "role": "xksd"})),
        ("enable", json!({})),
    ] {
        etcd.call(&format!("/v3/auth/{call}"), &body);
    }
    let fleet = |password: &str, more: &str| {
        let config = config(&format!(
            "name = \"a\"\nsecret = {{ file = \"secrets/fleet\" }}\ntrust_anchors = \"ca.pem\"\n\
             [fleet.etcd]\nendpoints = [\"{}\"]\nprefix = \"/xksd/test\"\nuser = \"xksd\"\n\
             password = {{ value = \"{password}\" }}\n{more}",
            etcd.url()
        ));
        let server = config.server.replace("watch_files = false", "watch_files = true");
        Config { server, ..config }
    };
    let certificate =
        "client_certificate = \"tls/chain.pem\"\nclient_private_key = \"tls/key.pem\"";
    a.configure(&fleet("pass", ""));
    let server = Server::spawn(&a, &[], |_| ());
    let message = server.wait_event(&["fleet: etcd does not answer"]).to_lowercase();
    assert!(message.contains("certificate"), "{message}");
    let problem = |words: &str| {
        let why = server.status()["fleet"]["problem"].to_string();
        why.to_lowercase().contains(words)
    };

    // All of it by a reload.
    a.configure(&fleet("wrong", certificate));
    let said = done(&a, &["reload"]);
    assert!(said.contains("fleet.etcd.client_certificate is"), "{said}");
    eventually("the certificate is right, and the password wrong", || problem("password"));
    a.configure(&fleet("pass", certificate));
    assert!(done(&a, &["reload"]).contains("fleet.etcd.password changed"));
    server.wait_event(&["is registered in etcd at https://"]);
    assert!(done(&a, BLOCK).contains("1 instance has confirmed"));
    assert!(is_blocked(&a, &server));

    // Certificates also by their files: the first is from an authority that etcd does not know.
    let files = ["tls/chain.pem", "tls/key.pem", "ca.pem"].map(|name| (name, read(&a, name)));
    a.new_certificate();
    server.wait_event(&["reload: ", "fleet.etcd.client_certificate: ", "has changed"]);
    eventually("etcd is not trusted any more", || problem("certificate"));
    assert!(is_blocked(&a, &server), "what is in force stays");
    for (name, text) in &files {
        a.write(name, text);
    }
    eventually("it is back", || server.metric("xksd_fleet_connected") == 1.0);
}

/// Its server certificate is one for clients, too.
fn installation_with_pki() -> Installation {
    let installation = Installation::default();
    let (ca, key) = (Ca::root("Test Root"), KeyPair::generate().expect("a key"));
    let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
    // etcd's gateway refuses client certificates with a common name.
    let leaf = Leaf { dns_names: names, ..Leaf::new(&[]) };
    installation.write("tls/chain.pem", &[ca.issue(&leaf, &key).pem(), ca.pem()].concat());
    installation.write("tls/key.pem", &key.serialize_pem());
    installation.write("ca.pem", &ca.pem());
    installation.write("secrets/fleet", SECRET);
    installation
}

#[test]
fn peers_are_asked_and_nothing_is_carried() {
    let b = Installation::default();
    let server_b = b.start();
    let a = Installation::default();
    a.configure(&config(&format!(
        "name = \"a\"\npeers = [\"http://127.0.0.1:{}\"]",
        server_b.admin
    )));
    let server_a = a.start();
    assert_eq!(Api::new(&a, &server_a).health()["xksProxyFleetSize"], 2);
    let output = xksd(&a, &["fleet", "status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        (&status["by"], status["members"].as_array().map(Vec::len)),
        (&json!("peers"), Some(2))
    );
    assert!(failed(&a, BLOCK).contains("on this instance only: this fleet has peers and no etcd"));
    assert!(is_blocked(&a, &server_a) && !is_blocked(&b, &server_b));
    drop(server_b);
    assert!(failed(&a, &["fleet", "status"]).contains("not there: http://127.0.0.1:"));
}

#[test]
fn an_instance_with_another_secret_serves_and_is_seen_by_all() {
    let etcd = Etcd::start();
    let (a, b) = (installation(&etcd, "a"), installation(&etcd, "b"));
    b.write("secrets/fleet", &SECRET.replace("DAA", "EAA"));
    let (server_a, server_b) = (a.start(), b.start());
    for (installation, server) in [(&a, &server_a), (&b, &server_b)] {
        eventually("it is refused", || server.metric("xksd_fleet_values_refused") > 0.0);
        server.wait_event(&["is refused", "has it another fleet.secret"]);
        let shown = failed(installation, &["fleet", "status"]);
        assert!(shown.contains("in etcd are refused"), "{shown}");
        serves(installation, server);
    }
}
