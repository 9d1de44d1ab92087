//! SoftHSM: its configuration, and tokens of it.

use std::path::{Path, PathBuf};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

use crate::token::{PIN, Token};
use crate::{pki, programs};

const SO_PIN: &str = "87654321";

pub fn module() -> PathBuf {
    programs::library(&[
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
    ])
}

/// Makes an empty folder of tokens and a configuration that names it, for `SOFTHSM2_CONF`.
pub fn configure(directory: &Path) -> PathBuf {
    let tokens = directory.join("tokens");
    std::fs::create_dir(&tokens).expect("made");
    let configuration = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    pki::write(directory, "softhsm2.conf", &configuration)
}

pub fn load() -> Pkcs11 {
    load_from(&module())
}

/// SoftHSM, or a module that stands before it.
pub fn load_from(module: &Path) -> Pkcs11 {
    let pkcs11 = Pkcs11::new(module).expect("loads");
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).expect("initialises");
    pkcs11
}

/// A fresh token with this label and the PIN [`PIN`].
pub fn new_token(pkcs11: &Pkcs11, label: &str) -> Token {
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
    Token { pkcs11: pkcs11.clone(), slot }
}
