//! For how long keys are used: as long as the HSM goes on opening them, and nobody sealed them.

use std::process::Command;

use cryptoki::object::Attribute;
use serde_json::json;
use test_harness::api::{encrypt_body, name};
use test_harness::token::PIN;
use test_harness::{Api, Server, Token, eventually, own_process, softhsm};

use super::{MASTER, Place, near, refused, wait_for_refusal, wait_for_state};

fn encrypt_error(api: &mut Api) -> (u16, String) {
    api.error("keys/foo/encrypt", &encrypt_body(b"text", &json!({})))
}

/// pkcs11-tool on the token behind the simulated HSM.
fn pkcs11_tool(place: &Place, arguments: &[&str]) {
    let output = Command::new("pkcs11-tool")
        .arg("--module")
        .arg(softhsm::module())
        .args(["--token-label", "hsm", "--login", "--pin", PIN])
        .args(arguments)
        .env("SOFTHSM2_CONF", place.path("softhsm2.conf"))
        .output()
        .expect("run scripts/test first");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_master_that_is_deleted_under_load_seals_and_another_one_of_its_name_does_not_open() {
    let place = Place::with_foo("");
    let server = place.start();
    let mut api = place.api(&server);
    let made = api.encrypt("foo", b"text", &json!({}));
    pkcs11_tool(&place, &["--delete-object", "--type", "secrkey", "--label", MASTER]);
    let mut last = String::new();
    eventually("sealed", || {
        let response =
            api.call("keys/foo/decrypt", &test_harness::api::decrypt_body(&made, &json!({})));
        if response.status == 200 {
            return false;
        }
        last = response.error().1;
        assert_ne!(last, "InvalidCiphertextException");
        last == "InvalidStateException"
    });
    wait_for_state(&server, "hsm_refuses");
    assert!(!server.is_ready(), "the load balancer sends no more");
    assert!(near(&server)["keys"].as_array().is_some_and(Vec::is_empty));
    server.wait_event(&["no key can be used", "overwritten in memory"]);

    place.hsm.import_key(MASTER, 8);
    let why = || near(&server)["why"].to_string();
    eventually("asked", || why().contains("does not open what it sealed"));
    assert_eq!(encrypt_error(&mut api), name(400, "InvalidStateException"));
    pkcs11_tool(&place, &["--delete-object", "--type", "secrkey", "--label", MASTER]);
    place.hsm.import_key(MASTER, 7);
    wait_for_state(&server, "open");
    eventually("ready", || server.is_ready());
    assert_eq!(api.decrypt("foo", &made, &json!({})), b"text");
}

/// The other one has foo's file as well.
#[test]
fn keys_of_a_master_that_is_deleted_stop_also_after_a_restart_and_others_serve() {
    let place = Place::with_foo("");
    place.key("create", "bar", &[]);
    place.hsm.import_key("m2", 9);
    place.key("rewrap", "foo", &["--master", "m2"]);
    let server = place.start();
    let mut api = place.api(&server);
    let made = [api.encrypt("foo", b"text", &json!({})), api.encrypt("bar", b"text", &json!({}))];
    let bar_is_refused = |server: &Server| {
        wait_for_refusal(server, "bar", &format!("no secret key labelled {MASTER:?}"));
        let mut api = place.api(server);
        let refused = name(400, "InvalidStateException");
        assert_eq!(api.decrypt_error("bar", &made[1], &json!({})), refused);
        assert_eq!(api.error("keys/bar/encrypt", &encrypt_body(b"text", &json!({}))), refused);
        assert_eq!(api.decrypt("foo", &made[0], &json!({})), b"text");
        api.round_trip("foo");
    };
    let delete = || {
        pkcs11_tool(&place, &["--delete-object", "--type", "secrkey", "--label", MASTER]);
    };
    delete();
    bar_is_refused(&server);
    drop(server);
    let server = place.start();
    bar_is_refused(&server);
    place.hsm.import_key(MASTER, 7);
    eventually("opened again", || refused(&server, "bar").is_none());
    assert_eq!(place.api(&server).decrypt("bar", &made[1], &json!({})), b"text");
    // None is left: nothing serves, also after a restart.
    delete();
    pkcs11_tool(&place, &["--delete-object", "--type", "secrkey", "--label", "m2"]);
    wait_for_state(&server, "hsm_refuses");
    drop(server);
    let server = place.spawn();
    wait_for_state(&server, "hsm_refuses");
    assert!(!server.is_ready());
    assert_eq!(encrypt_error(&mut place.api(&server)), name(400, "InvalidStateException"));
}

#[test]
fn an_hsm_that_hangs_is_waited_for_up_to_the_limit_and_keys_come_back_with_it() {
    let place = Place::with_foo("hsm_absent_max_s = 8");
    let server = place.start();
    let mut api = place.api(&server);
    api.round_trip("foo");
    place.hsm.control("hang = \"*\"");
    eventually("it is noticed", || near(&server)["hsm_absent_seconds"].is_u64());
    assert_eq!(near(&server)["state"], "open");
    api.round_trip("foo");
    wait_for_state(&server, "hsm_away");
    assert_eq!(encrypt_error(&mut api), name(500, "InternalException"));
    let health = api.health();
    assert_eq!(health["ekmFleetDetails"][0]["healthStatus"], "UNAVAILABLE", "{health}");
    assert!(!server.is_ready());
    assert_eq!(server.metric("xksd_wrapped_keys_open{key_manager=\"near\"}"), 0.0);
    place.hsm.heal();
    wait_for_state(&server, "open");
    eventually("ready", || server.is_ready());
    api.round_trip("foo");
}

own_process! {
    fn a_master_that_may_no_longer_decrypt_ends_it_until_it_may(directory) {
        let place = Place::with_foo("");
        let server = place.start();
        let mut api = place.api(&server);
        api.round_trip("foo");
        // This process is another user of the same token.
        std::fs::copy(place.path("softhsm2.conf"), directory.join("softhsm2.conf")).unwrap();
        let pkcs11 = softhsm::load();
        let slots = pkcs11.get_slots_with_initialized_token().unwrap();
        let token = Token { slot: slots[0], pkcs11 };
        let session = token.session();
        let may_decrypt = |may: bool| {
            let label = Attribute::Label(MASTER.as_bytes().to_vec());
            let master = session.find_objects(&[label]).unwrap()[0];
            session.update_attributes(master, &[Attribute::Decrypt(may)]).unwrap();
        };
        may_decrypt(false);
        wait_for_state(&server, "hsm_refuses");
        assert_eq!(encrypt_error(&mut api), name(400, "InvalidStateException"));
        may_decrypt(true);
        wait_for_state(&server, "open");
        api.round_trip("foo");
    }
}

/// A no is confirmed in a new session, and that never opens: the thread that asks is lost.
#[test]
fn a_call_that_never_returns_does_not_keep_keys_in_use() {
    let place = Place::with_foo("hsm_absent_max_s = 0");
    let server = place.start();
    let mut api = place.api(&server);
    place.hsm.control("hang = \"C_OpenSession\"");
    pkcs11_tool(&place, &["--delete-object", "--type", "secrkey", "--label", MASTER]);
    wait_for_state(&server, "hsm_away");
    assert_eq!(encrypt_error(&mut api), name(500, "InternalException"));
    place.hsm.heal();
    wait_for_state(&server, "hsm_refuses");
    assert_eq!(encrypt_error(&mut api), name(400, "InvalidStateException"));
}

/// SoftHSM lets a key do what nobody has forbidden.
#[test]
fn a_master_that_may_do_more_than_it_must_is_named_in_the_log() {
    let place = Place::with_foo("");
    let server = place.start();
    server.wait_event(&[
        "key manager \"near\"",
        MASTER,
        "more than encrypt and decrypt",
        "CKA_WRAP",
    ]);
}

#[test]
fn without_patience_an_hsm_that_fails_ends_it_at_once() {
    let place = Place::with_foo("hsm_absent_max_s = 0");
    let server = place.start();
    let mut api = place.api(&server);
    api.round_trip("foo");
    place.hsm.control("error = { call = \"*\", code = \"CKR_DEVICE_ERROR\" }");
    wait_for_state(&server, "hsm_away");
    assert_eq!(encrypt_error(&mut api), name(500, "InternalException"));
    place.hsm.heal();
    wait_for_state(&server, "open");
    api.round_trip("foo");
}

#[test]
fn a_start_without_the_hsm_listens_is_not_ready_and_heals() {
    let place = Place::with_foo("");
    place.hsm.prepare("error = { call = \"C_OpenSession\", code = \"CKR_DEVICE_REMOVED\" }");
    let server = place.spawn();
    let mut api = place.api(&server);
    eventually("it says why", || near(&server)["why"].to_string().contains("CKR_DEVICE_REMOVED"));
    assert_eq!(near(&server)["state"], "not_opened");
    assert_eq!(encrypt_error(&mut api), name(500, "InternalException"));
    assert!(!server.is_ready());
    place.hsm.heal();
    wait_for_state(&server, "open");
    eventually("ready", || server.is_ready());
    api.round_trip("foo");
}

#[test]
fn a_wrong_pin_is_tried_once_and_said() {
    let place = Place::with_foo("");
    let text = std::fs::read_to_string(place.path("xksd.toml")).unwrap();
    place.installation.write("xksd.toml", &text.replace(PIN, "87654321"));
    let server = place.spawn();
    eventually("it says why", || near(&server)["why"].to_string().contains("CKR_PIN_INCORRECT"));
    // Asked several times more.
    std::thread::sleep(std::time::Duration::from_secs(4));
    let logins = place.hsm.settled_stats()["calls"]["C_Login"].clone();
    assert_eq!(logins, 1, "{logins}");
    assert_eq!(encrypt_error(&mut place.api(&server)), name(500, "InternalException"));
}

/// As an attestation service, or somebody who types it in, would release it.
#[test]
fn a_pin_that_a_script_releases_after_the_start_opens_the_keys() {
    let place = Place::with_foo("");
    let text = std::fs::read_to_string(place.path("xksd.toml")).unwrap();
    let late = text.replace(&format!("{{ value = {PIN:?} }}"), "{ file = \"pin\", late = true }");
    place.installation.write("xksd.toml", &late);
    let checked = place.xksd(&["check"]);
    assert!(checked.status.success(), "{checked:?}");
    let server = place.spawn();
    eventually("it says why", || near(&server)["why"].to_string().contains("PIN is not there yet"));
    assert!(!server.is_ready());
    assert_eq!(encrypt_error(&mut place.api(&server)), name(500, "InternalException"));
    let release = |pin: &str| {
        let script = format!("umask 077; printf '%s\n' {pin} > .pin; mv .pin pin");
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", &script]).current_dir(place.installation.path());
        assert!(shell.status().expect("runs").success());
    };
    // What is wrong with it is said, has one try, and waits for another one.
    release("87654321");
    eventually("refused", || near(&server)["why"].to_string().contains("CKR_PIN_INCORRECT"));
    release(PIN);
    wait_for_state(&server, "open");
    eventually("ready", || server.is_ready());
    place.api(&server).round_trip("foo");
    let logins = place.hsm.settled_stats()["calls"]["C_Login"].clone();
    assert_eq!(logins, 2, "{logins}");
}

fn sealed(place: &Place, server: &Server) {
    let mut api = place.api(server);
    assert_eq!(encrypt_error(&mut api), name(400, "InvalidStateException"));
    assert_eq!(near(server)["state"], "sealed");
}

#[test]
fn a_seal_is_in_force_at_once_and_over_a_restart_until_it_is_taken_off() {
    let place = Place::with_foo("");
    let server = place.start();
    let mut api = place.api(&server);
    let made = api.encrypt("foo", b"text", &json!({}));
    assert!(place.seal("seal").status.success());
    assert_eq!(
        api.decrypt_error("foo", &made, &json!({})),
        name(400, "InvalidStateException"),
        "on an open connection"
    );
    sealed(&place, &server);
    drop(server);
    let server = place.spawn();
    sealed(&place, &server);
    // The HSM serves, and is asked by nobody.
    let health = || server.status()["key_managers"][0]["health"].clone();
    eventually("probed", || health() == "ACTIVE");
    sealed(&place, &server);
    assert!(place.seal("unseal").status.success());
    wait_for_state(&server, "open");
    eventually("ready", || server.is_ready());
    assert_eq!(place.api(&server).decrypt("foo", &made, &json!({})), b"text");
    let again = place.seal("unseal");
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("it is not sealed"));
    let other = place.xksd(&["key-manager", "seal", "hsm"]);
    assert!(String::from_utf8_lossy(&other.stderr).contains("there is: near"), "{other:?}");
}

#[test]
fn a_seal_while_keys_are_being_opened_leaves_none_open() {
    let place = Place::with_foo("");
    for n in 0..20 {
        place.key("create", &format!("key-{n}"), &[]);
    }
    // Opening them takes seconds.
    place.hsm.prepare("stall = { call = \"C_Decrypt\", ms = 150 }");
    let server = place.spawn();
    let decrypts = |stats: &serde_json::Value| stats["calls"]["C_Decrypt"].as_u64().unwrap_or(0);
    let asked = decrypts(&place.hsm.stats_when(|stats| decrypts(stats) > 5));
    assert!(asked < 40, "all were opened before it was sealed: {asked}");
    assert!(place.seal("seal").status.success());
    place.hsm.heal();
    // One more at the most, which was under way; no other is begun.
    let last = decrypts(&place.hsm.settled_stats());
    sealed(&place, &server);
    assert!(last < 40, "{last}");
    assert!(near(&server)["keys"].as_array().is_some_and(Vec::is_empty));
}
