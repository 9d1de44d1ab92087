//! The real server over SoftHSM. Each test runs in its own process, for SOFTHSM2_CONF.

use crate::conformance;
use std::process::Command;

use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, KeyType};
use cryptoki::types::Date;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest;
use serde_json::json;
use test_harness::api::{encrypt_body, name};
use test_harness::config::FOO;
use test_harness::token::PIN;
use test_harness::{Api, Config, Installation, aad, b64, bytes, envelope, with};
use test_harness::{Token, own_process, softhsm};

/// Keys as AWS's test client wants them, and some that cannot serve.
const KEYS: &[&str] = &[
    "foo",
    "encrypt-only",
    "decrypt-only",
    "impotent",
    "aes128",
    "secret",
    "twin",
    "expired",
    "plain",
    "deriving",
    "open",
];

fn token() -> Token {
    let token = softhsm::new_token(&softhsm::load(), "xks");
    token.import_key(
        "foo",
        KeyType::AES,
        &FOO,
        &[Attribute::Encrypt(true), Attribute::Decrypt(true)],
    );
    token.make_key("encrypt-only", 32, &[Attribute::Decrypt(false)]);
    token.make_key("decrypt-only", 32, &[Attribute::Encrypt(false)]);
    token.make_key("impotent", 32, &[Attribute::Encrypt(false), Attribute::Decrypt(false)]);
    token.make_key("aes128", 16, &[]);
    token.import_key("secret", KeyType::GENERIC_SECRET, &[7; 32], &[Attribute::Sign(true)]);
    token.make_key("twin", 32, &[Attribute::Id(vec![1])]);
    token.make_key("twin", 32, &[Attribute::Id(vec![2])]);
    // SoftHSM 2.6 cannot read the dates of private keys.
    let past = Date::new_from_str_slice("2020", "01", "31").expect("a date");
    token.make_key("expired", 32, &[Attribute::EndDate(past), Attribute::Private(false)]);
    let bare = [
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
    ];
    token.make_key("plain", 32, &bare);
    let nothing_else =
        [Attribute::Encrypt(false), Attribute::Decrypt(false), Attribute::Derive(true)];
    token.make_key("deriving", 32, &[&bare[..], &nothing_else].concat());
    token.make_key(
        "open",
        32,
        &[&bare[..], &[Attribute::Extractable(true), Attribute::Sensitive(false)]].concat(),
    );
    token
}

fn manager(pin: &str) -> String {
    let module = softhsm::module();
    format!(
        "module = \"{}\"\ntoken = \"xks\"\npin = {{ file = \"{pin}\" }}\nprofile = \
         \"softhsm\"\nsessions = 4",
        module.display()
    )
}

fn installation() -> Installation {
    let installation = Installation::new(&Config::hsm(&manager("pin"), KEYS));
    installation.write("pin", PIN);
    installation
}

own_process! {
    fn the_four_calls(_directory) {
        let _token = token();
        let installation = installation();
        let server = installation.start();
        let mut api = Api::new(&installation, &server);
        conformance::all(&mut api);
        conformance::limited_keys(&mut api, "encrypt-only", "decrypt-only", "impotent");

        let health = api.health();
        assert!(health["ekmVendor"].as_str().is_some_and(|vendor| vendor.contains("SoftHSM")), "{health}");
        assert!(health["ekmFleetDetails"][0]["model"].as_str().is_some_and(|model| model.contains("xks")), "{health}");
        assert_eq!(server.status()["key_managers"][0]["token"], "xks");
        // SoftHSM computes in this process: more than one a core would gain nothing.
        let open = server.metric("xksd_sessions{key_manager=\"hsm\",state=\"open\"}");
        assert!((1.0..=4.0).contains(&open), "{open}");
        assert!(server.metric("xksd_queue_duration_seconds_count{operation=\"encrypt\"}") > 10.0);
        let (code, log) = server.stop();
        assert_eq!(code, Some(0));
        assert!(!log.iter().any(|line| line.contains(PIN)));
    }
}

own_process! {
    fn metadata_tells_the_truth_about_keys_that_cannot_serve(_directory) {
        let _token = token();
        let installation = installation();
        let server = installation.start();
        let mut api = Api::new(&installation, &server);
        let describe = envelope("DescribeKey", &json!({}));
        let mut metadata = |key: &str| {
            let answer = api.ok(&format!("keys/{key}/metadata"), &describe);
            let usage: Vec<String> = answer["keyUsage"].as_array().expect("an array").iter().map(|u| u.as_str().expect("text").to_owned()).collect();
            (answer["keySpec"].as_str().expect("text").to_owned(), answer["keyStatus"].as_str().expect("text").to_owned(), usage.join(" "))
        };
        let row = |spec: &str, status: &str, usage: &str| (spec.to_owned(), status.to_owned(), usage.to_owned());
        // What a key is not denied when it is made, SoftHSM allows it.
        assert_eq!(metadata("foo"), row("AES_256", "ENABLED", "ENCRYPT DECRYPT SIGN VERIFY WRAP \
            UNWRAP"));
        assert_eq!(metadata("aes128"), row("AES_128", "ENABLED", "ENCRYPT DECRYPT SIGN VERIFY WRAP \
            UNWRAP"));
        assert_eq!(metadata("expired"), row("AES_256", "DISABLED", "ENCRYPT DECRYPT SIGN VERIFY \
            WRAP UNWRAP"));
        assert_eq!(metadata("plain"), row("AES_256", "ENABLED", "ENCRYPT DECRYPT"));
        assert_eq!(metadata("deriving"), row("AES_256", "ENABLED", "DERIVE"));
        assert_ne!(metadata("secret").0, "AES_256");

        let encrypt = encrypt_body(b"text", &json!({}));
        let mut refused = |key: &str| api.error(&format!("keys/{key}/encrypt"), &encrypt);
        assert_eq!(refused("expired"), name(400, "InvalidStateException"));
        assert_eq!(refused("twin"), name(404, "KeyNotFoundException"));
        for key in ["aes128", "secret"] {
            assert_eq!(refused(key), name(400, "InvalidKeyUsageException"), "{key}");
        }
        for key in ["aes128", "secret", "twin", "expired", "encrypt-only", "decrypt-only", "impotent", "deriving"] {
            server.wait_event(&[&format!("key {key:?}"), "cannot serve"]);
        }
        // So says the command that looks before.
        let output = Command::new(env!("CARGO_BIN_EXE_xksd")).args(["keys", "--config"]).arg(installation.config_file()).output().expect("runs");
        assert_eq!(output.status.code(), Some(1));
        let out = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!((out.matches("CANNOT SERVE").count(), out.matches(": can serve").count()), (8, 3), "{out}");
        // A key that is not as it should be serves, and is named.
        let told = |key: &str| out.lines().find(|line| line.contains(&format!("(label {key:?}): "))).expect("a line").to_owned();
        assert!(told("plain").ends_with(": can serve"), "{out}");
        let open = "can serve, but it can leave the HSM (CKA_EXTRACTABLE); it is not marked secret \
            (not CKA_SENSITIVE)";
        assert!(told("open").ends_with(open), "{out}");
        assert!(told("foo").contains("(CKA_WRAP); ") && told("foo").ends_with("(CKA_UNWRAP)"), "{out}");
    }
}

own_process! {
    fn ciphertexts_are_the_ones_of_the_formula_and_outlive_a_restart(_directory) {
        let _token = token();
        let mut config = Config::hsm(&manager("pin"), KEYS);
        config.key_stores = config.key_stores.replace("path_prefix = \"/one\"", "path_prefix = \
            \"/one\"\naccept_foreign_ciphertext = [\"aws-sample\"]");
        let installation = Installation::new(&config);
        installation.write("pin", PIN);
        let server = installation.start();
        let answer = Api::new(&installation, &server).encrypt("foo", b"kept", &aad("a=b"));
        assert_eq!(server.stop().0, Some(0));
        // The key's bytes are known here: anybody who has them can open it, without xksd and
        // without SoftHSM.
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &FOO).expect("a key"));
        let nonce = |iv: &[u8]| Nonce::try_assume_unique_for_key(iv).expect("12 bytes");
        let mut sealed = [bytes(&answer, "ciphertext"), bytes(&answer, "authenticationTag")].concat();
        let framed = [&[0, 3][..], b"a=b", &[3, 1, 0, 0]].concat();
        let opened = key.open_in_place(nonce(&bytes(&answer, "initializationVector")), Aad::from(framed), &mut sealed).expect("opens");
        assert_eq!(opened, b"kept");

        let server = installation.start();
        let mut api = Api::new(&installation, &server);
        assert_eq!(api.decrypt("foo", &answer, &aad("a=b")), b"kept");
        let mut text = b"of the sample".to_vec();
        let framed = [&[0, 3][..], digest::digest(&digest::SHA256, b"a=b").as_ref(), &[0]].concat();
        let tag = key.seal_in_place_separate_tag(nonce(&[5; 12]), Aad::from(framed), &mut text).expect("sealed");
        let foreign = json!({"initializationVector": b64([5; 12]), "ciphertext": b64(text), "authenticationTag": b64(tag.as_ref())});
        assert_eq!(api.decrypt("foo", &foreign, &aad("a=b")), b"of the sample");
        assert_eq!(api.decrypt_error("foo", &foreign, &aad("a=c")), name(400, "InvalidCiphertextException"));
    }
}

own_process! {
    fn a_wrong_pin_is_told_and_nothing_is_ready(_directory) {
        let _token = token();
        let installation = installation();
        installation.write("pin", "not the PIN");
        let server = test_harness::Server::spawn(&installation, &[], |_| ());
        let told = server.wait_event(&["key manager \"hsm\" does not serve"]);
        assert!(told.contains("CKR_PIN_INCORRECT") && !told.contains("not the PIN"), "{told}");
        assert_eq!(server.get("/readyz"), (503, "no key manager serves\n".to_owned()));
        assert_eq!(server.get("/livez").0, 200);
        let mut api = Api::new(&installation, &server);
        let health = api.health();
        assert_eq!(health["ekmFleetDetails"][0]["healthStatus"], "UNAVAILABLE");
        // Until the first log-in has failed for certain, it may also be waited for in vain.
        test_harness::eventually("refused at once", || {
            let (status, error) = api.error("keys/foo/encrypt", &encrypt_body(b"text", &json!({})));
            assert!(status == 500 || error == "DependencyTimeoutException", "{error}");
            error == "InternalException"
        });
        assert_eq!(api.error("keys/nobody/encrypt", &encrypt_body(b"text", &json!({}))), name(404, "KeyNotFoundException"));
        let (code, log) = server.stop();
        assert_eq!(code, Some(0));
        assert!(!log.iter().any(|line| line.contains("not the PIN")));
        // It was tried once, not until the token locked itself.
        installation.write("pin", PIN);
        let server = installation.start();
        Api::new(&installation, &server).round_trip("foo");
    }
}

own_process! {
    fn a_key_made_while_it_serves_and_one_taken_away(_directory) {
        let token = token();
        let mut keys = KEYS.to_vec();
        keys.push("later");
        let installation = Installation::new(&Config::hsm(&manager("pin"), &keys));
        installation.write("pin", PIN);
        let server = installation.start();
        let mut api = Api::new(&installation, &server);
        server.wait_event(&["key \"later\"", "cannot serve"]);
        assert_eq!(api.error("keys/later/encrypt", &encrypt_body(b"text", &json!({}))), name(404, "KeyNotFoundException"));
        token.make_key("later", 32, &[]);
        test_harness::eventually("found", || api.call("keys/later/encrypt", &encrypt_body(b"text", &json!({}))).status == 200);
        let body = with(&encrypt_body(b"text", &json!({})), &json!({"ciphertextDataIntegrityValueAlgorithm": "SHA_256"}));
        api.ok("keys/later/encrypt", &body);
        token.delete_key("later");
        test_harness::eventually("gone", || api.error("keys/later/encrypt", &encrypt_body(b"text", &json!({}))) == name(404, "KeyNotFoundException"));
        api.round_trip("foo");
    }
}

own_process! {
    fn a_key_that_the_module_refuses_takes_nothing_from_the_others(_directory) {
        let token = token();
        let without_gcm = [Attribute::AllowedMechanisms(vec![MechanismType::AES_CBC])];
        token.make_key("refused", 32, &without_gcm);
        let installation = Installation::new(&Config::hsm(&manager("pin"), &["foo", "refused"]));
        installation.write("pin", PIN);
        let server = installation.start();
        let usage = name(400, "InvalidKeyUsageException");
        std::thread::scope(|scope| {
            let beside = || {
                let mut api = Api::new(&installation, &server);
                for _ in 0..200 {
                    let told = api.error("keys/refused/encrypt", &encrypt_body(b"text", &json!({})));
                    assert_eq!(told, usage);
                }
            };
            (0..3).for_each(|_| drop(scope.spawn(beside)));
            let mut api = Api::new(&installation, &server);
            for _ in 0..200 {
                let sealed = api.encrypt("foo", b"text", &json!({}));
                assert_eq!(api.decrypt("foo", &sealed, &json!({})), b"text");
            }
        });
        assert_eq!(server.metric("xksd_sessions_reopened_total{key_manager=\"hsm\"}"), 0.0);
        // It is named, for those who ask and those who watch.
        let line = server.wait_event(&["key \"refused\"", "fails in key manager \"hsm\""]);
        assert!(line.contains("C_EncryptInit: CKR_MECHANISM_INVALID"), "{line}");
        let failures = &server.status()["key_managers"][0]["key_failures"];
        assert_eq!((&failures["cannot_serve"], &failures["refused"][0]["label"]), (&json!(1), &json!("refused")), "{failures}");
        assert_eq!(server.metric("xksd_key_manager_key_failures{key_manager=\"hsm\",why=\"cannot_serve\"}"), 1.0);
        // Mended, it is found to work also without a request, and no restart.
        token.delete_key("refused");
        token.make_key("refused", 32, &[]);
        server.wait_event(&["key \"refused\"", "works in key manager \"hsm\" again"]);
        Api::new(&installation, &server).encrypt("refused", b"text", &json!({}));
    }
}
