//! The real server over p11-kit: its proxy, which offers what the system has configured, and its
//! client of a remote token.

use std::path::{Path, PathBuf};

use crate::conformance;
use cryptoki::object::Attribute;
use test_harness::token::PIN;
use test_harness::{Api, Config, Installation, Server, own_process, programs, softhsm};

/// What both test: SoftHSM's token with keys, behind `module`.
fn installation(module: &Path, keys: &[&str]) -> Installation {
    let manager = format!(
        "module = \"{}\"\ntoken = \"xks\"\npin = {{ file = \"pin\" }}\nprofile = \
         \"generic\"\nsessions = 4",
        module.display()
    );
    let installation = Installation::new(&Config::hsm(&manager, keys));
    installation.write("pin", PIN);
    installation
}

fn token() {
    let token = softhsm::new_token(&softhsm::load(), "xks");
    token.make_key("foo", 32, &[]);
    token.make_key("encrypt-only", 32, &[Attribute::Decrypt(false)]);
    token.make_key("decrypt-only", 32, &[Attribute::Encrypt(false)]);
    token.make_key("impotent", 32, &[Attribute::Encrypt(false), Attribute::Decrypt(false)]);
}

/// A file of Debian's p11-kit or p11-kit-modules.
fn of_p11_kit(name: &str) -> PathBuf {
    programs::library(&[
        &format!("/usr/lib/x86_64-linux-gnu/{name}"),
        &format!("/usr/lib/aarch64-linux-gnu/{name}"),
        &format!("/usr/lib64/{name}"),
    ])
}

own_process! {
    fn the_four_calls_through_the_proxy(directory) {
        token();
        // The user's configuration of p11-kit, which adds to the system's.
        let modules = directory.join(".config/pkcs11/modules");
        std::fs::create_dir_all(&modules).expect("made");
        let softhsm = format!("module: {}\n", softhsm::module().display());
        std::fs::write(modules.join("softhsm.module"), softhsm).expect("written");
        let installation = installation(&of_p11_kit("p11-kit-proxy.so"), &["foo", "encrypt-only", "decrypt-only", "impotent"]);
        let server = Server::start(&installation, &[], |command| { command.env("HOME", directory); });
        let mut api = Api::new(&installation, &server);
        conformance::all(&mut api);
        conformance::limited_keys(&mut api, "encrypt-only", "decrypt-only", "impotent");
    }
}
