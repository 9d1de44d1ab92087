//! hsm-sim as its user sees it: the files by which it is configured, steered and counted.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

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
