//! Key managers that a reload adds, removes, renames and changes, under requests: none fails, and
//! what cannot be had leaves what runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use test_harness::api::{encrypt_body, name};
use test_harness::config::{key, key_store};
use test_harness::{A, Api, B, Config, Installation, Server, eventually};

/// Does `change` while requests come without a pause, on connections of their own; none may fail.
fn under_requests<T>(
    installation: &Installation,
    server: &Server,
    change: impl FnOnce() -> T,
) -> T {
    let done = AtomicBool::new(false);
    let serve = || {
        let mut api = Api::new(installation, server);
        let mut served = 0;
        while !done.load(Ordering::Relaxed) {
            api.round_trip("foo");
            served += 1;
        }
        served
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(serve)).collect();
        std::thread::sleep(Duration::from_millis(200));
        let changed = change();
        std::thread::sleep(Duration::from_millis(200));
        done.store(true, Ordering::Relaxed);
        let served: usize = clients.into_iter().map(|c| c.join().expect("none failed")).sum();
        assert!(served > 10, "{served}");
        changed
    })
}

/// The default configuration with these key managers, and the key stores on some of them.
fn on(key_managers: &str, uses: &str) -> Config {
    let config = Config::default();
    let key_stores =
        config.key_stores.replace("key_manager = [\"local\"]", &format!("key_manager = [{uses}]"));
    Config { key_managers: key_managers.to_owned(), key_stores, ..config }
}

fn local(name: &str) -> String {
    format!("[[key_manager]]\nname = \"{name}\"\nkind = \"local\"\nkey_file = \"keys.json\"\n")
}

fn key_managers(server: &Server) -> Vec<String> {
    let status = server.status()["key_managers"].clone();
    let names = status.as_array().expect("a list").iter();
    names.map(|manager| manager["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn key_managers_are_added_renamed_and_removed() {
    let installation = Installation::default();
    let server = installation.start();
    let before = Api::new(&installation, &server).encrypt("foo", b"text", &json!({}));
    for (key_managers, uses, run) in [
        (local("local") + &local("b"), "\"local\", \"b\"", &["local", "b"][..]),
        (local("b"), "\"b\"", &["b"]),
        (local("c"), "\"c\"", &["c"]),
    ] {
        installation.configure(&on(&key_managers, uses));
        let (code, said) = under_requests(&installation, &server, || installation.reload(&[]));
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(self::key_managers(&server), run);
        let of_store = server.status()["key_stores"][0]["key_managers"].clone();
        assert_eq!(of_store, json!(run));
    }
    server.wait_event(&["reload: key manager \"c\" added: kind is \"local\""]);
    server.wait_event(&["reload: key manager \"b\" removed"]);
    server.wait_event(&["key manager \"b\" that is no longer used is closed"]);
    assert_eq!(Api::new(&installation, &server).decrypt("foo", &before, &json!({})), b"text");
}

#[test]
fn a_key_manager_that_does_not_serve_holds_up_nobody_who_is_to_be_cut_off() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    api.round_trip("foo");
    let mut wanted = on(
        &(local("local") + &local("b").replace("keys.json", "missing.json")),
        "\"b\", \"local\"",
    );
    let disabled = "\nenabled = false\n[[keystore.credential]]";
    wanted.key_stores = wanted.key_stores.replacen("\n[[keystore.credential]]", disabled, 1);
    installation.configure(&wanted);
    let (code, said) = installation.reload(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("key manager \"b\" does not take over, and it is not used: "), "{said}");
    assert!(
        said.contains(
            "key store \"/one\" has the key managers [\"local\"], and not [\"b\", \"local\"]"
        ),
        "{said}"
    );
    let refused = api.error("keys/foo/encrypt", &encrypt_body(b"text", &json!({})));
    assert_eq!(refused, name(400, "InvalidStateException"));
    let last = server.status()["config_last_reload"].clone();
    assert_eq!(
        (&last["successful"], last["failed"].as_array().map(Vec::len)),
        (&json!(true), Some(4))
    );
    assert_eq!(key_managers(&server), ["local"]);

    // Once it can serve, the next reload has it.
    installation.write(
        "missing.json",
        &std::fs::read_to_string(installation.path().join("keys.json")).expect("keys"),
    );
    let (code, said) = installation.reload(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(key_managers(&server), ["local", "b"]);
    assert_eq!(server.status()["config_last_reload"]["failed"], json!([]));
}

#[test]
fn a_new_key_store_without_a_key_manager_waits_and_holds_up_no_other_change() {
    let installation = Installation::default();
    let server = installation.start();
    let mut old = Api { prefix: "/one", credential: B, ..Api::new(&installation, &server) };
    old.round_trip("foo");
    // Beside it, the second credential of `/one` is taken away.
    let b = format!(
        "[[keystore.credential]]\naccess_key_id = \"{0}\"\nsecret_access_key = {{ file = \
         \"secrets/{0}\" }}\n",
        B.id
    );
    let new = key_store("/new", "key_manager = [\"b\"]", &[&A], &key("foo", ""));
    let config = Config::default();
    let missing = local("b").replace("keys.json", "missing.json");
    installation.configure(&Config {
        key_managers: format!("{}\n{missing}", config.key_managers),
        key_stores: config.key_stores.replacen(&b, "", 1) + &new,
        ..config
    });
    let (code, said) = installation.reload(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("key store \"/new\" is not served: none of its key managers [\"b\"] serves"),
        "{said}"
    );
    let refused = old.error("keys/foo/encrypt", &encrypt_body(b"text", &json!({})));
    assert_eq!(refused, name(401, "AuthenticationFailedException"));
    let mut new = Api { prefix: "/new", credential: A, ..Api::new(&installation, &server) };
    let refused = new.error("keys/foo/encrypt", &encrypt_body(b"text", &json!({})));
    assert_eq!(refused, name(404, "InvalidUriPathException"));
    assert_eq!(server.metric("xksd_config_last_reload_successful"), 1.0);
    Api::new(&installation, &server).round_trip("foo");
}

#[test]
fn a_key_file_is_taken_over_when_it_is_whole_and_lacks_no_key() {
    let installation = Installation::default();
    let server = installation.start();
    let file = installation.path().join("keys.json");
    let whole = std::fs::read_to_string(&file).expect("a key file");
    let mut keys: Value = serde_json::from_str(&whole).expect("JSON");
    let all = keys["keys"].as_array_mut().expect("keys");
    let more = json!({ "label": "more", "key": all[0]["key"] });
    let foo = all.remove(all.iter().position(|key| key["label"] == "foo").expect("there"));
    for (text, why) in [
        (&whole[..whole.len() / 2], "keys.json"),
        (&keys.to_string(), "keys of key stores cannot serve from it"),
    ] {
        installation.write("keys.json", text);
        let (code, said) = under_requests(&installation, &server, || installation.reload(&[]));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(why) && said.contains("the one before it serves on"), "{said}");
    }
    keys["keys"].as_array_mut().expect("keys").extend([foo, more]);
    installation.write("keys.json", &keys.to_string());
    let mut config = Config::default();
    config.key_stores =
        config.key_stores.replacen("id = \"foo\"", "id = \"foo\"\nlabel = \"more\"", 1);
    installation.configure(&config);
    let (code, said) = under_requests(&installation, &server, || installation.reload(&[]));
    assert_eq!(code, Some(0), "{said}");
    eventually("the one before is closed", || {
        server.log().iter().any(|line| line.contains("that is no longer used is closed"))
    });
}
