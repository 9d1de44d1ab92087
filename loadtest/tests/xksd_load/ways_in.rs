//! What a proxy may ask of its clients: a certificate, the right credential for each key store.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::proxies::{Demo, load, told};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use serde_json::Value;

const NAME: &str = "cks.kms.us-east-1.amazonaws.com";
const SHORT: [&str; 8] =
    ["--rate", "100", "--duration", "1s", "--warmup", "0s", "--timeout", "20s"];

fn run(demo: &Demo, more: &[&str]) -> (i32, String) {
    let config = demo.config();
    told(&load(&[&["run", "--config", &config][..], &SHORT, &["--max-errors", "0"], more].concat()))
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

#[test]
fn a_proxy_that_wants_a_client_certificate_gets_one() {
    let demo = Demo::start_with(|dir, config| {
        let mut params = named("client CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        for (file, name) in [("client", NAME), ("other", "cks.kms.eu-west-1.amazonaws.com")] {
            let key = KeyPair::generate().unwrap();
            let mut params = named(name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            std::fs::write(
                dir.join(format!("{file}.pem")),
                params.signed_by(&key, &ca).unwrap().pem(),
            )
            .unwrap();
            std::fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).unwrap();
        }
        std::fs::write(dir.join("client-ca.pem"), ca.pem()).unwrap();
        format!(
            "{config}\n[tls.client]\ntrust_anchors = \"client-ca.pem\"\nsubject_common_names = \
             [\"{NAME}\"]\n"
        )
    });
    let [certificate, key] = ["client.pem", "client.key"].map(|file| demo.file(file));
    for more in
        [&[][..], &["--tls", "1.2"], &["--reconnect-rate", "20", "--resume"], &["--idle", "5"]]
    {
        let (code, text) = run(
            &demo,
            &[&["--client-certificate", &certificate, "--client-key", &key], more].concat(),
        );
        assert_eq!(code, 0, "{more:?}: {text}");
        assert!(!more.contains(&"--idle") || text.contains("5 of 5 opened, 0 closed"), "{text}");
    }
    let address = demo.address();
    for tls in ["1.2", "1.3"] {
        let (code, text) = run(&demo, &["--tls", tls]);
        assert_eq!(code, 2, "{text}");
        assert!(
            text.contains(
                "CertificateRequired; does the proxy want a client certificate? give \
            --client-certificate"
            ),
            "{text}"
        );
        assert!(text.contains(&address) && text.lines().count() == 1, "{text}");
    }
    // Where no request goes before the run, it is heard of while it lasts.
    let (code, text) = run(&demo, &["--unverified", "--tls", "1.3"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("give --client-certificate and --client-key"), "{text}");
    // The authority of the clients is not that of the proxy.
    let (code, text) = run(&demo, &["--ca", &demo.file("client-ca.pem")]);
    assert_eq!(code, 2, "{text}");
    assert!(
        text.contains("UnknownIssuer; no authority in") && text.contains("give --ca FILE"),
        "{text}"
    );
    let [certificate, key] = ["other.pem", "other.key"].map(|file| demo.file(file));
    for tls in ["1.2", "1.3"] {
        let (code, text) =
            run(&demo, &["--client-certificate", &certificate, "--client-key", &key, "--tls", tls]);
        assert_eq!(code, 2, "{text}");
        assert!(
            text.contains("; the proxy refuses the certificate of --client-certificate: ")
                && text.lines().count() == 1,
            "{text}"
        );
    }
}

#[test]
fn a_proxy_that_is_not_there_is_told_once() {
    let mut demo = Demo::start();
    demo.kill();
    let (config, address) = (demo.config(), demo.address());
    // The kernel closes the listeners that io_uring held some time after the process has gone.
    while std::net::TcpStream::connect(&address).is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
    for more in
        [&["run", "--workers", "2"][..], &["run", "--unverified", "--workers", "2"], &["capacity"]]
    {
        let (command, more) = more.split_first().unwrap();
        let (code, text) =
            told(&load(&[&[*command, "--config", &config, "--connections", "64"], more].concat()));
        assert_eq!(code, 2, "{text}");
        assert!(
            text.starts_with(&format!(
                "xksd-load: cannot connect to {address}: Connection refused"
            )),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn idle_connections_are_no_part_of_a_search() {
    let (code, text) = told(&load(&["capacity", "--config", "none.toml", "--idle", "1"]));
    assert_eq!(code, 2, "{text}");
    assert!(text.starts_with("xksd-load: --idle goes with `run` alone"), "{text}");
}

#[test]
fn every_key_of_every_key_store_is_asked_with_its_own_credential() {
    let other_id = "ABCDEFGHIJKLMNOPQR27";
    let demo = Demo::start_with(|dir, config| {
        let secret = "b3RoZXIgc2VjcmV0IG90aGVyIHNlY3JldCBvdGhlciBzZWNyZXQ=";
        let other = dir.join("secrets/other");
        std::fs::write(&other, secret).unwrap();
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).unwrap();
        let second = "[[keystore.key]]\nid = \"second\"\nlabel = \"demo\"\n";
        let keys = format!("[[keystore.key]]\nid = \"demo\"\n{second}");
        format!(
            "{config}\n{second}[[keystore]]\npath_prefix = \"/other\"\nkey_manager = \
             [\"demo\"]\n[[keystore.credential]]\n\
             access_key_id = \"{other_id}\"\nsecret_access_key = {{ file = \"secrets/other\" \
             }}\n{keys}"
        )
    });
    let config = std::fs::read_to_string(demo.config()).unwrap();
    let own_id = config.split("access_key_id = \"").nth(1).unwrap().split('"').next().unwrap();
    let stores = [
        format!("/demo:{own_id}:{}", demo.file("secrets/key-store-1")),
        format!("/other:{other_id}:{}", demo.file("secrets/other")),
    ];
    let json = demo.file("r.json");
    let keys =
        ["--key", "demo", "--key", "second", "--depth", "4", "--connections", "3", "--json", &json];
    let (code, text) =
        run(&demo, &[&["--keystore", &stores[0], "--keystore", &stores[1]], &keys[..]].concat());
    assert_eq!(code, 0, "{text}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(
        (
            &report["settings"]["key_stores"],
            &report["settings"]["keys"],
            &report["settings"]["depth"]
        ),
        (&2.into(), &2.into(), &4.into())
    );
    // The credential of one key store is good for that one alone.
    let crossed = format!("/other:{own_id}:{}", demo.file("secrets/key-store-1"));
    let (code, text) = run(&demo, &["--keystore", &stores[0], "--keystore", &crossed]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("AuthenticationFailedException (401)"), "{text}");
}

#[test]
fn missing_io_uring_is_one_clear_sentence() {
    let dir = crate::proxies::demo_files();
    let config = dir.path().join("xksd.toml");
    let script = test_harness::programs::without_io_uring();
    // EPERM: a seccomp profile, or the sysctl; ENOSYS: an old kernel, or another profile.
    let refused = [
        ("setup", "1", "run"),
        ("setup", "38", "capacity"),
        ("enter", "1", "capacity"),
        ("enter", "38", "run"),
        ("sleep", "22", "run"),
    ];
    for (call, errno, command) in refused {
        let words = [
            script,
            call,
            errno,
            env!("CARGO_BIN_EXE_xksd-load"),
            command,
            "--config",
            config.to_str().unwrap(),
        ];
        let (code, text) =
            told(&Command::new("python3").args(words).stdin(Stdio::null()).output().unwrap());
        assert_eq!((code, text.lines().count()), (2, 1), "{call} {errno}: {text}");
        for words in ["xksd-load: io_uring cannot be used (", "kernel.io_uring_disabled", "seccomp"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
