//! PINs that are released after the start: each is handed to its key manager when its file is
//! there, and again when the file is another one. Nothing else of the configuration is read.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::state::State;
use crate::config::late_pin;
use crate::telemetry::Level;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// What tells one file from the next: inode, bytes, and when it was changed.
type Seen = (u64, u64, i64, i64);

/// What was seen.
#[derive(Default)]
pub(super) struct AwaitedPins {
    looked: Option<Instant>,
    /// Of each key manager, by its name: which file, and what was said of it.
    files: HashMap<String, (PathBuf, Seen, Result<(), String>)>,
}

impl AwaitedPins {
    /// To be called often.
    pub(super) fn look(&mut self, state: &State) {
        if self.looked.is_some_and(|at| at.elapsed() < INTERVAL) {
            return;
        }
        self.looked = Some(Instant::now());
        let config = state.config.load();
        for configured in &config.key_managers {
            let awaited = configured.pkcs11().and_then(|pkcs11| pkcs11.awaited_pin.as_ref());
            let Some((path, seen)) = awaited.and_then(|path| Some((path, seen(path)?))) else {
                continue;
            };
            let before = self.files.get(&configured.name);
            if before.is_some_and(|(old, then, said)| old == path && *then == seen && said.is_ok())
            {
                continue;
            }
            let pin = late_pin(path);
            let said = pin.as_ref().map(drop).map_err(Clone::clone);
            let managers = state.managers.load();
            let manager = managers.iter().find(|manager| *manager.name == *configured.name);
            if let (Ok(pin), Some(manager)) = (pin, manager) {
                manager.set_pin(pin);
            }
            if before.is_none_or(|(.., then)| *then != said) || said.is_ok() {
                let name = &configured.name;
                let (level, what) = match &said {
                    Ok(()) => (Level::Info, "its PIN is there".to_owned()),
                    Err(why) => (Level::Error, format!("its PIN cannot be read: {why}")),
                };
                state.log.event(level, format!("key manager {name:?}: {what}"));
            }
            self.files.insert(configured.name.clone(), (path.clone(), seen, said));
        }
    }
}

fn seen(path: &Path) -> Option<Seen> {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.len(), file.ctime(), file.ctime_nsec()))
}
