//! A network HSM: hsm-sim over SoftHSM, in the test's own process and directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use serde_json::Value;
use xksd::hsm::pkcs11::{Pkcs11Engine, Profile, Settings};

use super::softhsm::{self, softhsm};
use super::{Beside, PIN};

/// Nothing here takes that long; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Simulator {
    directory: PathBuf,
    module: PathBuf,
}

/// `config` is what is particular about this HSM. Nothing has loaded it yet.
pub fn simulator(directory: &Path, config: &str) -> Simulator {
    let built = std::env::current_exe().expect("this test").with_file_name("libhsm_sim.so");
    let module = directory.join("hsm.so");
    std::fs::copy(&built, &module).unwrap_or_else(|error| panic!("{}: {error}", built.display()));
    let config = format!("module = {:?}\ncontrol = \"control.toml\"\nstats = \"stats.json\"\n{config}\n", softhsm());
    std::fs::write(directory.join("hsm.so.toml"), config).expect("written");
    Simulator { directory: directory.to_owned(), module }
}

impl Simulator {
    /// The test's own way in, which initialises the module.
    pub fn load(&self) -> Pkcs11 {
        let pkcs11 = Pkcs11::new(&self.module).expect("loads");
        pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).expect("initialises");
        pkcs11
    }

    /// A token `xks` with the key `foo`.
    pub fn token(&self) -> Beside {
        let beside = softhsm::token(&self.load(), "xks");
        beside.make_key("foo", 32, &[]);
        beside
    }

    pub fn settings(&self, profile: Profile) -> Settings {
        Settings { module: self.module.clone(), pin: PIN.to_owned().into(), profile, ..softhsm::settings() }
    }

    pub fn engine(&self, profile: Profile) -> Arc<Pkcs11Engine> {
        Pkcs11Engine::new(self.settings(profile)).expect("settings that can work")
    }

    /// The counters, once they are so.
    pub fn stats_when(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let text = std::fs::read_to_string(self.directory.join("stats.json")).unwrap_or_default();
            let stats = serde_json::from_str(&text).unwrap_or(Value::Null);
            if wanted(&stats) {
                return stats;
            }
            assert!(start.elapsed() < PATIENCE, "waited in vain; the counters are {stats:#}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The counters when nothing has happened for some time.
    pub fn stats(&self) -> Value {
        // They are written every 100 ms.
        std::thread::sleep(Duration::from_millis(300));
        self.stats_when(|stats| !stats.is_null())
    }

    /// How often `call` was made so far.
    pub fn calls(&self, call: &str) -> u64 {
        self.stats()["calls"][call].as_u64().unwrap_or(0)
    }

    /// Switches faults: in force when this returns.
    pub fn control(&self, text: &str) {
        let read = |stats: &Value| stats["control"]["read"].as_u64();
        let before = read(&self.stats_when(|stats| read(stats).is_some()));
        self.control_unseen(text);
        self.stats_when(|stats| read(stats) > before);
    }

    /// Switches faults while the module is not initialised: it looks when it is.
    pub fn control_unseen(&self, text: &str) {
        let new = self.directory.join("control.new");
        std::fs::write(&new, text).expect("written");
        std::fs::rename(new, self.directory.join("control.toml")).expect("renamed");
    }
}
