//! A network HSM: hsm-sim over SoftHSM, in the test's own process and directory.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cryptoki::context::Pkcs11;
use xksd::key_manager::pkcs11::{Pkcs11Engine, Profile, Settings};

use test_harness::hsm_sim::Files;
use test_harness::token::PIN;
use test_harness::{Token, programs, softhsm};

use crate::engines;

pub struct Simulator {
    files: Files,
    module: PathBuf,
}

/// `config` is what is particular about this HSM. Nothing has loaded it yet.
pub fn simulator(directory: &Path, config: &str) -> Simulator {
    let (files, module) = (Files::new(directory, ""), directory.join("hsm.so"));
    std::fs::copy(programs::hsm_sim(), &module).expect("copied");
    std::fs::write(directory.join("hsm.so.toml"), files.configuration(&softhsm::module(), config))
        .expect("written");
    Simulator { files, module }
}

impl Deref for Simulator {
    type Target = Files;

    fn deref(&self) -> &Files {
        &self.files
    }
}

impl Simulator {
    /// The test's own way in, which initialises the module.
    pub fn load(&self) -> Pkcs11 {
        softhsm::load_from(&self.module)
    }

    /// A token `xks` with the key `foo`.
    pub fn token(&self) -> Token {
        let token = softhsm::new_token(&self.load(), "xks");
        token.make_key("foo", 32, &[]);
        token
    }

    pub fn settings(&self, profile: Profile) -> Settings {
        Settings {
            module: self.module.clone(),
            pin: crate::engines::secret(PIN),
            profile,
            ..engines::settings()
        }
    }

    pub fn engine(&self, profile: Profile) -> Arc<Pkcs11Engine> {
        Pkcs11Engine::new(self.settings(profile)).expect("settings that can work")
    }

    /// How often `call` was made so far.
    pub fn calls(&self, call: &str) -> u64 {
        self.settled_stats()["calls"][call].as_u64().unwrap_or(0)
    }
}
