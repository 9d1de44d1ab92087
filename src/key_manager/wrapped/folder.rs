//! The folder with the key files, one a key: `<label>.json`.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::key_file::{KeyFile, is_label};
use crate::file::{self, Refused};
use crate::limits::{KEY_FILES_MAX, WRAPPED_KEY_FILE_BYTES_MAX};

/// Of a new file: its owner writes, the service's group reads.
const MODE: u32 = 0o640;
/// Others may not write.
const OTHERS_WRITE: u32 = 0o002;
const EXTENSION: &str = ".json";

/// Where key files are.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// What tells whether a file was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileState {
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds.
    changed: (i64, i64),
}

impl Folder {
    /// This one.
    pub fn new(path: &Path) -> Folder {
        Folder(path.to_owned())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file of a key.
    pub fn file(&self, label: &str) -> PathBuf {
        self.0.join(format!("{label}{EXTENSION}"))
    }

    /// The labels of the keys that have a file, and the state of each.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn scan(&self) -> Result<BTreeMap<String, FileState>, String> {
        let at = |why: &dyn std::fmt::Display| format!("folder {}: {why}", self.0.display());
        file::refuse_changeable(&self.0).map_err(|why| at(&why))?;
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.0).map_err(|error| at(&error))? {
            let name = entry.map_err(|error| at(&error))?.file_name();
            let label = name.to_str().and_then(|name| name.strip_suffix(EXTENSION));
            let Some(label) = label.filter(|label| is_label(label)) else { continue };
            // One that goes meanwhile is not there.
            let Ok(metadata) = fs::metadata(self.file(label)) else { continue };
            if files.len() == KEY_FILES_MAX {
                return Err(at(&format_args!("more than {KEY_FILES_MAX} key files")));
            }
            files.insert(label.to_owned(), FileState::of(&metadata));
        }
        Ok(files)
    }

    /// Reads the file of a key; `None` where there is none.
    ///
    /// # Errors
    /// A sentence for the operator that names the file.
    pub fn read(&self, label: &str) -> Result<Option<KeyFile>, String> {
        let path = self.file(label);
        let at = |why: &dyn std::fmt::Display| format!("key file {} {why}", path.display());
        let content = match file::read(&path, WRAPPED_KEY_FILE_BYTES_MAX) {
            Ok(content) => content,
            Err(Refused::Io(error)) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(at(&why)),
        };
        if content.mode & OTHERS_WRITE != 0 {
            return Err(at(&"can be written by every user; run: chmod o-w on it"));
        }
        file::refuse_changeable(&path).map_err(|why| at(&why))?;
        let file = KeyFile::parse(&content.bytes)
            .map_err(|why| at(&format_args!("{why}. Restore this file from a backup")))?;
        if file.label != label {
            return Err(at(&format_args!("is that of the key {:?}: it was renamed", file.label)));
        }
        Ok(Some(file))
    }

    /// Replaces the file of a key whole. What was written is read again and shown to `verify`
    /// before the old file goes.
    ///
    /// # Errors
    /// A sentence for the operator. The old file is still there then, unless it says otherwise.
    pub fn write(
        &self,
        file: &KeyFile,
        verify: impl FnOnce(&KeyFile) -> Result<(), String>,
    ) -> Result<(), String> {
        let path = self.file(&file.label);
        let at = |why: &dyn std::fmt::Display| format!("{} {why}", path.display());
        let failed = |error: io::Error| at(&format_args!("cannot be written: {error}"));
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
            return Err(at(&"is a symbolic link: change the file where it is itself"));
        }
        // A dot before it: no scan takes it for a key's file.
        let beside = self.0.join(format!(".{}.new", file.label));
        let replaced = (|| {
            self.write_new(&beside, &path, &file.to_text()).map_err(failed)?;
            let written = file::read(&beside, WRAPPED_KEY_FILE_BYTES_MAX)
                .map_err(|why| at(&format_args!("cannot be read back: it {why}")))?;
            let read = KeyFile::parse(&written.bytes)
                .map_err(|why| at(&format_args!("cannot be read back: it {why}")))?;
            verify(&read).map_err(|why| at(&format_args!("was not replaced: {why}")))?;
            fs::rename(&beside, &path).map_err(failed)
        })();
        if replaced.is_err() {
            let _ = fs::remove_file(&beside);
            return replaced;
        }
        File::open(&self.0).and_then(|folder| folder.sync_all()).map_err(|error| {
            at(&format_args!("is replaced, and may be the old one after a power failure: {error}"))
        })
    }

    /// A file with owner, group and mode of the one that it is to replace; where there is none,
    /// with the folder's group.
    fn write_new(&self, path: &Path, old: &Path, text: &[u8]) -> io::Result<()> {
        // What a command that was killed has left.
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
        match fs::metadata(old) {
            Ok(before) => {
                fchown(&file, Some(before.uid()), Some(before.gid()))?;
                file.set_permissions(before.permissions())?;
            }
            Err(_) => {
                let _ = fchown(&file, None, Some(fs::metadata(&self.0)?.gid()));
                // Whatever the umask is: a service that cannot read it cannot serve.
                file.set_permissions(Permissions::from_mode(MODE))?;
            }
        }
        file.write_all(text)?;
        file.sync_all()
    }
}

impl FileState {
    fn of(metadata: &Metadata) -> FileState {
        FileState {
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
