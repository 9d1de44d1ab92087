//! What AWS KMS is shown of the HSMs of a fleet.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use serde_json::{Value, json};
use test_harness::config::{key, key_store};
use test_harness::hsm_sim::{KEY, SimulatedHsm};
use test_harness::token::PIN;
use test_harness::{A, Api, C, Config, Etcd, Installation, Server, eventually};

use super::fleet::{both_registered, config, done, failed, in_etcd, installation};

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

/// A peer that answers `/status` with this of its instance, as long as the test runs.
fn lying_peer(instance: Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let body = json!({ "instance": instance }).to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("comes"));
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
                line.clear();
            }
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ";
            let _ = write!(stream.get_mut(), "{head}{}\r\n\r\n{body}", body.len());
        }
    });
    url
}

#[test]
fn a_peer_that_lies_changes_no_more_than_what_it_may_say() {
    let manager = |name: &str, hsm: &str, model: &str| json!({"name": name, "hsm": hsm, "model": model, "health": "active", "key_stores": ["/one"]});
    let two = [manager("local", "1", "m\u{202e}\n1"), manager("local", "2", "m2")];
    let wrong = [manager("x\u{202e}", "3", "m3"), manager("y@z", "4", "m4")];
    let managers: Vec<&Value> = two.iter().chain(&wrong).collect();
    let extreme = json!({"name": "b", "unix_ms": u64::MAX, "certificate_not_after": i64::MIN,
        "started": i64::MIN, "key_managers": managers});
    let named = |name: &str| json!({"name": name, "key_managers": [manager("far", "5", "m5")]});
    let peers = [extreme, named(&"b".repeat(7_500_000)), named("b\u{202e}"), named("c")];
    let peers = peers.map(lying_peer);
    let a = Installation::default();
    a.configure(&config(&format!("name = \"a\"\npeers = {peers:?}")));
    let server = a.start();
    let expected = ["local ACTIVE", "local@b ACTIVE", "far ACTIVE"];
    eventually("they are shown", || shown(&a, &server, "/one") == expected);
    let health = Api::new(&a, &server).health();
    assert_eq!(health["ekmFleetDetails"][1]["model"], "m\u{fffd}\u{fffd}1");

    let text = failed(&a, &["fleet", "status"]);
    let no_name = format!("{}/status names its instance as no configuration can", peers[2]);
    let too_much = format!("{}/status says more of its instance", peers[1]);
    for words in [&no_name, &too_much, "-106"] {
        assert!(text.contains(words), "{words}: {text}");
    }
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
