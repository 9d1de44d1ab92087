//! What AWS KMS is shown of the HSMs of a fleet.

use serde_json::Value;
use test_harness::config::{key, key_store};
use test_harness::hsm_sim::{KEY, SimulatedHsm};
use test_harness::token::PIN;
use test_harness::{A, Api, C, Config, Etcd, Installation, Server, eventually};

use super::fleet::{both_registered, config, done, in_etcd, installation};

/// This configuration with a second key manager, which key store `/one` has and no other.
fn with_second_key_manager(config: Config, name: &str) -> Config {
    let second = config.key_managers.replace("\"local\"\nkind", &format!("\"{name}\"\nkind"));
    let (one, both) =
        ("key_manager = [\"local\"]", format!("key_manager = [\"local\", \"{name}\"]"));
    let key_managers = format!("{}\n{second}", config.key_managers);
    let key_stores = config.key_stores.replacen(one, &both, 1);
    Config { key_managers, key_stores, ..config }
}

/// The key managers that AWS KMS is shown of a key store.
fn shown(installation: &Installation, server: &Server, key_store: &'static str) -> Vec<String> {
    let mut api = Api::new(installation, server);
    (api.prefix, api.credential) = (key_store, if key_store == "/two" { C } else { A });
    let health = api.health();
    let all = health["ekmFleetDetails"].as_array().expect("some");
    let one = |one: &Value| format!("{} {}", one["id"], one["healthStatus"]).replace('"', "");
    all.iter().map(one).collect()
}

#[test]
fn health_shows_the_key_managers_of_all_instances_by_key_store() {
    let etcd = Etcd::start();
    let (a, b) = (installation(&etcd, "a"), installation(&etcd, "b"));
    b.configure(&with_second_key_manager(in_etcd(&etcd, "b"), "site-b"));
    let (server_a, server_b) = (a.start(), b.start());
    both_registered(&server_a);
    let both = ["local ACTIVE", "site-b ACTIVE"];
    eventually("those of b are shown", || shown(&a, &server_a, "/one") == both);
    assert_eq!(shown(&b, &server_b, "/one"), both, "its own");
    assert_eq!(shown(&a, &server_a, "/two"), ["local ACTIVE"], "nothing of another key store's");

    assert_eq!(server_b.stop().0, Some(0));
    eventually("those of b are gone", || shown(&a, &server_a, "/one") == ["local ACTIVE"]);
}

#[test]
fn health_shows_the_key_managers_of_peers() {
    let b = Installation::default();
    b.configure(&with_second_key_manager(Config::default(), "site-b"));
    let server_b = b.start();
    let a = Installation::default();
    let peers = |port: u16| config(&format!("name = \"a\"\npeers = [\"http://127.0.0.1:{port}\"]"));
    // Nobody is there, until a reload names the right one.
    a.configure(&peers(9));
    let server_a = a.start();
    assert_eq!(shown(&a, &server_a, "/one"), ["local ACTIVE"]);
    a.configure(&peers(server_b.admin));
    assert!(done(&a, &["reload"]).contains("fleet.peers is"));
    let both = ["local ACTIVE", "site-b ACTIVE"];
    eventually("those of b are shown", || shown(&a, &server_a, "/one") == both);
    assert_eq!(shown(&a, &server_a, "/two"), ["local ACTIVE"]);
    drop(server_b);
    eventually("those of b are gone", || shown(&a, &server_a, "/one") == ["local ACTIVE"]);
}

/// Two sites whose HSMs have one name: other tokens, with other serial numbers.
#[test]
fn two_hsms_of_one_name_are_two_and_each_is_shown_as_it_is() {
    let site = |more: &str| {
        let site = Installation::default();
        let hsm = site.hsm("hsm", "");
        site.configure(&over(&hsm, more));
        let server = site.start();
        (site, hsm, server)
    };
    let (_b, hsm_b, server_b) = site("");
    let peers = format!("[fleet]\nname = \"a\"\npeers = [\"http://127.0.0.1:{}\"]", server_b.admin);
    let (a, _, server_a) = site(&peers);
    let instance = format!("http://127.0.0.1:{}", server_b.admin);
    let both = |of_b: &str| ["hsm ACTIVE".to_owned(), format!("hsm@{instance} {of_b}")];
    eventually("b's is shown", || shown(&a, &server_a, "/one") == both("ACTIVE"));
    let models = Api::new(&a, &server_a).health()["ekmFleetDetails"].clone();
    for (at, server) in [&server_a, &server_b].into_iter().enumerate() {
        let serial = server.key_manager("hsm")["serial"].as_str().expect("one").to_owned();
        assert!(models[at]["model"].as_str().expect("one").contains(&serial), "{models}");
    }
    hsm_b.control("token_removed = true");
    eventually("b's is away", || shown(&a, &server_a, "/one") == both("UNAVAILABLE"));
    Api::new(&a, &server_a).round_trip(KEY);
}

/// A key store over the key manager `hsm`, which is this one.
fn over(hsm: &SimulatedHsm, more: &str) -> Config {
    let key_managers = format!(
        "[[key_manager]]\nname = \"hsm\"\nkind = \"pkcs11\"\nmodule = {:?}\ntoken = {:?}\nsessions = \
         2\npin = {{ value = {PIN:?} }}\n",
        hsm.module, hsm.name
    );
    let key_stores = key_store("/one", "key_manager = [\"hsm\"]", &[&A], &key(KEY, ""));
    let config = Config::default();
    Config { admin: format!("{}\n\n{more}", config.admin), key_managers, key_stores, ..config }
}
