//! What the state directory knows of key files: the newest one of each key that was ever believed,
//! and which key managers an operator has sealed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::super::state_dir::StateDir;
use crate::key_manager::wrapped::Epoch;
use crate::limits::EPOCHS_FILE_BYTES_MAX;

const FILE: &str = "key-files.json";
/// Of the file's form. Another one is not understood, and xksd does not start.
const VERSION: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    /// By name.
    key_managers: BTreeMap<String, Known>,
}

/// Of one key manager.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<Seal>,
    /// The set of its keys; empty until the first one.
    set: String,
    /// By label.
    keys: BTreeMap<String, Newest>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Newest {
    epoch: u64,
    sha256: String,
}

/// An operator wants no key of a key manager to be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// Who.
    pub who: String,
    /// Why.
    pub reason: String,
    /// Since when, seconds since 1970.
    pub since: i64,
}

/// The file in the state directory, and what it says.
pub struct KeyFiles {
    dir: Arc<StateDir>,
    saved: Mutex<Saved>,
    /// What is remembered is not on disk.
    unsaved: AtomicBool,
}

impl KeyFiles {
    /// As it was saved.
    ///
    /// # Errors
    /// A sentence for the operator. What cannot be read is never taken for nothing.
    pub fn load(dir: Arc<StateDir>) -> Result<KeyFiles, String> {
        let saved = match dir.read(FILE, EPOCHS_FILE_BYTES_MAX)? {
            None => Saved { version: VERSION, key_managers: BTreeMap::new() },
            Some(bytes) => parse(&bytes).map_err(|why| {
                format!(
                    "{FILE} in the state directory cannot be read: {why}. xksd does not start \
                     without it: it says which key managers are sealed, and which key files are \
                     too old to be believed"
                )
            })?,
        };
        Ok(KeyFiles { dir, saved: Mutex::new(saved), unsaved: AtomicBool::new(false) })
    }

    fn lock(&self) -> MutexGuard<'_, Saved> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The seal of a key manager.
    pub fn seal(&self, manager: &str) -> Option<Seal> {
        self.lock().key_managers.get(manager)?.sealed.clone()
    }

    /// Remembers that a key manager is sealed, or no longer is.
    ///
    /// # Errors
    /// A sentence for the operator: it is not on disk. A seal is remembered all the same until the
    /// process ends; one that is taken off stays on.
    pub fn set_seal(&self, manager: &str, seal: Option<Seal>) -> Result<(), String> {
        let mut saved = self.lock();
        let known = saved.key_managers.entry(manager.to_owned()).or_default();
        let before = std::mem::replace(&mut known.sealed, seal);
        let taken_off = known.sealed.is_none();
        let written = self.write(&saved);
        if written.is_err() && taken_off {
            saved.key_managers.entry(manager.to_owned()).or_default().sealed = before;
        }
        written
    }

    /// Whether a file is of this folder, and not older than one that was there before.
    ///
    /// # Errors
    /// A sentence for the operator, why not.
    pub fn check_age(
        &self,
        manager: &str,
        label: &str,
        file: &Epoch,
        min: u64,
    ) -> Result<(), String> {
        let Epoch { set, number, .. } = file;
        if *number < min {
            return Err(format!(
                "its epoch is {number}, and min_epoch in the configuration is {min}: it is an old \
                 one"
            ));
        }
        let saved = self.lock();
        let Some(known) = saved.key_managers.get(manager) else { return Ok(()) };
        if !known.set.is_empty() && known.set != *set {
            return Err(format!(
                "it is of the set {set}, and the keys here are of {}: it comes from another \
                 folder. Where all keys were replaced on purpose, give the key manager another \
                 name",
                known.set
            ));
        }
        match known.keys.get(label) {
            Some(newest) if *number < newest.epoch => Err(format!(
                "its epoch is {number}, and epoch {} was there before: an old file was put back",
                newest.epoch
            )),
            _ => Ok(()),
        }
    }

    /// Whether a file whose seal is right is the one that was there before, if that has its epoch.
    ///
    /// # Errors
    /// A sentence for the operator, why not.
    pub fn check_history(&self, manager: &str, label: &str, file: &Epoch) -> Result<(), String> {
        let saved = self.lock();
        let newest = saved.key_managers.get(manager).and_then(|known| known.keys.get(label));
        match newest {
            Some(newest) if file.number == newest.epoch && file.fingerprint != newest.sha256 => {
                Err(format!(
                    "another file of the same epoch {} was there before: the key was changed in \
                     two places",
                    newest.epoch
                ))
            }
            _ => Ok(()),
        }
    }

    /// Remembers files that are believed now.
    ///
    /// # Errors
    /// A sentence for the operator: they are not on disk. They are remembered until the process
    /// ends, and written the next time.
    pub fn believe<'a>(
        &self,
        manager: &str,
        files: impl Iterator<Item = (&'a str, &'a Epoch)>,
    ) -> Result<(), String> {
        let mut saved = self.lock();
        let known = saved.key_managers.entry(manager.to_owned()).or_default();
        let mut changed = self.unsaved.load(Ordering::Relaxed);
        for (label, Epoch { set, number, fingerprint }) in files {
            known.set.clone_from(set);
            let newest = Newest { epoch: *number, sha256: fingerprint.clone() };
            changed |= known.keys.get(label) != Some(&newest);
            known.keys.insert(label.to_owned(), newest);
        }
        if changed { self.write(&saved) } else { Ok(()) }
    }

    fn write(&self, saved: &Saved) -> Result<(), String> {
        // Strings and numbers only: this cannot fail.
        let written = self.dir.write(FILE, &serde_json::to_vec(saved).unwrap_or_default());
        self.unsaved.store(written.is_err(), Ordering::Relaxed);
        written
    }
}

/// Whether these bytes could be the file: for whoever tries the parser.
///
/// # Errors
/// What is wrong with them.
pub fn parse_key_files(bytes: &[u8]) -> Result<(), String> {
    parse(bytes).map(drop)
}

fn parse(bytes: &[u8]) -> Result<Saved, String> {
    let saved: Saved = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match saved.version {
        VERSION => Ok(saved),
        other => Err(format!("its version is {other}, and this xksd knows {VERSION}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(set: &str, number: u64, fingerprint: &str) -> Epoch {
        Epoch { set: set.to_owned(), number, fingerprint: fingerprint.to_owned() }
    }

    fn open(path: &std::path::Path) -> Result<KeyFiles, String> {
        KeyFiles::load(Arc::new(StateDir::open(path)?))
    }

    #[test]
    fn an_older_file_and_one_of_another_folder_are_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let files = open(&path).unwrap();
        let seven = epoch("a", 7, "07");
        assert_eq!(files.check_age("near", "foo", &seven, 0), Ok(()));
        assert!(files.check_age("near", "foo", &seven, 8).unwrap_err().contains("min_epoch"));
        files.believe("near", [("foo", &seven)].into_iter()).unwrap();
        drop(files);
        let files = open(&path).unwrap();
        let check = |label, epoch: &Epoch| {
            files.check_age("near", label, epoch, 0)?;
            files.check_history("near", label, epoch)
        };
        assert_eq!(check("foo", &seven), Ok(()));
        assert_eq!(check("foo", &epoch("a", 8, "08")), Ok(()));
        assert_eq!(check("bar", &epoch("a", 1, "01")), Ok(()));
        for (file, why) in [
            (epoch("a", 6, "06"), "put back"),
            (epoch("a", 7, "7b"), "two places"),
            (epoch("b", 9, "09"), "another folder"),
        ] {
            assert!(check("foo", &file).unwrap_err().contains(why), "{file:?}");
        }
        assert_eq!(files.check_age("far", "foo", &epoch("b", 1, "01"), 0), Ok(()));
    }

    #[test]
    fn a_seal_stays_over_restarts_and_a_file_that_cannot_be_read_is_no_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let seal = Seal { who: "uid 0".to_owned(), reason: "audit".to_owned(), since: 1 };
        let files = open(&path).unwrap();
        files.set_seal("near", Some(seal.clone())).unwrap();
        drop(files);
        let files = open(&path).unwrap();
        assert_eq!((files.seal("near"), files.seal("far")), (Some(seal), None));
        files.set_seal("near", None).unwrap();
        drop(files);
        assert_eq!(open(&path).unwrap().seal("near"), None);
        for wrong in ["", "{}", r#"{"version":2,"key_managers":{}}"#] {
            std::fs::write(path.join(FILE), wrong).unwrap();
            assert!(open(&path).err().unwrap().contains("does not start"), "{wrong}");
        }
    }
}
