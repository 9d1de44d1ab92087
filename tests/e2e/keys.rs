//! Whether key managers serve the keys that are expected of them, and the same ones: `xksd keys`,
//! and the server's log. Each test over SoftHSM runs in its own process, for SOFTHSM2_CONF.

use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cryptoki::object::{Attribute, KeyType};
use serde_json::{Value, json};
use test_harness::config::{FOO, OTHER, key, key_store};
use test_harness::token::PIN;
use test_harness::{A, Api, B, Config, Installation, Server};
use test_harness::{Token, own_process, softhsm};

/// Exit code, standard output and standard error of `xksd keys`.
fn keys(installation: &Installation) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xksd"));
    let output = command
        .args(["keys", "--config", "xksd.toml"])
        .current_dir(installation.path())
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code().expect("ended by itself"), text(&output.stdout), text(&output.stderr))
}

/// What follows the list of the key managers' own keys.
fn compared(out: &str) -> Vec<&str> {
    out.lines().skip_while(|line| !line.starts_with("key store ")).collect()
}

fn key_file(installation: &Installation, name: &str, keys: &[(&str, [u8; 32])]) {
    let keys: Vec<_> = keys
        .iter()
        .map(|(label, key)| json!({"label": label, "key": STANDARD.encode(key)}))
        .collect();
    installation.write(name, &json!({"keys": keys}).to_string());
}

/// Key managers `a`, `b`, … with key files of that name, and these key stores.
fn over_files(names: &[&str], key_stores: &[String]) -> Installation {
    let manager = |name: &&str| {
        format!(
            "[[key_manager]]\nname = \"{name}\"\nkind = \"local\"\nkey_file = \"{name}.json\"\n"
        )
    };
    let config = Config {
        key_managers: names.iter().map(manager).collect(),
        key_stores: key_stores.concat(),
        ..Config::default()
    };
    Installation::new(&config)
}

#[test]
fn key_files_of_the_same_labels_are_replicas_only_with_the_same_keys() {
    let wanted = [key("one", "label = \"foo\""), key("bar", "")].concat();
    let stores = [
        key_store("/three", "key_manager = [\"a\", \"b\", \"c\"]", &[&A], &wanted),
        key_store("/two", "key_manager = [\"b\", \"a\"]", &[&B], &key("foo", "enabled = false")),
    ];
    let installation = over_files(&["a", "b", "c"], &stores);
    for name in ["a.json", "b.json", "c.json"] {
        key_file(&installation, name, &[("foo", FOO), ("bar", OTHER)]);
    }
    let (code, out, err) = keys(&installation);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let expected = [
        "key store \"/three\": replicas in a, b, c",
        "  -> key one (label \"foo\"): the same key in a, b, c",
        "  -> key bar (label \"bar\"): the same key in a, b, c",
        "key store \"/two\": replicas in b, a",
        "  -> key foo (label \"foo\"): the same key in b, a",
    ];
    assert_eq!(compared(&out), expected);

    // One that is another's, and one that is missing in the same place.
    key_file(&installation, "c.json", &[("foo", OTHER)]);
    let (code, out, err) = keys(&installation);
    let expected_err = "1 configured key is not the same in all of its key managers\n1 configured \
        key can serve from only some of its key managers\n";
    assert_eq!((code, err.as_str()), (1, expected_err), "{out}");
    let expected = [
        "key store \"/three\": replicas in a, b, c",
        "  -> key one (label \"foo\"): DIFFERENT KEYS: a and c hold different keys: what one \
         encrypts, the other cannot decrypt",
        "  -> key one (label \"foo\"): DIFFERENT KEYS: b and c hold different keys: what one \
         encrypts, the other cannot decrypt",
        "  -> key bar (label \"bar\"): the same key in a, b",
        "key store \"/two\": replicas in b, a",
        "  -> key foo (label \"foo\"): the same key in b, a",
    ];
    assert_eq!(compared(&out), expected);

    // One that cannot be opened is named, and the others are compared.
    installation.write("c.json", "nothing");
    let (code, out, err) = keys(&installation);
    let expected_err = "2 configured keys can serve from only some of their key managers\nkey \
        manager c could not be opened\n";
    assert_eq!((code, err.as_str()), (1, expected_err), "{out}");
    assert_eq!(compared(&out)[1], "  c could not be opened, and is left out of what follows");
    assert_eq!(compared(&out)[2], "  -> key one (label \"foo\"): the same key in a, b");

    // With two of three away there is nothing to be compared with.
    installation.write("b.json", "nothing");
    let (code, out, err) = keys(&installation);
    assert_eq!(code, 1);
    assert!(
        err.starts_with(
            "3 configured keys can serve from only some of their key managers\nkey manager b could"
        ),
        "{err}"
    );
    assert_eq!(
        compared(&out)[3],
        "  -> key one (label \"foo\"): not compared: no two of them can serve it"
    );
    installation.write("a.json", "nothing");
    assert!(
        keys(&installation)
            .2
            .starts_with("3 configured keys cannot serve\nkey manager a could not be opened\n")
    );
}

#[test]
fn a_key_is_counted_once_however_many_key_managers_lack_it() {
    let wanted = [key("foo", ""), key("lost", ""), key("gone", "")].concat();
    let installation = over_files(
        &["a", "b"],
        &[key_store("/one", "key_manager = [\"a\", \"b\"]", &[&A], &wanted)],
    );
    for name in ["a.json", "b.json"] {
        key_file(&installation, name, &[("foo", FOO)]);
    }
    let (code, out, err) = keys(&installation);
    assert_eq!((code, err.as_str()), (1, "2 configured keys cannot serve\n"), "{out}");
    assert_eq!(out.matches("CANNOT SERVE").count(), 4, "{out}");
}

/// Tokens `xks-a` and `xks-b` behind one key store, and a test's way to each.
fn two_tokens(keys: &[&str]) -> (Installation, [Token; 2]) {
    let pkcs11 = softhsm::load();
    let tokens = ["xks-a", "xks-b"].map(|label| softhsm::new_token(&pkcs11, label));
    let manager = |name: &str| {
        format!(
            "[[key_manager]]\nname = \"hsm-{name}\"\nkind = \"pkcs11\"\nmodule = \"{}\"\ntoken = \
             \"xks-{name}\"\npin = {{ file = \"pin-{name}\" }}\nprofile = \"softhsm\"\n",
            softhsm::module().display()
        )
    };
    let keys: String = keys.iter().map(|id| key(id, "")).collect();
    let config = Config {
        key_managers: manager("a") + &manager("b"),
        key_stores: key_store("/one", "key_manager = [\"hsm-a\", \"hsm-b\"]", &[&A], &keys),
        ..Config::default()
    };
    let installation = Installation::new(&config);
    installation.write("pin-a", PIN);
    installation.write("pin-b", PIN);
    (installation, tokens)
}

fn import(token: &Token, label: &str, key: [u8; 32]) {
    token.import_key(
        label,
        KeyType::AES,
        &key,
        &[Attribute::Encrypt(true), Attribute::Decrypt(true)],
    );
}

own_process! {
    fn tokens_are_replicas_only_with_the_same_keys(_directory) {
        let (installation, [a, b]) = two_tokens(&["foo", "bar"]);
        for token in [&a, &b] {
            import(token, "foo", FOO);
            import(token, "bar", OTHER);
        }
        let (code, out, err) = keys(&installation);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        let expected = [
            "key store \"/one\": replicas in hsm-a, hsm-b",
            "  -> key foo (label \"foo\"): the same key in hsm-a, hsm-b",
            "  -> key bar (label \"bar\"): the same key in hsm-a, hsm-b",
        ];
        assert_eq!(compared(&out), expected);

        // Made in each, as one might think it is done.
        a.make_key("baz", 32, &[]);
        b.make_key("baz", 32, &[]);
        let config = std::fs::read_to_string(installation.config_file()).expect("read");
        installation.write("xksd.toml", &(config + &key("baz", "")));
        let (code, out, err) = keys(&installation);
        assert_eq!((code, err.as_str()), (1, "1 configured key is not the same in all of its key \
            managers\n"), "{out}");
        let different = "  -> key baz (label \"baz\"): DIFFERENT KEYS: hsm-a and hsm-b hold \
            different keys: what one encrypts, the other cannot decrypt";
        assert_eq!(compared(&out), [&expected[..], &[different]].concat());

        // A wrong PIN: each key is counted once, and the key manager named.
        installation.write("pin-b", "not the PIN");
        let (code, out, err) = keys(&installation);
        let expected = "3 configured keys can serve from only some of their key managers\nkey \
            manager hsm-b could not be opened\n";
        assert_eq!((code, err.as_str()), (1, expected), "{out}");
        assert!(out.contains("CKR_PIN_INCORRECT") && out.contains("hsm-b could not be opened, and \
            is left out"), "{out}");
    }
}

/// The messages of all events that have these words, once there are as many, with the level before
/// them.
fn told(server: &Server, words: &str, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    test_harness::eventually(words, || {
        let log = server.log();
        let lines = log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
        told = lines
            .map(|line| format!("{} {}", text(&line, "level"), text(&line, "message")))
            .filter(|line| line.contains(words))
            .collect();
        told.len() >= count
    });
    told
}

own_process! {
    fn the_server_tells_of_replicas_that_hold_different_keys(_directory) {
        let (installation, [a, b]) = two_tokens(&["foo", "bar"]);
        for token in [&a, &b] {
            import(token, "foo", FOO);
            token.make_key("bar", 32, &[]);
        }
        let server = installation.start();
        let different = "they hold different keys under this label";
        let first = told(&server, different, 1);
        let line = |one: &str, other: &str| {
            format!("error key \"bar\" (label \"bar\") of key store \"/one\": what key manager \
                \"{one}\" encrypts, \"{other}\" cannot decrypt: {different}")
        };
        assert!(first[0] == line("hsm-a", "hsm-b") || first[0] == line("hsm-b", "hsm-a"), "{first:?}");

        let failures = |why| {
            let sample = |name| server.metric(&format!("xksd_key_manager_key_failures{{key_manager=\"{name}\",why=\"{why}\"}}"));
            sample("hsm-a") + sample("hsm-b")
        };
        test_harness::eventually("one key that differs", || failures("different") == 1.0);
        assert_eq!(failures("cannot_serve"), 0.0);
        let differ = |manager: &Value| manager["key_failures"]["different"] == 1;
        assert_eq!(server.status()["key_managers"].as_array().expect("several").iter().filter(|manager| differ(manager)).count(), 1);

        // It still serves; and a key that a reload brings is compared, too.
        Api::new(&installation, &server).round_trip("foo");
        a.make_key("baz", 32, &[]);
        b.make_key("baz", 32, &[]);
        let config = std::fs::read_to_string(installation.config_file()).expect("read");
        installation.write("xksd.toml", &(config + &key("baz", "")));
        assert!(server.reload().ends_with("reloaded"));
        assert!(told(&server, "key \"baz\" (label \"baz\") of key store \"/one\": what key \
            manager", 1)[0].ends_with(different));
        assert!(!server.log().iter().any(|line| line.contains("foo") && line.contains(different)));
    }
}

own_process! {
    fn a_module_finds_its_settings_through_the_configuration(directory) {
        let (site, [a, b]) = two_tokens(&["foo"]);
        for token in [&a, &b] {
            import(token, "foo", FOO);
        }
        let xksd = |command: &str, variable: Option<&str>| {
            let mut xksd = Command::new(env!("CARGO_BIN_EXE_xksd"));
            xksd.args([command, "--config", "xksd.toml"]).current_dir(site.path());
            match variable {
                Some(value) => xksd.env("SOFTHSM2_CONF", value),
                None => xksd.env_remove("SOFTHSM2_CONF"),
            };
            let output = xksd.stdin(Stdio::null()).output().expect("runs");
            let text = [output.stdout, output.stderr].concat();
            (output.status.code().expect("ended"), String::from_utf8(text).expect("UTF-8"))
        };
        let (code, told) = xksd("keys", None);
        assert!(code == 1 && told.contains("hsm-a could not be opened"), "{told}");

        // Relative to the configuration, wherever it is started.
        std::os::unix::fs::symlink(directory, site.path().join("softhsm")).expect("linked");
        let config = std::fs::read_to_string(site.config_file()).expect("read");
        let environment = "environment = { SOFTHSM2_CONF = { path = \"softhsm/softhsm2.conf\" } }";
        site.write("xksd.toml", &config.replacen("profile =", &format!("{environment}\nprofile ="), 1));
        let replaced = "takes the place of another value";
        for variable in [None, Some("/none/softhsm2.conf")] {
            let (code, told) = xksd("keys", variable);
            assert!(code == 0 && told.contains("the same key in hsm-a, hsm-b"), "{told}");
            let (code, told) = xksd("check", variable);
            assert!(code == 0 && told.contains(replaced) == variable.is_some(), "{told}");
        }
        let server = Server::start(&site, &[], |command| {
            command.env("SOFTHSM2_CONF", "/none/softhsm2.conf");
        });
        Api::new(&site, &server).round_trip("foo");
        server.wait_event(&[replaced]);
    }
}
