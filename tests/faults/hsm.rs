//! A simulated HSM: a copy of the stand-in module with a configuration of its own, and a SoftHSM
//! token behind it.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_harness::hsm_sim::Files;
use test_harness::{programs, softhsm};

/// The user's PIN of every token.
pub const PIN: &str = "12345678";
/// The key that every token has, with the same value.
pub const KEY: &str = "foo";

/// One HSM, which a key manager of the same name uses.
pub struct Hsm {
    pub name: String,
    pub module: PathBuf,
    files: Files,
}

impl Deref for Hsm {
    type Target = Files;

    fn deref(&self) -> &Files {
        &self.files
    }
}

impl Hsm {
    /// Makes it below `directory`; `config` is added to the stand-in's configuration. Its token has
    /// the key [`KEY`].
    pub fn new(directory: &Path, name: &str, config: &str) -> Hsm {
        let hsm = Hsm {
            name: name.to_owned(),
            module: directory.join(format!("{name}.so")),
            files: Files::new(directory, &format!("{name}-")),
        };
        // Copies: one library is one HSM in a process, of the stand-in as of the module behind it.
        std::fs::copy(programs::hsm_sim(), &hsm.module).unwrap();
        let softhsm = hsm.path("softhsm.so");
        std::fs::copy(softhsm::module(), &softhsm).unwrap();
        std::fs::write(
            directory.join(format!("{name}.so.toml")),
            hsm.configuration(&softhsm, config),
        )
        .unwrap();
        hsm.softhsm2_util(&[
            "--init-token",
            "--free",
            "--label",
            name,
            "--so-pin",
            "0000",
            "--pin",
            PIN,
        ]);
        hsm.import_key(KEY, 7);
        hsm
    }

    fn softhsm2_util(&self, arguments: &[&str]) {
        let configuration = self.module.with_file_name("softhsm2.conf");
        let output = Command::new("softhsm2-util")
            .args(arguments)
            .env("SOFTHSM2_CONF", configuration)
            .output()
            .expect("run scripts/test first");
        assert!(
            output.status.success(),
            "softhsm2-util {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Puts an AES-256 key of 32 such bytes on the token.
    pub fn import_key(&self, label: &str, value: u8) {
        let file = self.path("key");
        std::fs::write(&file, [value; 32]).unwrap();
        let file = file.to_str().unwrap();
        let id = format!("{value:02x}");
        self.softhsm2_util(&[
            "--import", file, "--aes", "--token", &self.name, "--label", label, "--id", &id,
            "--pin", PIN,
        ]);
    }

    /// Nothing is wrong from now on.
    pub fn heal(&self) {
        self.control("");
    }

    /// Calls that hang now.
    pub fn hung(&self) -> u64 {
        self.stats()["hung"].as_u64().unwrap_or(0)
    }

    /// Sessions open now.
    pub fn sessions(&self) -> u64 {
        self.stats()["sessions"]["open"].as_u64().unwrap_or(0)
    }
}
