//! The state directory: what must survive a restart. One process has it at a time.
//!
//! A file is replaced whole: written beside, synced, renamed, and the directory synced. After a
//! crash there is the old content or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::file::{self, Refused};

/// The lock of a process that was killed is waited for so long: the kernel closes what io_uring
/// held some time after the process has gone.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// From one such try to the next.
const LOCK_RETRY: Duration = Duration::from_millis(50);
const LOCK_FILE: &str = "lock";
/// The block list.
pub const BLOCKS_FILE: &str = "blocks.json";
/// There since the first start.
const MARK: &str = "initialised";
/// What stands in it once there is a block list: from then on one that is missing was lost.
const HAS_BLOCKS: &[u8] = b"blocks.json\n";
/// Whoever makes it before the first start may write something else there.
const MARK_BYTES_MAX: usize = 4096;

/// The directory, which no other process uses.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Locked until it is closed.
    _lock: File,
}

impl StateDir {
    /// Opens the directory, which is made where it does not exist.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open(path: &Path) -> Result<StateDir, String> {
        let at = |why: String| format!("state directory {}: {why}", path.display());
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(at(format!("cannot be made: {error}")));
            }
            _ => {}
        }
        refuse_strangers(path).map_err(at)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(|error| at(format!("cannot be written: {error}")))?;
        let patience = Instant::now() + LOCK_PATIENCE;
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() >= patience {
                return Err(at("another xksd uses it".to_owned()));
            }
            std::thread::sleep(LOCK_RETRY);
        }
        Ok(StateDir { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether no xksd has had it before.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn is_new(&self) -> Result<bool, String> {
        // Before there was a mark there was a block list, if anything was ever blocked.
        let marks = [MARK, BLOCKS_FILE].map(|name| self.path.join(name));
        for mark in marks {
            match fs::symlink_metadata(&mark) {
                Ok(_) => return Ok(false),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(format!("{} cannot be read: {error}", mark.display())),
            }
        }
        Ok(true)
    }

    /// What says that it is not new.
    pub fn marker(&self) -> PathBuf {
        self.path.join(MARK)
    }

    /// Whether a block list was written here before.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn has_had_blocks(&self) -> Result<bool, String> {
        Ok(self.read(MARK, MARK_BYTES_MAX)?.is_some_and(|mark| mark == HAS_BLOCKS))
    }

    /// A block list is written here, and the directory is not new any more.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn mark_blocks(&self) -> Result<(), String> {
        self.write(MARK, HAS_BLOCKS)
    }

    /// What a file holds; `None` where there is none.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn read(&self, name: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, String> {
        let path = self.path.join(name);
        match file::read(&path, bytes_max) {
            Ok(content) => Ok(Some(content.bytes.to_vec())),
            // A link that leads nowhere is not a file that was never written.
            Err(Refused::Io(error))
                if error.kind() == ErrorKind::NotFound && fs::symlink_metadata(&path).is_err() =>
            {
                Ok(None)
            }
            Err(why) => Err(format!("{} {why}", path.display())),
        }
    }

    /// Replaces a file; when this returns, it is on disk.
    ///
    /// # Errors
    /// A sentence for the operator. The old content is still there then.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), String> {
        let path = self.path.join(name);
        replace(&path, &path.with_extension("new"), content)
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))
    }

    /// A folder in it, which is made where it does not exist.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn folder(&self, name: &str) -> Result<Folder, String> {
        let path = self.path.join(name);
        let at = |error: io::Error| format!("{} cannot be made: {error}", path.display());
        DirBuilder::new().mode(0o700).recursive(true).create(&path).map_err(at)?;
        Ok(Folder { path })
    }
}

/// A folder in the state directory. Files in it have any names.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its files, in order.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn names(&self) -> Result<Vec<String>, String> {
        let at = |error: io::Error| format!("{} cannot be read: {error}", self.path.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(at)? {
            names.push(entry.map_err(at)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// What a file holds.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn read(&self, name: &str, bytes_max: usize) -> Result<file::Content, String> {
        let path = self.path.join(name);
        file::read(&path, bytes_max).map_err(|why| format!("{} {why}", path.display()))
    }

    /// Replaces a file; when this returns, it is on disk.
    ///
    /// # Errors
    /// A sentence for the operator. The old content is still there then.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), String> {
        let path = self.path.join(name);
        // Outside: no name in the folder is taken by it.
        replace(&path, &self.path.with_extension("new"), content)
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn remove(&self, name: &str) -> Result<(), String> {
        let path = self.path.join(name);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => File::open(&self.path).and_then(|folder| folder.sync_all()),
        };
        removed.map_err(|error| format!("{} cannot be removed: {error}", path.display()))
    }
}

fn replace(path: &Path, beside: &Path, content: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Whoever else can write here could take a block away.
fn refuse_strangers(path: &Path) -> Result<(), String> {
    let metadata = fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if !metadata.is_dir() {
        return Err("is not a directory".to_owned());
    }
    if metadata.permissions().mode() & 0o022 != 0 {
        return Err("other users can write to it; run: chmod go-w on it".to_owned());
    }
    // Its owner, and what is above it.
    file::refuse_changeable(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn files_are_replaced_whole_and_one_process_has_them() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        let dir = StateDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(dir.read("a.json", 10), Ok(None));
        std::os::unix::fs::symlink("nowhere", path.join("link")).unwrap();
        assert!(dir.read("link", 10).unwrap_err().ends_with("does not exist"));
        dir.write("a.json", b"first").unwrap();
        dir.write("a.json", b"other").unwrap();
        assert_eq!(dir.read("a.json", 5), Ok(Some(b"other".to_vec())));
        assert!(dir.read("a.json", 4).unwrap_err().ends_with("is longer than 4 bytes"));
        assert!(StateDir::open(&path).unwrap_err().ends_with("another xksd uses it"));
        drop(dir);
        let dir = StateDir::open(&path).unwrap();
        assert_eq!(dir.read("a.json", 5), Ok(Some(b"other".to_vec())));
    }

    #[test]
    fn a_folder_takes_files_of_any_name() {
        let parent = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&parent.path().join("state")).unwrap();
        let folder = dir.folder("fleet/files").unwrap();
        for name in ["a.new", "a.pem", "a"] {
            folder.write(name, name.as_bytes()).unwrap();
        }
        assert_eq!(folder.names().unwrap(), ["a", "a.new", "a.pem"]);
        assert_eq!(*folder.read("a.new", 9).unwrap().bytes, b"a.new");
        assert_eq!(folder.read("a.pem", 9).unwrap().mode, 0o600);
        folder.remove("a").unwrap();
        folder.remove("a").unwrap();
        assert!(folder.read("a", 9).err().unwrap().ends_with("does not exist"));
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, refused) in [(0o770, true), (0o707, true), (0o755, false)] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(StateDir::open(dir.path()).is_err(), refused, "{mode:o}");
        }
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(StateDir::open(&file).unwrap_err().ends_with("is not a directory"));
        assert!(StateDir::open(&file.join("below")).unwrap_err().contains("cannot be made"));
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_content() {
        let parent = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&parent.path().join("state")).unwrap();
        dir.write("a.json", b"first").unwrap();
        fs::create_dir(dir.path.join("a.new")).unwrap();
        assert!(dir.write("a.json", b"other").is_err());
        assert_eq!(dir.read("a.json", 9), Ok(Some(b"first".to_vec())));
    }
}
