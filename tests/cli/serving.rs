//! The commands that serve, and those that look at what serves: exit codes and what they say. Files
//! alone: `commands.rs`.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rcgen::KeyPair;
use rustix::process::Signal;
use test_harness::config::{key, key_store};
use test_harness::pki::{Ca, KMS_NAME, Leaf};
use test_harness::{A, Api, B, Config, Installation, Server, eventually, free_port};

fn xksd(directory: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xksd"))
        .args(words)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("runs")
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code().expect("ended by itself"), text(&output.stdout), text(&output.stderr))
}

/// A configuration with a port that `xksd probe --config` can know.
fn with_port(port: u16) -> Config {
    let config = Config::default();
    Config { server: config.server.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")), ..config }
}

#[test]
fn probe_takes_everything_from_the_configuration() {
    let installation = Installation::new(&with_port(free_port()));
    let _server = installation.start();
    let (code, out, err) = told(&xksd(installation.path(), &["probe", "--config", "xksd.toml"]));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    for words in [
        "TLSv1_3",
        "TLS handshake",
        "GetHealthStatus",
        "local ACTIVE",
        "GetKeyMetadata",
        "AES_256, ENABLED",
        "CDIV verified",
        "all checks passed",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    assert!(!out.contains("FAIL") && !out.contains(A.secret));
    assert!(!out.lines().any(|line| line.ends_with(' ')), "{out:?}");
    // What is in the environment for another proxy.
    let mut beside = Command::new(env!("CARGO_BIN_EXE_xksd"));
    beside
        .args(["probe", "--config", "xksd.toml"])
        .current_dir(installation.path())
        .env("XKS_SECRET_ACCESS_KEY", B.secret);
    assert_eq!(told(&beside.output().expect("runs")).0, 0);
    let (code, out, _) = told(&xksd(
        installation.path(),
        &["probe", "--config", "xksd.toml", "--prefix", "/two", "--region", "eu-west-3"],
    ));
    assert_eq!(code, 0, "{out}");
}

#[test]
fn probe_tells_what_is_wrong_with_a_proxy() {
    let installation = Installation::default();
    let server = installation.start();
    let endpoint = format!("https://localhost:{}", server.port);
    installation.write("right", &format!("{}\n", A.secret));
    installation.write("wrong", B.secret);
    let probe = |secret: &str, more: &[&str]| {
        let base = [
            "probe",
            "--endpoint",
            &endpoint,
            "--prefix",
            "/one",
            "--access-key-id",
            A.id,
            "--ca",
            "ca.pem",
            "--secret-file",
            secret,
        ];
        told(&xksd(installation.path(), &[&base[..], more].concat()))
    };
    let (code, out, _) = probe("right", &["--key", "foo"]);
    assert_eq!(code, 0, "{out}");

    let (code, out, err) = probe("wrong", &["--key", "foo"]);
    assert_eq!(code, 1, "{out}");
    assert!(
        out.contains("FAIL  GetHealthStatus")
            && out.contains("status 401")
            && out.contains("secret access key"),
        "{out}"
    );
    assert!(err.contains("checks failed"), "{err}");
    // Where the right signature is refused as well, that of a wrong one shows nothing.
    assert!(
        out.contains("-     a wrong signature")
            && out.contains("left out: no right one was accepted"),
        "{out}"
    );
    // What failed has its time as well, and what depends on it is named.
    let failed: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("  FAIL  ")).collect();
    assert_eq!(failed.len(), 3, "{out}");
    for line in failed {
        let (phase, why) = line.split_once(" ms  ").unwrap_or_else(|| panic!("no time: {line}"));
        assert!(
            phase
                .rsplit(' ')
                .next()
                .is_some_and(|time| time.parse::<f64>().is_ok_and(|ms| ms > 0.0)),
            "{line}"
        );
        assert!(why.starts_with("status 401: "), "{line}");
    }
    for name in ["Decrypt ", "Decrypt with an altered tag "] {
        assert!(
            out.lines().any(|line| line.starts_with(&format!("  -     {name}"))
                && line.ends_with("left out: Encrypt failed")),
            "{out}"
        );
    }
    assert!(out.contains("ok    GET instead of POST"), "{out}");
    assert!(![&out, &err].iter().any(|text| text.contains(A.secret) || text.contains(B.secret)));
    for (more, words) in [
        (&["--key", "nobody"][..], "KeyNotFoundException"),
        (&["--key", "off"], "DISABLED"),
        (&["--key", "foo", "--region", "us-west-2"], "us-west-2"),
    ] {
        let (code, out, _) = probe("right", more);
        assert!(code == 1 && out.contains("FAIL") && out.contains(words), "{more:?}: {out}");
    }
    // Where there is nothing, GET cannot tell that it is not POST.
    let nowhere = [
        "probe",
        "--endpoint",
        &endpoint,
        "--prefix",
        "/nowhere",
        "--access-key-id",
        A.id,
        "--ca",
        "ca.pem",
    ];
    let (code, out, err) = told(&xksd(
        installation.path(),
        &[&nowhere[..], &["--secret-file", "right", "--key", "foo"]].concat(),
    ));
    assert_eq!((code, err.as_str()), (1, "3 checks failed\n"), "{out}");
    assert!(
        out.contains("InvalidUriPathException") && out.contains("-     GET instead of POST"),
        "{out}"
    );
    assert!(out.contains("left out: POST was answered 404"), "{out}");
    assert_eq!(probe("right", &[]).0, 2);
    for (words, what) in [
        (
            &["probe"][..],
            "--config xksd.toml, which has all that is needed, or --endpoint, --key and \
             --access-key-id",
        ),
        (
            &["probe", "--config", "xksd.toml", "--prefix", "one"],
            "--prefix \"one\": a prefix is \"\" or begins with /",
        ),
        (&["probe", "--endpoint", &endpoint, "--prefix", "/one/"], "--prefix \"/one/\": "),
        (
            &["probe", "--config", "xksd.toml", "--access-key-id", "ABCDEFGHIJKLMNOPQR27"],
            "--access-key-id ABCDEFGHIJKLMNOPQR27: key store \"/one\" of the configuration has no \
             credential of this id: give its secret",
        ),
        (
            &["probe", "--endpoint", &endpoint, "--key", "foo", "--access-key-id", A.id],
            &format!(
                "--access-key-id {}: give its secret with --secret-file or in \
                 XKS_SECRET_ACCESS_KEY",
                A.id
            ),
        ),
        (
            &["probe", "--endpoint", &endpoint, "--key", "foo"],
            "give --access-key-id, and its secret with --secret-file or in XKS_",
        ),
        (
            &["probe", "--config", "xksd.toml", "--prefix", "/three"],
            "no key store has the prefix \"/three\"; there is: \"/one\", ",
        ),
        (
            &["probe", "--config", "xksd.toml", "--endpoint", &format!("{endpoint}/one")],
            "an endpoint has no path: ",
        ),
    ] {
        let (code, out, err) = told(&xksd(installation.path(), words));
        assert_eq!((code, out.as_str()), (2, ""), "{words:?}: {err}");
        assert!(err.starts_with("xksd probe: ") && err.contains(what), "{words:?}: {err}");
    }
    // Not trusted, not there, not an endpoint.
    // Another authority, and another one of the same name.
    for (ca, error) in
        [(Ca::root("Another Root"), "UnknownIssuer"), (Ca::root("Test Root"), "BadSignature")]
    {
        installation.write("ca.pem", &ca.pem());
        let (code, _, err) = probe("right", &["--key", "foo"]);
        assert!(
            code == 1
                && err.contains(error)
                && err.contains("no authority in ca.pem")
                && err.contains("give --ca FILE"),
            "{err}"
        );
    }
    let nobody = format!("https://localhost:{}", free_port());
    let plain = format!("https://localhost:{}", server.admin);
    for (endpoint, code, told_besides) in [
        (nobody.as_str(), 1, "connecting"),
        (plain.as_str(), 1, "; no TLS there"),
        ("localhost", 2, "https://"),
        ("http://localhost", 2, "https://"),
    ] {
        let words = [
            "probe",
            "--endpoint",
            endpoint,
            "--access-key-id",
            A.id,
            "--key",
            "foo",
            "--ca",
            "ca.pem",
            "--secret-file",
            "right",
        ];
        let (found, _, err) = told(&xksd(installation.path(), &words));
        assert_eq!(found, code, "{endpoint}");
        assert!(err.starts_with("xksd probe: ") && err.contains(told_besides), "{err}");
    }
    assert_eq!(probe("absent", &["--key", "foo"]).0, 2);
}

/// A certificate for the name that KMS uses, and a server that is reached by its address.
#[test]
fn probe_takes_the_name_from_the_certificate_and_the_address_from_connect() {
    let port = free_port();
    let installation = Installation::new(&with_port(port));
    let (ca, key) = (Ca::root("Test Root"), KeyPair::generate().expect("a key"));
    let names = |names: &[&str]| {
        let dns_names = names.iter().map(|name| (*name).to_owned()).collect();
        let chain = [ca.issue(&Leaf { dns_names, ..Leaf::server() }, &key).pem(), ca.pem()];
        installation.write("tls/chain.pem", &chain.concat());
    };
    installation.write("tls/key.pem", &key.serialize_pem());
    installation.write("ca.pem", &ca.pem());
    names(&["*.example.com", "xks.bank.example"]);
    let server = installation.start();
    let probe = |words: &[&str]| {
        let words = [&["probe", "--config", "xksd.toml"], words].concat();
        let (code, out, err) = told(&xksd(installation.path(), &words));
        (code, out + &err)
    };
    let (code, told) = probe(&[]);
    let first = format!("xks.bank.example:{port} at 127.0.0.1:{port}  TLS");
    assert!(code == 0 && told.starts_with(&first), "{told}");
    let elsewhere = format!("127.0.0.1:{port}");
    let endpoint = ["--endpoint", "https://a.example.com", "--connect", &elsewhere];
    let (code, told) = probe(&endpoint);
    assert!(code == 0 && told.starts_with("a.example.com:443 at 127.0.0.1:"), "{told}");
    let (code, told) = probe(&["--server-name", "localhost"]);
    assert!(
        code == 1 && told.contains("give the name that clients use as --server-name"),
        "{told}"
    );
    let (code, told) = probe(&["--connect", &format!("127.0.0.1:{}", free_port())]);
    assert!(code == 1 && told.contains("connecting to 127.0.0.1:"), "{told}");
    let (code, told) = probe(&["--connect", "127.0.0.1:https"]);
    assert!(code == 2 && told.contains("--connect 127.0.0.1:https: https is no port"), "{told}");

    // Any name fits a wildcard.
    names(&["*.example.com"]);
    assert!(server.reload().ends_with("reloaded"));
    let (code, told) = probe(&[]);
    assert!(code == 0 && told.starts_with("xks.example.com:"), "{told}");
}

#[test]
fn probe_names_the_option_that_a_failed_handshake_asks_for() {
    let (ca, stranger) = (Ca::root("Client Root"), Ca::root("Another Root"));
    let mut config = with_port(free_port());
    config.tls += &format!(
        "\n[tls.client]\ntrust_anchors = \"anchors.pem\"\nsubject_common_names = [\"{KMS_NAME}\"]"
    );
    let installation = Installation::new(&config);
    installation.write("anchors.pem", &ca.pem());
    for (name, ca, leaf) in [
        ("right", &ca, KMS_NAME),
        ("stranger", &stranger, KMS_NAME),
        ("misnamed", &ca, "somebody.else"),
    ] {
        let key = KeyPair::generate().expect("a key");
        installation.write(&format!("{name}.pem"), &ca.issue(&Leaf::client(leaf), &key).pem());
        installation.write(&format!("{name}-key.pem"), &key.serialize_pem());
    }
    let server = installation.start();
    let probe = |certificate: Option<&str>| {
        let words = certificate.map(|name| {
            [
                "--client-certificate".to_owned(),
                format!("{name}.pem"),
                "--client-key".into(),
                format!("{name}-key.pem"),
            ]
        });
        let words: Vec<&str> = words.iter().flatten().map(String::as_str).collect();
        let (code, out, err) = told(&xksd(
            installation.path(),
            &[&["probe", "--config", "xksd.toml"], &words[..]].concat(),
        ));
        (code, out + &err)
    };
    let (code, told) = probe(None);
    assert!(
        code == 1
            && told.contains("CertificateRequired; ")
            && told.contains(&format!("subject CN [\"{KMS_NAME}\"] only: "))
            && told.contains("give --client-certificate and --client-key. To probe without"),
        "{told}"
    );
    for (name, alert) in [("stranger", "UnknownCA"), ("misnamed", "CertificateUnknown")] {
        let (code, told) = probe(Some(name));
        assert!(
            code == 1
                && told.contains(&format!(
                    "{alert}; the proxy refuses the certificate of --client-certificate"
                )),
            "{told}"
        );
        // TLS 1.3 tells it with the first request: once is enough.
        assert_eq!(told.matches(alert).count(), 1, "{told}");
        assert!(told.contains("the other checks were left out"), "{told}");
    }
    let mixed = [
        "probe",
        "--config",
        "xksd.toml",
        "--client-certificate",
        "right.pem",
        "--client-key",
        "stranger-key.pem",
    ];
    let (code, _, err) = self::told(&xksd(installation.path(), &mixed));
    assert_eq!(
        (code, err.as_str()),
        (2, "xksd probe: --client-key does not belong to --client-certificate\n")
    );
    let (code, told) = probe(Some("right"));
    assert_eq!(code, 0, "{told}");
    server.wait_event(&["failed: no_certificate"]);
}

#[test]
fn keys_tells_which_can_serve() {
    let keys = [key("foo", ""), key("bar", "label = \"other\"")].concat();
    let mut config = Config {
        key_stores: key_store("/one", "key_manager = [\"local\"]", &[&A], &keys),
        ..Config::default()
    };
    let installation = Installation::new(&config);
    let (code, out, err) = told(&xksd(installation.path(), &["keys", "--config", "xksd.toml"]));
    assert_eq!((code, err.as_str()), (0, ""));
    for words in [
        "key manager local",
        "\"foo\": AES_256",
        "\"other\": AES_256",
        "key foo of key store \"/one\" (label \"foo\"): can serve",
        "(label \"other\"): can serve",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    // It needs no server, and works beside one.
    let server = installation.start();
    assert_eq!(told(&xksd(installation.path(), &["keys", "--config", "xksd.toml"])).0, 0);
    Api::new(&installation, &server).round_trip("foo");

    config.key_stores += &key("lost", "");
    installation.configure(&config);
    let (code, out, err) = told(&xksd(installation.path(), &["keys", "--config", "xksd.toml"]));
    assert_eq!((code, err.as_str()), (1, "1 configured key cannot serve\n"));
    assert!(out.contains("(label \"lost\"): CANNOT SERVE: "), "{out}");
    assert!(out.contains("(label \"foo\"): can serve"), "{out}");
    assert_eq!(told(&xksd(installation.path(), &["keys", "--config", "none.toml"])).0, 2);
}

#[test]
fn serve_with_a_wrong_configuration_exits_with_2_and_tells_all_of_it() {
    let installation = Installation::default();
    let text = Config::default()
        .text()
        .replace("shards = 1", "shards = -1\ncolour = 3")
        .replace("keys.json", "none.json");
    installation.write(
        "xksd.toml",
        &text.replace("key_manager = [\"local\"]", "key_manager = [\"other\"]"),
    );
    for command in ["serve", "check"] {
        let (code, out, err) =
            told(&xksd(installation.path(), &[command, "--config", "xksd.toml"]));
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        for words in
            ["server.shards", "server.colour", "keystore[0].key_manager", "keystore[2].key_manager"]
        {
            assert!(err.contains(words), "{command} {words}: {err}");
        }
        // Also of files that nobody has come to open yet, and the count of all.
        assert!(
            err.contains("key_manager[0].key_file: key file none.json does not exist")
                && err.ends_with("6 problems in xksd.toml\n"),
            "{err}"
        );
    }
    installation.write("xksd.toml", &Config::default().text().replace("keys.json", "none.json"));
    let (code, _, err) = told(&xksd(installation.path(), &["serve", "--config", "xksd.toml"]));
    assert!(code == 2 && err.contains("none.json"), "{err}");
    // The same as check, to the last word, also of files that only another room opens, later.
    let mut config = Config::default().server("colour = 3");
    config.tls += "\n[tls.client]\ntrust_anchors = \"none.pem\"\nsubject_common_names = [\"kms\"]";
    config.key_managers += "\n[[key_manager]]\nname = \"hsm\"\nkind = \"pkcs11\"\nmodule = \
        \"none.so\"\nslot = 1\npin = { file = \"none\" }";
    installation.configure(&config);
    let [serve, check] = ["serve", "check"]
        .map(|command| told(&xksd(installation.path(), &[command, "--config", "xksd.toml"])));
    assert_eq!(serve, check);
    assert!(serve.2.ends_with("4 problems in xksd.toml\n"), "{}", serve.2);
    // All key managers at once, too.
    let second = "key_file = \"none.json\"\n[[key_manager]]\nname = \"second\"\nkind = \
        \"local\"\nkey_file = \"neither.json\"";
    installation
        .write("xksd.toml", &Config::default().text().replace("key_file = \"keys.json\"", second));
    let (code, _, err) = told(&xksd(installation.path(), &["serve", "--config", "xksd.toml"]));
    assert!(
        code == 2
            && err.contains("none.json does not exist")
            && err.contains("key_manager[1].key_file: key file neither.json does not"),
        "{err}"
    );
    // What only the certificates tell.
    installation.configure(&Config::default());
    installation.write("tls/key.pem", "nothing");
    for command in ["serve", "check"] {
        let (code, _, err) = told(&xksd(installation.path(), &[command, "--config", "xksd.toml"]));
        assert_eq!(code, 2);
        assert!(err.contains("tls.private_key"), "{command}: {err}");
    }
}

/// It may come later, with the network or the HSM's software; until then the other replica serves.
#[test]
fn the_missing_module_of_one_replica_does_not_keep_the_other_from_serving() {
    let mut config = Config::default();
    config.key_managers += "\n[[key_manager]]\nname = \"hsm\"\nkind = \"pkcs11\"\nmodule = \
        \"none.so\"\nslot = 1\npin = { value = \"1\" }";
    config.key_stores = config.key_stores.replace("[\"local\"]", "[\"hsm\", \"local\"]");
    let installation = Installation::new(&config);
    let server = installation.start();
    Api::new(&installation, &server).round_trip("foo");
    server.wait_event(&["key manager \"hsm\" does not serve", "none.so"]);
}

#[test]
fn check_and_serve_refuse_the_same_key_files() {
    let installation = Installation::default();
    let secret = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlYyE=";
    let entry = |label: &str, key: &str| format!("{{\"label\":\"{label}\",\"key\":\"{key}\"}}");
    for (content, words) in [
        (secret.to_owned(), "line 1, column 1: not JSON of the form"),
        (format!("{{\"keys\":[{}],\"more\":1}}", entry("foo", secret)), "line 1, column"),
        (
            format!("{{\"keys\":[{}]}}", entry("foo", &secret[4..])),
            "key \"foo\" is not 32 bytes in base64",
        ),
        (format!("{{\"keys\":[{0},{0}]}}", entry("foo", secret)), "key \"foo\" is there twice"),
    ] {
        installation.write("keys.json", &content);
        for command in ["serve", "check"] {
            let (code, out, err) =
                told(&xksd(installation.path(), &[command, "--config", "xksd.toml"]));
            assert_eq!((code, out.as_str()), (2, ""), "{command}: {err}");
            assert!(
                err.contains("key_manager[0].key_file: ")
                    && err.contains("1 problem in xksd.toml\n"),
                "{command}: {err}"
            );
            assert!(
                err.contains("keys.json: ") && err.contains(words) && !err.contains(&secret[4..20]),
                "{command} {words}: {err}"
            );
        }
    }
}

#[test]
fn check_names_the_keys_that_are_not_in_a_key_file() {
    let installation = Installation::default();
    let (code, out, err) = told(&xksd(installation.path(), &["check", "--config", "xksd.toml"]));
    // The server starts without it, and serves the others.
    assert!(code == 0 && out.contains("can be used"), "{err}");
    let missing = "warning: keystore[0].key[2]: there is no key with the label \"absent\" in \
        keys.json, the key file of \"local\"\n";
    assert!(err.contains(missing) && err.matches("no key with the label").count() == 1, "{err}");
    installation.write("keys.json", "{\"keys\":[]}");
    let (code, _, err) = told(&xksd(installation.path(), &["check", "--config", "xksd.toml"]));
    assert_eq!((code, err.matches("no key with the label").count()), (0, 5), "{err}");
}

#[test]
fn serve_that_cannot_have_its_port_exits_with_1_and_leaves_a_running_one_alone() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let installation = Installation::new(&with_port(port));
    let (code, _, err) = told(&xksd(installation.path(), &["serve", "--config", "xksd.toml"]));
    assert_eq!(code, 1);
    assert!(err.contains("server.listen") && err.contains(&port.to_string()), "{err}");
    // Before any key manager is opened: of an HSM each start is a login.
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{port}\"");
    for config in [with_port(port), Config { admin, ..with_port(free_port()) }] {
        let key_managers = config.key_managers.replace("keys.json", "none.json");
        let installation = Installation::new(&Config { key_managers, ..config });
        let (code, _, err) = told(&xksd(installation.path(), &["serve", "--config", "xksd.toml"]));
        assert!(
            code == 1 && err.contains(&port.to_string()) && !err.contains("does not exist"),
            "{err}"
        );
    }
    drop(taken);

    // A second xksd on the same port could share it with the first; on the same admin port it
    // cannot.
    for (key, other) in [("server.listen", free_port()), ("admin.listen", free_port())] {
        let with_admin = |port, admin| Config {
            admin: format!("[admin]\nlisten = \"127.0.0.1:{admin}\""),
            ..with_port(port)
        };
        let (port, admin) = (free_port(), free_port());
        let installation = Installation::new(&with_admin(port, admin));
        let server = installation.start();
        let second =
            if key == "server.listen" { with_admin(port, other) } else { with_admin(other, admin) };
        let second = Installation::new(&second);
        let (code, _, err) = told(&xksd(second.path(), &["serve", "--config", "xksd.toml"]));
        assert_eq!(code, 1);
        let taken = if key == "server.listen" { port } else { admin };
        assert!(err.contains(key) && err.contains(&taken.to_string()), "{err}");
        assert!(!err.contains("serves on"), "{err}");
        for _ in 0..20 {
            Api::new(&installation, &server).round_trip("foo");
        }
    }
}

#[test]
fn a_restart_has_the_port_at_once() {
    let installation = Installation::new(&with_port(free_port()));
    for _ in 0..2 {
        let server = installation.start();
        // An open connection, which the server closes as it stops: its address waits in TIME_WAIT.
        let mut api = Api::new(&installation, &server);
        api.round_trip("foo");
        drop(server);
    }
}

/// `xksd serve` as a user for whom the limit of locked memory is one. xksd must not need root to
/// say so.
fn with_locked_memory(installation: &Installation, bytes: u64) -> std::process::Output {
    let config = installation.config_file();
    let limit = format!("--memlock={bytes}:{bytes}");
    let mut words = vec!["timeout", "--signal=KILL", "30", "prlimit", &limit];
    if std::fs::metadata(installation.path()).expect("there").uid() == 0 {
        let all = Command::new("chown")
            .arg("-R")
            .arg("65534:65534")
            .arg(installation.path())
            .status()
            .expect("chown");
        assert!(all.success());
        words.extend(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    // The build directory may be closed to others.
    let binary = installation.path().join("xksd");
    std::fs::copy(env!("CARGO_BIN_EXE_xksd"), &binary).expect("copied");
    words.extend([
        binary.to_str().expect("UTF-8"),
        "serve",
        "--config",
        config.to_str().expect("UTF-8"),
    ]);
    Command::new(words[0]).args(&words[1..]).output().expect("runs")
}

#[test]
fn too_little_locked_memory_is_one_clear_sentence() {
    let (code, out, err) = told(&with_locked_memory(&Installation::default(), 65536));
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    for words in ["64 KiB", "512 KiB", "LimitMEMLOCK", "ulimit -l"] {
        assert!(err.contains(words), "{words}: {err}");
    }
}

/// Where the kernel counts the rings: seen on Linux 6.18, and taken to be so from 6.14 on.
#[test]
fn locked_memory_for_some_of_the_shards_alone_is_told_too() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("readable");
    let version: Vec<u32> =
        release.split(['.', '-']).map_while(|part| part.parse().ok()).take(2).collect();
    if version < vec![6, 14] {
        return eprintln!("not tried: Linux {release} does not count them");
    }
    let config = Config::default();
    let installation = Installation::new(&Config {
        server: config.server.replace("shards = 1", "shards = 8"),
        ..config
    });
    let (code, _, err) = told(&with_locked_memory(&installation, 2 * 1024 * 1024));
    assert_eq!(code, 1, "{err}");
    for words in [
        "did not start",
        "limited to 2048 KiB",
        "each shard may need 1280 KiB",
        "LimitMEMLOCK=infinity",
    ] {
        assert!(err.contains(words), "{words}: {err}");
    }
}

#[test]
fn missing_io_uring_is_one_clear_sentence() {
    let installation = Installation::default();
    let script = test_harness::programs::without_io_uring();
    // EPERM: a seccomp profile, or the sysctl; ENOSYS: an old kernel, or another profile; EINVAL:
    // what knows io_uring and not this flag of it.
    for (call, errno) in [
        ("setup", "1"),
        ("setup", "38"),
        ("enter", "1"),
        ("enter", "38"),
        ("sleep", "1"),
        ("sleep", "22"),
    ] {
        let config = installation.config_file();
        let words = [
            script,
            call,
            errno,
            env!("CARGO_BIN_EXE_xksd"),
            "serve",
            "--config",
            config.to_str().expect("UTF-8"),
        ];
        let output = Command::new("python3")
            .args(words)
            .stdin(Stdio::null())
            .output()
            .expect("python3 is missing: run scripts/test");
        let (code, out, err) = told(&output);
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        for words in ["io_uring is not available", "kernel.io_uring_disabled", "seccomp"] {
            assert!(err.contains(words), "{words}: {err}");
        }
    }
}

/// Starts the demo; its standard output as it comes.
fn demo(directory: &Path, words: &[&str]) -> (Server, std::sync::mpsc::Receiver<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xksd"));
    command.arg("demo").args(words).current_dir(directory).stdout(Stdio::piped());
    let (mut server, out) = Server::run_with_output(&mut command);
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    assert!(server.is_running());
    (server, lines)
}

/// The curl command among what the demo says, as a person copies it.
fn curl_lines(seen: &[String]) -> String {
    let command = seen.iter().skip_while(|line| !line.contains("curl --config"));
    let length = command.clone().take_while(|line| line.ends_with('\\')).count() + 1;
    command.take(length).map(|line| format!("{line}\n")).collect()
}

fn until(lines: &std::sync::mpsc::Receiver<String>, words: &str) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let line = lines
            .recv_timeout(test_harness::PATIENCE)
            .unwrap_or_else(|_| panic!("no {words:?} in {seen:#?}"));
        let found = line.contains(words);
        seen.push(line);
        if found {
            return seen;
        }
    }
}

#[test]
fn the_demo_proves_itself_serves_until_ctrl_c_and_starts_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (listen, admin) =
        (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let words = ["--dir", "d", "--listen", &listen, "--admin", &admin];
    let mut keys = Vec::new();
    for run in 0..2 {
        let (mut server, lines) = demo(directory.path(), &words);
        let seen = until(&lines, "Serving; Ctrl-C stops.");
        assert!(seen.iter().any(|line| line.contains("all checks passed")), "{seen:#?}");
        let purpose = "three warnings above are right: the probe sends an altered tag";
        assert!(seen.iter().any(|line| line.contains(purpose)), "{seen:#?}");
        assert_eq!(
            seen.iter().any(|line| line.starts_with("Using what is in d.")),
            run == 1,
            "{seen:#?}"
        );
        server.wait_event(&["trying out"]);
        let (code, out, _) = told(&xksd(directory.path(), &["probe", "--config", "d/xksd.toml"]));
        assert_eq!(code, 0, "{out}");
        keys.push(std::fs::read(directory.path().join("d/keys.json")).expect("there"));

        if run == 1 {
            // A second demo beside it tells that it cannot.
            let (code, _, err) = told(&xksd(directory.path(), &[&["demo"], &words[..]].concat()));
            assert_eq!(code, 1, "{err}");
            assert!(err.contains("server.listen"), "{err}");
            assert_eq!(told(&xksd(directory.path(), &["probe", "--config", "d/xksd.toml"])).0, 0);
        }
        server.signal(Signal::INT);
        assert_eq!(server.wait().code(), Some(0));
    }
    assert_eq!(keys[0], keys[1]);
    eventually("gone", || TcpListener::bind(&listen).is_ok());
}

#[test]
fn the_curl_line_of_the_demo_works_as_it_is_printed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (listen, admin) =
        (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let (mut server, lines) =
        demo(directory.path(), &["--dir", "d", "--listen", &listen, "--admin", &admin]);
    let command = curl_lines(&until(&lines, "Serving; Ctrl-C stops."));
    let tried = Command::new("sh")
        .args(["-c", &command])
        .current_dir(directory.path())
        .output()
        .expect("a shell");
    let (code, out, err) = told(&tried);
    assert!(code == 0 && out.contains("xksProxyFleetSize"), "{command}: {out}{err}");
    server.signal(Signal::INT);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_demo_makes_nothing_where_a_port_is_taken() {
    let directory = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let free = format!("127.0.0.1:{}", free_port());
    for (listen, admin, option) in [
        (&taken, &free, "--listen"),
        (&free, &taken, "--admin"),
        (&free, &free, "--admin"),
        (&"192.0.2.1:1".to_owned(), &free, "--listen"),
    ] {
        let (code, out, err) =
            told(&xksd(directory.path(), &["demo", "--listen", listen, "--admin", admin]));
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        let address = if option == "--listen" { listen } else { admin };
        assert!(
            err.starts_with(&format!("cannot listen on {address}: "))
                && err.ends_with(&format!("give another address with {option}\n")),
            "{err}"
        );
    }
    assert_eq!(std::fs::read_dir(directory.path()).expect("there").count(), 0);
}

/// Nothing else is wrong with a server of these tests than who has issued its certificate.
#[test]
fn check_looks_at_a_server_as_kms_will() {
    let installation = Installation::new(&with_port(free_port()));
    let (ca, key) = (Ca::root("Test Root"), KeyPair::generate().expect("a key"));
    let name = "xks.bank.example";
    let leaf = Leaf { dns_names: vec![name.to_owned()], ..Leaf::server() };
    let leaf = Leaf { common_names: Leaf::new(&[name]).common_names, ..leaf };
    let chain = [ca.issue(&leaf, &key).pem(), ca.pem()].concat();
    installation.write("tls/chain.pem", &chain);
    installation.write("tls/key.pem", &key.serialize_pem());
    installation.write("ca.pem", &ca.pem());
    let server = installation.start();
    let connect = format!("127.0.0.1:{}", server.port);
    let check = |words: &[&str]| {
        let all = [&["check", "--config", "xksd.toml", "--aws", "--connect", &connect], words];
        told(&xksd(installation.path(), &all.concat()))
    };
    let (code, out, err) = check(&[]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("1 of the checks failed"), "{out}{err}");
    let failed: Vec<&str> = out.lines().filter(|line| line.contains("FAIL")).collect();
    assert!(failed[0].contains("XksProxyInvalidConfigurationException"), "{out}");
    assert!(failed[0].contains("Test Root is not among the authorities"), "{out}");
    for words in ["https://xks.bank.example", "XksProxyUriPath /one/kms/xks/v1", "local ACTIVE"] {
        assert!(out.contains(words), "{out}");
    }
    let (code, out, _) = check(&["--url", "https://xks.bank.example:8443"]);
    assert_eq!(code, 1);
    assert!(out.contains("ValidationException: KMS connects to port 443"), "{out}");
    let (code, out, _) = check(&["--url", "https://other.example"]);
    assert_eq!(code, 1);
    assert!(out.contains("XksProxyInvalidConfigurationException: TLS handshake"), "{out}");
    drop(server);
    // The kernel takes io_uring's listeners down a moment after the process.
    eventually("nobody listens", || std::net::TcpStream::connect(&connect).is_err());
    let (code, out, _) = check(&[]);
    assert_eq!(code, 1);
    assert!(out.contains("XksProxyUriUnreachableException: connecting to"), "{out}");
}
