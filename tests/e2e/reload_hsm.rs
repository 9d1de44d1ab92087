//! HSMs that a reload brings, with PINs that come late, are wrong, or change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use test_harness::config::{key, key_store};
use test_harness::hsm_sim::{KEY, SimulatedHsm};
use test_harness::pki::write;
use test_harness::token::PIN;
use test_harness::{A, Api, Config, Installation, Server, eventually};

const LATE: &str = "{ file = \"pin\", late = true }";

const TAKEN: &str = "xksd_file_changes_total{result=\"taken\"}";

/// A key store over the key manager `hsm`, which is this one; files are watched.
fn over(hsm: &SimulatedHsm, pin: &str) -> Config {
    let key_manager = format!(
        "[[key_manager]]\nname = \"hsm\"\nkind = \"pkcs11\"\nmodule = {:?}\ntoken = {:?}\nsessions = \
         1\npin = {pin}\n",
        hsm.module, hsm.name
    );
    let config = Config::default();
    Config {
        server: config.server.replace("watch_files = false\n", ""),
        key_managers: key_manager,
        key_stores: key_store("/one", "key_manager = [\"hsm\"]", &[&A], &key(KEY, "")),
        ..config
    }
}

/// Writes the PIN's file as a whole, as whoever releases one does.
fn release(installation: &Installation, pin: &str) {
    write(installation.path(), "pin.new", pin);
    let path = |name: &str| installation.path().join(name);
    std::fs::rename(path("pin.new"), path("pin")).expect("renamed");
}

fn logins(hsm: &SimulatedHsm) -> Value {
    hsm.settled_stats()["calls"]["C_Login"].clone()
}

/// Which of the HSMs the key manager `hsm` is.
fn token(server: &Server) -> Value {
    server.key_manager("hsm")["token"].clone()
}

#[test]
fn a_late_pin_of_a_key_manager_that_a_reload_brings_is_awaited() {
    let installation = Installation::default();
    let (old, new) = (installation.hsm("old", ""), installation.hsm("new", ""));
    installation.configure(&over(&old, &format!("{{ value = {PIN:?} }}")));
    let server = installation.start();
    let made = Api::new(&installation, &server).encrypt(KEY, b"text", &json!({}));

    // Where files are not watched, somebody has to say when.
    let unwatched = over(&new, LATE).server("watch_files = false");
    installation.configure(&unwatched);
    let (code, said) = installation.reload(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("its PIN is not there yet: write it to "), "{said}");
    assert!(said.contains("/pin, then reload"), "{said}");

    installation.configure(&over(&new, LATE));
    let (code, said) = installation.reload(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("its PIN is not there yet: it is opened once "), "{said}");
    assert!(said.contains("the one before it serves on"), "{said}");
    assert_eq!((token(&server), new.stats()), (json!("old"), Value::Null), "nothing was opened");
    Api::new(&installation, &server).round_trip(KEY);

    // One that is wrong has one try; the next one another.
    release(&installation, "87654321");
    server.wait_event(&["\"hsm\" does not take over", "CKR_PIN_INCORRECT"]);
    assert_eq!((token(&server), logins(&new)), (json!("old"), json!(1)));
    release(&installation, PIN);
    eventually("it takes over", || token(&server) == "new");
    assert_eq!(logins(&new), 2);
    assert_eq!(Api::new(&installation, &server).decrypt(KEY, &made, &json!({})), b"text");
}

/// What a late file holds at the start is a PIN like any other; so is what it holds later.
#[test]
fn a_late_pin_that_is_there_and_changes_has_one_try_each_time() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    installation.configure(&over(&hsm, LATE));
    release(&installation, "11111111");
    let server = Server::spawn(&installation, &[], |_| ());
    let refused = || server.key_manager("hsm")["health_reason"].to_string();
    eventually("it is refused", || refused().contains("CKR_PIN_INCORRECT"));
    assert_eq!(logins(&hsm), 1);
    // The same one again has none, also where the file was away meanwhile.
    release(&installation, "11111111");
    std::fs::remove_file(installation.path().join("pin")).expect("it was there");
    eventually("it is seen", || server.metric(TAKEN) >= 1.0);
    release(&installation, "11111111");
    eventually("it is read", || server.metric(TAKEN) >= 2.0);
    assert_eq!(logins(&hsm), 1);
    release(&installation, "22222222");
    eventually("the next one is tried", || logins(&hsm) == 2);
    release(&installation, PIN);
    eventually("ready", || server.is_ready());
    assert_eq!(logins(&hsm), 3);
    Api::new(&installation, &server).round_trip(KEY);
}

#[test]
fn a_wrong_pin_of_an_hsm_that_a_reload_brings_is_tried_once_over_reloads() {
    let installation = Installation::default();
    let (old, new) = (installation.hsm("old", ""), installation.hsm("new", ""));
    let pin = |pin: &str| format!("{{ value = {pin:?} }}");
    installation.configure(&over(&old, &pin(PIN)));
    let server = installation.start();
    let made = Api::new(&installation, &server).encrypt(KEY, b"text", &json!({}));
    for (wrong, tries) in [("11111111", 1), ("11111111", 1), ("22222222", 2), ("11111111", 2)] {
        installation.configure(&over(&new, &pin(wrong)));
        let (code, said) = installation.reload(&[]);
        assert_eq!(code, Some(1), "{said}");
        for words in ["does not take over", "CKR_PIN_INCORRECT", "the one before it serves on"] {
            assert!(said.contains(words), "{said}");
        }
        assert_eq!((logins(&new), token(&server)), (json!(tries), json!("old")), "{wrong}");
        Api::new(&installation, &server).round_trip(KEY);
    }
    installation.configure(&over(&new, &pin(PIN)));
    let (code, said) = installation.reload(&[]);
    assert_eq!((code, token(&server), logins(&new)), (Some(0), json!("new"), json!(3)), "{said}");
    assert_eq!(Api::new(&installation, &server).decrypt(KEY, &made, &json!({})), b"text");
}

/// What is wrong with it is said as it is of one at the start; what runs, runs on.
#[test]
fn a_module_that_does_not_come_up_in_a_reload_is_refused_and_the_old_one_serves_on() {
    std::thread::scope(|scope| {
        for (fault, why) in [
            ("initialize_fails = \"CKR_DEVICE_ERROR\"", "C_Initialize: CKR_DEVICE_ERROR"),
            ("hang = \"C_Login\"", "does not serve within 20 s"),
            ("token_removed = true", "the module shows no tokens"),
        ] {
            scope.spawn(move || stays_down(fault, why));
        }
    });
}

fn stays_down(fault: &str, why: &str) {
    let installation = Installation::default();
    let (old, new) = (installation.hsm("old", ""), installation.hsm("new", ""));
    let pin = format!("{{ value = {PIN:?} }}");
    installation.configure(&over(&old, &pin));
    let server = installation.start();
    new.prepare(fault);
    installation.configure(&over(&new, &pin));
    let mut api = Api::new(&installation, &server);
    let done = AtomicBool::new(false);
    let (code, said) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                api.round_trip(KEY);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let reloaded = installation.reload(&[]);
        done.store(true, Ordering::Relaxed);
        reloaded
    });
    assert_eq!(code, Some(1), "{said}");
    for words in ["\"hsm\" does not take over", why, "the one before it serves on"] {
        assert!(said.contains(words), "{fault}: {said}");
    }
    assert_eq!(token(&server), "old");
    assert!(server.is_ready());
    // Once it is well, the next reload has it.
    new.prepare("");
    let (code, said) = installation.reload(&[]);
    assert_eq!((code, token(&server)), (Some(0), json!("new")), "{fault}: {said}");
    Api::new(&installation, &server).round_trip(KEY);
}
