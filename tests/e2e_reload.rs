//! SIGHUP on the real server: what waits for a restart does not hold up who is to be cut off, and what became of a reload can be seen.

mod e2e;

use std::time::{SystemTime, UNIX_EPOCH};

use e2e::api::{encrypt_body, name, still_serves};
use e2e::site::{key, key_store};
use e2e::{A, Api, B, Config, Server, Site};
use serde_json::{Value, json};

/// The default configuration with a second key manager over the same keys, and the key stores on these.
fn on(key_managers: &str, uses: &str) -> Config {
    let config = Config::default();
    let key_stores = config.key_stores.replace("key_manager = [\"local\"]", &format!("key_manager = [{uses}]"));
    Config { key_managers: key_managers.to_owned(), key_stores, ..config }
}

fn local(name: &str) -> String {
    format!("[[key_manager]]\nname = \"{name}\"\nkind = \"local\"\nkey_file = \"keys.json\"\n")
}

fn disabled(config: &Config) -> Config {
    Config {
        key_stores: config.key_stores.replacen("\n[[keystore.credential]]", "\nenabled = false\n[[keystore.credential]]", 1),
        ..config.clone()
    }
}

fn status_of_encrypt(api: &mut Api<'_>) -> (u16, String) {
    api.error("keys/foo/encrypt", &encrypt_body(b"text", &json!({})))
}

fn levels(server: &Server, words: &str) -> Vec<String> {
    let lines: Vec<Value> = server.log().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let told = lines.iter().filter(|line| line["message"].as_str().is_some_and(|message| message.contains(words)));
    told.map(|line| line["level"].as_str().expect("a level").to_owned()).collect()
}

#[test]
fn key_managers_that_wait_for_a_restart_do_not_hold_up_who_is_to_be_cut_off() {
    let second = local("local") + &local("b");
    for (key_managers, uses) in
        [(second.as_str(), "\"local\", \"b\""), (&second, "\"b\", \"local\""), (&second, "\"b\""), (&local("renamed"), "\"renamed\"")]
    {
        let site = Site::default();
        let server = site.start();
        let mut api = Api::new(&site, &server);
        let before = api.encrypt("foo", b"text", &json!({}));
        let wanted = on(key_managers, uses);
        site.configure(&disabled(&wanted));
        assert!(server.reload().ends_with("reloaded"), "{uses}");
        assert_eq!(status_of_encrypt(&mut api), name(400, "InvalidStateException"), "{uses}");
        server.wait_event(&["reload: key store \"/one\": disabled"]);
        server.wait_event(&["key store \"/one\" has the key managers [\"local\"] until the next start, and [", uses, "] from then on"]);
        assert_eq!(server.status()["key_stores"][0]["key_managers"], json!(["local"]));

        // And let in again, by the key manager that runs.
        site.configure(&wanted);
        assert!(server.reload().ends_with("reloaded"), "{uses}");
        assert_eq!(api.decrypt("foo", &before, &json!({})), b"text");
        assert_eq!(server.stop().0, Some(0));

        let server = site.start();
        let now: Vec<Value> = uses.split(", ").map(|name| json!(name.trim_matches('"'))).collect();
        assert_eq!(server.status()["key_stores"][0]["key_managers"], Value::from(now));
        assert_eq!(Api::new(&site, &server).decrypt("foo", &before, &json!({})), b"text");
    }
}

#[test]
fn a_new_key_store_has_those_of_its_key_managers_that_run_and_without_any_it_waits_alone() {
    let site = Site::default();
    let server = site.start();
    let wanted = |uses: &str| {
        let new = key_store("/new", &format!("key_manager = [{uses}]"), &[&A], &key("foo", ""));
        // Beside it, the second credential of `/one` is taken away.
        let b = format!("[[keystore.credential]]\naccess_key_id = \"{0}\"\nsecret_access_key = {{ file = \"secrets/{0}\" }}\n", B.id);
        let config = Config::default();
        let key_managers = format!("{}\n{}", config.key_managers, local("b"));
        Config { key_managers, key_stores: config.key_stores.replacen(&b, "", 1) + &new, ..config }
    };
    let [mut old, mut new] = [("/one", B), ("/new", A)].map(|(prefix, credential)| Api { prefix, credential, ..Api::new(&site, &server) });
    old.round_trip("foo");

    site.configure(&wanted("\"b\""));
    assert!(server.reload().ends_with("reloaded"));
    assert_eq!(status_of_encrypt(&mut new), name(404, "InvalidUriPathException"));
    assert_eq!(status_of_encrypt(&mut old), name(401, "AuthenticationFailedException"), "the rest is taken over");
    let told = "key store \"/new\" is not served: its key managers [\"b\"] run from the next start only";
    server.wait_event(&[told]);
    assert_eq!(levels(&server, told), ["error"]);
    assert_eq!(server.metric("xksd_config_last_reload_successful"), 1.0);
    still_serves(&site, &server);

    site.configure(&wanted("\"b\", \"local\""));
    assert!(server.reload().ends_with("reloaded"));
    new.round_trip("foo");
    let told = "key store \"/new\" has the key managers [\"local\"] until the next start, and [\"b\", \"local\"] from then on";
    server.wait_event(&[told]);
    assert_eq!(levels(&server, told), ["warn"]);

    site.configure(&wanted("\"b\""));
    assert_eq!(server.stop().0, Some(0));
    let server = site.start();
    Api { prefix: "/new", ..Api::new(&site, &server) }.round_trip("foo");
}

#[test]
fn what_became_of_the_last_reload_is_in_status_and_metrics() {
    const AT: &str = "xksd_config_last_reload_success_timestamp_seconds";
    let unix_time = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let before = unix_time();
    let site = Site::default();
    let server = site.start();
    let seen = || {
        let status = server.status()["config_last_reload"].clone();
        assert_eq!(server.metric("xksd_config_last_reload_successful"), f64::from(u8::from(status["successful"] == true)), "{status}");
        let at = server.metric(AT);
        assert!((status["success_timestamp_seconds"].as_f64().expect("a number") - at).abs() < 1e-3, "{status}");
        (at, status["refused"].clone())
    };
    let (started, refused) = seen();
    assert!((before..=unix_time()).contains(&started), "{before} {started}");
    assert_eq!(refused, Value::Null);

    for _ in 0..2 {
        site.write("xksd.toml", &Config::default().text().replace("shards = 1", "shards = -1\ncolour = 3"));
        assert!(server.reload().contains("not reloaded"));
        let (at, refused) = seen();
        // The first of two; what is in force is of the start.
        let refused = refused.as_str().expect("text");
        assert!(refused.contains("xksd.toml:") && refused.contains(": server.shards: ") && !refused.contains("colour"), "{refused}");
        assert!((at - started).abs() < f64::EPSILON, "{at}");
    }

    site.configure(&Config::default());
    assert!(server.reload().ends_with("reloaded"));
    let (at, refused) = seen();
    assert!(at > started && at <= unix_time(), "{started} {at}");
    assert_eq!(refused, Value::Null);
}
