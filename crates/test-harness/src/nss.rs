//! Databases of NSS softokn.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;

use cryptoki::context::Pkcs11;
use cryptoki_sys::{CK_C_INITIALIZE_ARGS, CKF_OS_LOCKING_OK, CKR_OK};

use crate::token::{PIN, Token};
use crate::{programs, raw};

/// The token with the keys; softokn's other one holds none.
pub const TOKEN: &str = "NSS Certificate DB";

pub fn softokn() -> PathBuf {
    programs::library(&[
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

/// Makes a database with the PIN [`PIN`].
pub fn new_database(directory: &Path) {
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
}

/// Initialises softokn in this process, on the database in `directory`.
pub fn initialize(directory: &Path) {
    let parameters = CString::new(parameters(directory)).expect("no NUL byte");
    let mut arguments = CK_C_INITIALIZE_ARGS {
        flags: CKF_OS_LOCKING_OK,
        pReserved: parameters.as_ptr().cast_mut().cast(),
        ..Default::default()
    };
    let initialize = raw::functions(&softokn()).C_Initialize.expect("a function");
    // SAFETY: the arguments and the text they point at live through the call.
    assert_eq!(unsafe { initialize((&raw mut arguments).cast()) }, CKR_OK);
}

/// The database's token, once softokn is initialised.
pub fn token() -> Token {
    let pkcs11 = Pkcs11::new(softokn()).expect("loads");
    let slots = pkcs11.get_slots_with_token().expect("slots");
    let slot = slots
        .into_iter()
        .find(|slot| pkcs11.get_token_info(*slot).expect("a token").label() == TOKEN)
        .expect("the database");
    Token { pkcs11, slot }
}
