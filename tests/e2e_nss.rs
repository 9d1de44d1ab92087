//! The real server over NSS softokn.

mod e2e;
mod hsm_common;

use std::path::{Path, PathBuf};
use std::process::Command;

use cryptoki::context::Pkcs11;
use cryptoki::object::Attribute;
use e2e::{Api, Config, Site, aad, calls};
use hsm_common::{Beside, PIN, module};
use xksd::hsm::Engine as _;
use xksd::hsm::pkcs11::{Pkcs11Engine, Profile, Settings, TokenSelector};
use zeroize::Zeroizing;

const TOKEN: &str = "NSS Certificate DB";

fn softokn() -> PathBuf {
    module(&[
        "/usr/lib/x86_64-linux-gnu/libsoftokn3.so",
        "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
        "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so",
        "/usr/lib64/libsoftokn3.so",
    ])
}

fn parameters(directory: &Path) -> String {
    format!("configdir='sql:{}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=", directory.display())
}

/// A database with a PIN and keys.
fn database(directory: &Path) {
    let password = directory.join("password");
    std::fs::write(&password, format!("{PIN}\n")).expect("written");
    let made = Command::new("certutil").args(["-N", "-d"]).arg(format!("sql:{}", directory.display())).arg("-f").arg(&password).output();
    let made = made.expect("certutil is installed by scripts/test");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let settings = Settings {
        name: "nss".to_owned(),
        module: softokn(),
        token: TokenSelector::Label(TOKEN.to_owned()),
        pin: Zeroizing::new(PIN.to_owned()),
        profile: Profile::Nss,
        initialize_parameters: Some(parameters(directory)),
    };
    // Its way to initialise softokn in this process.
    let engine = Pkcs11Engine::new(settings).expect("made");
    engine.info().expect("initialises softokn");
    let pkcs11 = Pkcs11::new(softokn()).expect("loads");
    let slots = pkcs11.get_slots_with_token().expect("slots");
    let slot = slots.into_iter().find(|slot| pkcs11.get_token_info(*slot).expect("a token").label() == TOKEN).expect("the database");
    let beside = Beside { pkcs11, slot };
    beside.make_key("foo", 32, &[]);
    beside.make_key("encrypt-only", 32, &[Attribute::Decrypt(false)]);
    beside.make_key("decrypt-only", 32, &[Attribute::Encrypt(false)]);
    beside.make_key("impotent", 32, &[Attribute::Encrypt(false), Attribute::Decrypt(false)]);
}

own_process! {
    fn the_four_calls_and_a_restart(directory) {
        database(directory);
        let manager = format!(
            "module = \"{}\"\ntoken = \"{TOKEN}\"\npin = {{ env = \"XKSD_TEST_PIN\" }}\nprofile = \"nss\"\nsessions = 4\ninitialize_parameters = \"{}\"",
            softokn().display(),
            parameters(directory)
        );
        let site = Site::new(&Config::hsm(&manager, &["foo", "encrypt-only", "decrypt-only", "impotent"]));
        let start = || e2e::Server::start(&site, &[], |command| {
            command.env("XKSD_TEST_PIN", PIN);
        });
        let server = start();
        let mut api = Api::new(&site, &server);
        calls::all(&mut api);
        calls::limited_keys(&mut api, "encrypt-only", "decrypt-only", "impotent");
        let health = api.health();
        assert!(health["ekmVendor"].as_str().is_some_and(|vendor| vendor.contains("Mozilla")), "{health}");
        let answer = api.encrypt("foo", b"kept", &aad("a=b"));
        let (code, log) = server.stop();
        assert_eq!(code, Some(0));
        assert!(!log.iter().any(|line| line.contains(PIN)));
        let server = start();
        assert_eq!(Api::new(&site, &server).decrypt("foo", &answer, &aad("a=b")), b"kept");
    }
}
