//! hsm-sim as its user sees it: the files by which it is configured, steered and
//! counted.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::token::PIN;
use crate::{programs, softhsm};

/// The key that every simulated HSM has, with the same value.
pub const KEY: &str = "foo";

/// Nothing here takes that long; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The files of one simulated HSM.
pub struct Files {
    directory: PathBuf,
    prefix: String,
}

impl Files {
    /// Its files are in `directory`, and their names begin with `prefix`.
    pub fn new(directory: &Path, prefix: &str) -> Files {
        Files { directory: directory.to_owned(), prefix: prefix.to_owned() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{}{name}", self.prefix))
    }

    /// The text of a configuration in `directory`: in front of `real`, with `more`.
    pub fn configuration(&self, real: &Path, more: &str) -> String {
        format!(
            "module = {real:?}\ncontrol = \"{0}control.toml\"\nstats = \"{0}stats.json\"\n{more}\n",
            self.prefix
        )
    }

    /// The counters; null before the module was initialised.
    pub fn stats(&self) -> Value {
        let text = std::fs::read_to_string(self.path("stats.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The counters, once they are so.
    pub fn stats_when(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let stats = self.stats();
            if wanted(&stats) {
                return stats;
            }
            assert!(start.elapsed() < PATIENCE, "waited in vain; the counters are {stats:#}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The counters, once they include everything that happened before.
    pub fn settled_stats(&self) -> Value {
        // The file is replaced every 100 ms when something changed.
        std::thread::sleep(Duration::from_millis(300));
        self.stats_when(|stats| !stats.is_null())
    }

    /// Switches faults; returns once they are in force.
    pub fn control(&self, faults: &str) {
        let read = |stats: &Value| stats["control"]["read"].as_u64();
        let before = read(&self.stats_when(|stats| read(stats).is_some()));
        self.prepare(faults);
        self.stats_when(|stats| read(stats) > before);
    }

    /// Switches faults for when the module looks: one that is not initialised looks when it is.
    pub fn prepare(&self, faults: &str) {
        let new = self.path("control.new");
        std::fs::write(&new, faults).unwrap();
        std::fs::rename(new, self.path("control.toml")).unwrap();
    }
}

/// One HSM, which a key manager of the same name uses.
pub struct SimulatedHsm {
    pub name: String,
    pub module: PathBuf,
    files: Files,
}

impl Deref for SimulatedHsm {
    type Target = Files;

    fn deref(&self) -> &Files {
        &self.files
    }
}

impl SimulatedHsm {
    /// Makes it below `directory`, where SoftHSM's configuration is. Its token has the key [`KEY`].
    pub(crate) fn new(directory: &Path, name: &str, config: &str) -> SimulatedHsm {
        let hsm = SimulatedHsm {
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

    /// Its `[[key_manager]]`. With the generic profile: it is a network HSM, so that all the
    /// sessions are wanted, whatever the cores.
    pub fn key_manager(&self, sessions: usize) -> String {
        self.key_manager_with_pin(sessions, PIN)
    }

    pub fn key_manager_with_pin(&self, sessions: usize, pin: &str) -> String {
        format!(
            "[[key_manager]]\nname = {0:?}\nkind = \"pkcs11\"\nmodule = {1:?}\ntoken = {0:?}\n\
             pin = {{ value = {pin:?} }}\nsessions = {sessions}\n",
            self.name, self.module
        )
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
