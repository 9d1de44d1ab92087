//! A simulated HSM: a copy of the stand-in module with a configuration of its own, and a SoftHSM token behind it.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::server::{PATIENCE, eventually};

/// The user's PIN of every token.
pub const PIN: &str = "12345678";
/// The key that every token has, with the same value.
pub const KEY: &str = "foo";
const SOFTHSM: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];

/// One HSM, which a key manager of the same name uses.
pub struct Hsm {
    pub name: String,
    pub module: PathBuf,
    directory: PathBuf,
    writes: Cell<u32>,
}

impl Hsm {
    /// Makes it below `directory`; `config` is added to the stand-in's configuration. Its token has the key [`KEY`].
    pub fn new(directory: &Path, name: &str, config: &str) -> Hsm {
        let hsm = Hsm {
            name: name.to_owned(),
            module: directory.join(format!("{name}.so")),
            directory: directory.to_owned(),
            writes: Cell::new(0),
        };
        // Copies: one library is one HSM in a process, of the stand-in as of the module behind it.
        let simulator = std::env::current_exe().unwrap().with_file_name("libhsm_sim.so");
        std::fs::copy(&simulator, &hsm.module).unwrap_or_else(|error| panic!("{}: {error}", simulator.display()));
        let softhsm = SOFTHSM.iter().find(|path| Path::new(path).exists()).expect("SoftHSM is missing: run scripts/test");
        std::fs::copy(softhsm, hsm.path("softhsm.so")).unwrap();
        let (real, control, stats) = (hsm.path("softhsm.so"), hsm.path("control.toml"), hsm.path("stats.json"));
        let config = format!("module = {real:?}\ncontrol = {control:?}\nstats = {stats:?}\n{config}");
        std::fs::write(directory.join(format!("{name}.so.toml")), config).unwrap();
        hsm.softhsm2_util(&["--init-token", "--free", "--label", name, "--so-pin", "0000", "--pin", PIN]);
        hsm.import_key(KEY, 7);
        hsm
    }

    fn path(&self, what: &str) -> PathBuf {
        self.directory.join(format!("{}-{what}", self.name))
    }

    fn softhsm2_util(&self, arguments: &[&str]) {
        let configuration = self.directory.join("softhsm2.conf");
        let output =
            Command::new("softhsm2-util").args(arguments).env("SOFTHSM2_CONF", configuration).output().expect("run scripts/test first");
        assert!(output.status.success(), "softhsm2-util {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Puts an AES-256 key of 32 such bytes on the token.
    pub fn import_key(&self, label: &str, value: u8) {
        let file = self.path("key");
        std::fs::write(&file, [value; 32]).unwrap();
        let file = file.to_str().unwrap();
        let id = format!("{value:02x}");
        self.softhsm2_util(&["--import", file, "--aes", "--token", &self.name, "--label", label, "--id", &id, "--pin", PIN]);
    }

    /// What is wrong from now on, for a module that is not loaded or not initialised yet.
    pub fn prepare(&self, faults: &str) {
        let new = self.path(&format!("control.{}", self.writes.get()));
        self.writes.set(self.writes.get() + 1);
        std::fs::write(&new, faults).unwrap();
        std::fs::rename(&new, self.path("control.toml")).unwrap();
    }

    /// What is wrong from now on; returns once it is in force.
    pub fn set(&self, faults: &str) {
        let seen = self.control("read");
        self.prepare(faults);
        eventually(&format!("{faults:?} in force"), PATIENCE, || self.control("read") > seen);
        assert_eq!(self.control("refused"), 0, "{faults}");
    }

    /// Nothing is wrong from now on.
    pub fn heal(&self) {
        self.set("");
    }

    fn control(&self, what: &str) -> u64 {
        self.stats()["control"][what].as_u64().unwrap_or(0)
    }

    /// The counters; null before the module was initialised.
    pub fn stats(&self) -> Value {
        let text = std::fs::read_to_string(self.path("stats.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The counters, once they include everything that happened before.
    pub fn settled_stats(&self) -> Value {
        // The file is replaced every 100 ms when something changed.
        std::thread::sleep(Duration::from_millis(300));
        self.stats()
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
