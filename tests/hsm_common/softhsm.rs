//! Tokens of SoftHSM.

use std::path::Path;
use std::sync::Arc;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use xksd::key_manager::pkcs11::{Pkcs11Engine, Profile, Settings, TokenSelector};
use zeroize::Zeroizing;

pub use super::remote::softhsm;
use super::{Beside, PIN};

const SO_PIN: &str = "87654321";

pub fn load() -> Pkcs11 {
    load_from(&softhsm())
}

/// SoftHSM, or a module that stands before it.
pub fn load_from(module: &Path) -> Pkcs11 {
    let pkcs11 = Pkcs11::new(module).expect("loads");
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).expect("initialises");
    pkcs11
}

/// A fresh token.
pub fn token(pkcs11: &Pkcs11, label: &str) -> Beside {
    // The last slot is SoftHSM's uninitialised one; using it moves it to a slot id made of its
    // serial.
    let free = *pkcs11.get_all_slots().expect("slots").last().expect("a free slot");
    pkcs11.init_token(free, &AuthPin::new(SO_PIN.into()), label).expect("a token");
    let slots = pkcs11.get_slots_with_initialized_token().expect("slots");
    let unset = |slot: &&_| {
        let info = pkcs11.get_token_info(**slot).expect("a token");
        info.label() == label && !info.user_pin_initialized()
    };
    let slot = *slots.iter().find(unset).expect("the new token");
    let session = pkcs11.open_rw_session(slot).expect("a session");
    session.login(UserType::So, Some(&AuthPin::new(SO_PIN.into()))).expect("the SO");
    session.init_pin(&AuthPin::new(PIN.into())).expect("a PIN");
    session.logout().expect("out");
    Beside { pkcs11: pkcs11.clone(), slot }
}

pub fn settings() -> Settings {
    Settings {
        name: "hsm".to_owned(),
        module: softhsm(),
        token: TokenSelector::Label("xks".to_owned()),
        pin: Zeroizing::new(PIN.to_owned()),
        profile: Profile::SoftHsm,
        initialize_parameters: None,
    }
}

pub fn engine() -> Arc<Pkcs11Engine> {
    Pkcs11Engine::new(settings()).expect("settings that can work")
}
