//! xksd's PKCS#11 engine over SoftHSM and NSS.

use std::path::Path;
use std::sync::Arc;

use test_harness::token::PIN;
use test_harness::{Token, nss, softhsm};
use xksd::key_manager::Engine as _;
use xksd::key_manager::pkcs11::{Pkcs11Engine, Profile, Settings, TokenSelector};
use xksd::secret::SecretString;

pub fn secret(text: &str) -> SecretString {
    SecretString::new(text).expect("memory")
}

pub fn settings() -> Settings {
    Settings {
        name: "hsm".to_owned(),
        module: softhsm::module(),
        token: TokenSelector::Label("xks".to_owned()),
        pin: secret(PIN),
        profile: Profile::SoftHsm,
        initialize_parameters: None,
        verify_encryptions: true,
        read_write_sessions: false,
    }
}

pub fn engine() -> Arc<Pkcs11Engine> {
    Pkcs11Engine::new(settings()).expect("settings that can work")
}

pub fn nss_settings(directory: &Path) -> Settings {
    Settings {
        name: "nss".to_owned(),
        module: nss::softokn(),
        token: TokenSelector::Label(nss::TOKEN.to_owned()),
        pin: secret(PIN),
        profile: Profile::Nss,
        initialize_parameters: Some(nss::parameters(directory)),
        verify_encryptions: true,
        read_write_sessions: false,
    }
}

/// A database with a PIN, xksd's engine on it (which initialises softokn), and the test's own way
/// to the token.
pub fn nss_database(directory: &Path) -> (Arc<Pkcs11Engine>, Token) {
    nss::new_database(directory);
    let engine = Pkcs11Engine::new(nss_settings(directory)).expect("made");
    engine.info().expect("initialises softokn");
    (engine, nss::token())
}
