//! The real server over p11-kit: its proxy, which offers what the system has configured, and its
//! client of a remote token.

mod e2e;
mod hsm_common;

use std::path::{Path, PathBuf};

use cryptoki::object::Attribute;
use e2e::{Api, Config, Server, Site, calls};
use hsm_common::{PIN, module, softhsm};

/// What both test: SoftHSM's token with keys, behind `module`.
fn site(module: &Path, keys: &[&str]) -> Site {
    let manager = format!(
        "module = \"{}\"\ntoken = \"xks\"\npin = {{ file = \"pin\" }}\nprofile = \
         \"generic\"\nsessions = 4",
        module.display()
    );
    let site = Site::new(&Config::hsm(&manager, keys));
    site.write("pin", PIN);
    site
}

fn token() {
    let beside = softhsm::token(&softhsm::load(), "xks");
    beside.make_key("foo", 32, &[]);
    beside.make_key("encrypt-only", 32, &[Attribute::Decrypt(false)]);
    beside.make_key("decrypt-only", 32, &[Attribute::Encrypt(false)]);
    beside.make_key("impotent", 32, &[Attribute::Encrypt(false), Attribute::Decrypt(false)]);
}

/// A file of Debian's p11-kit or p11-kit-modules.
fn of_p11_kit(name: &str) -> PathBuf {
    module(&[
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
        let softhsm = format!("module: {}\n", softhsm::softhsm().display());
        std::fs::write(modules.join("softhsm.module"), softhsm).expect("written");
        let site = site(&of_p11_kit("p11-kit-proxy.so"), &["foo", "encrypt-only", "decrypt-only", "impotent"]);
        let server = Server::start(&site, &[], |command| { command.env("HOME", directory); });
        let mut api = Api::new(&site, &server);
        calls::all(&mut api);
        calls::limited_keys(&mut api, "encrypt-only", "decrypt-only", "impotent");
    }
}
