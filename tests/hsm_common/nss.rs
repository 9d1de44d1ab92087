//! Databases of NSS softokn.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cryptoki::context::Pkcs11;
use xksd::key_manager::Engine as _;
use xksd::key_manager::pkcs11::{Pkcs11Engine, Profile, Settings, TokenSelector};
use zeroize::Zeroizing;

use super::{Beside, PIN, module};

/// The token with the keys; softokn's other one holds none.
pub const TOKEN: &str = "NSS Certificate DB";

pub fn softokn() -> PathBuf {
    module(&[
        "/usr/lib/x86_64-linux-gnu/libsoftokn3.so",
        "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
        "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so",
        "/usr/lib64/libsoftokn3.so",
    ])
}

/// `initialize_parameters` of the database in a directory.
pub fn parameters(directory: &Path) -> String {
    format!(
        "configdir='sql:{}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=",
        directory.display()
    )
}

pub fn settings(directory: &Path) -> Settings {
    Settings {
        name: "nss".to_owned(),
        module: softokn(),
        token: TokenSelector::Label(TOKEN.to_owned()),
        pin: Zeroizing::new(PIN.to_owned()),
        profile: Profile::Nss,
        initialize_parameters: Some(parameters(directory)),
    }
}

/// A database with a PIN, xksd's engine on it (which initialises softokn), and the test's own way
/// in.
pub fn database(directory: &Path) -> (Arc<Pkcs11Engine>, Beside) {
    let password = directory.join("password");
    std::fs::write(&password, format!("{PIN}\n")).expect("written");
    let made = Command::new("certutil")
        .args(["-N", "-d"])
        .arg(format!("sql:{}", directory.display()))
        .arg("-f")
        .arg(&password)
        .output();
    let made = made.expect("certutil is installed by scripts/test");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let engine = Pkcs11Engine::new(settings(directory)).expect("made");
    engine.info().expect("initialises softokn");
    let pkcs11 = Pkcs11::new(softokn()).expect("loads");
    let slots = pkcs11.get_slots_with_token().expect("slots");
    let slot = slots
        .into_iter()
        .find(|slot| pkcs11.get_token_info(*slot).expect("a token").label() == TOKEN)
        .expect("the database");
    (engine, Beside { pkcs11, slot })
}
