//! The files of a trail while they are written: by one process, one writer.
//!
//! Order of the steps, so that a crash at any of them leaves a trail that can be gone on with:
//! records on disk → hashes → `checkpoints.log` → `checkpoint`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::checkpoint::{Signer, Verifier};
use super::layout::Layout;
use super::tree::{Frontier, leaf_hash};
use crate::limits::{AUDIT_FILE_BYTES_MAX, AUDIT_RECORD_BYTES_MAX};

/// Readable by the group: who reads the trail need not be who writes it.
pub(super) const FILE_MODE: u32 = 0o640;

/// A trail that is being written.
pub struct Store {
    pub(super) layout: Layout,
    pub(super) signer: Signer,
    /// The file that grows, and its length.
    pub(super) records: File,
    pub(super) records_bytes: u64,
    pub(super) records_first: u64,
    /// Leaf hashes, and those that could not be written yet.
    pub(super) hashes: File,
    pub(super) hashes_bytes: u64,
    pub(super) hashes_owed: Vec<u8>,
    pub(super) checkpoints: File,
    pub(super) checkpoints_bytes: u64,
    pub(super) frontier: Frontier,
    /// Size of the tree in the newest checkpoint; none before the first one.
    pub(super) checkpointed: Option<u64>,
    /// Keeps other processes out for as long as it is open.
    pub(super) _lock: File,
}

impl Store {
    /// Verifies its checkpoints.
    pub fn verifier(&self) -> &Verifier {
        self.signer.verifier()
    }

    /// Number of records on disk.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// Number of records in the newest checkpoint.
    pub fn signed(&self) -> u64 {
        self.checkpointed.unwrap_or_default()
    }

    /// Puts as much on disk as the longest record and a checkpoint take, and takes it away again.
    ///
    /// # Errors
    /// As the file system fails: then neither could be written.
    pub fn prove_writable(&self) -> io::Result<()> {
        // Without a line end: what a crash leaves of it is removed as a record's beginning.
        let record = vec![b' '; AUDIT_RECORD_BYTES_MAX];
        let recorded = self.records.write_all_at(&record, self.records_bytes);
        let recorded = recorded.and_then(|()| self.records.sync_data());
        let written = recorded.and_then(|()| {
            let note = self.signer.sign(self.size(), self.frontier.root());
            let new = write_new(&self.layout.checkpoint(), note.as_bytes())?;
            fs::remove_file(new)
        });
        let removed = self.records.set_len(self.records_bytes);
        written.and(removed)
    }

    /// Writes whole lines, and returns when they are on disk. After a failure nothing of them
    /// counts as written, and the same lines can be tried again.
    ///
    /// # Errors
    /// As the file system fails.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.records_bytes >= AUDIT_FILE_BYTES_MAX {
            self.begin_file()?;
        }
        let written = self
            .records
            .write_all_at(lines, self.records_bytes)
            .and_then(|()| self.records.sync_data());
        if let Err(error) = written {
            // What is there of them must not look like records to who reads meanwhile.
            let _ = self.records.set_len(self.records_bytes);
            return Err(error);
        }
        self.records_bytes += lines.len() as u64;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let leaf = leaf_hash(line.strip_suffix(b"\n").unwrap_or(line));
            self.frontier.append(leaf);
            self.hashes_owed.extend_from_slice(&leaf);
        }
        // They can be made from the records: a failure here is no failure of the records.
        let _ = self.write_hashes();
        Ok(())
    }

    fn write_hashes(&mut self) -> io::Result<()> {
        self.hashes.write_all_at(&self.hashes_owed, self.hashes_bytes)?;
        self.hashes_bytes += self.hashes_owed.len() as u64;
        self.hashes_owed.clear();
        Ok(())
    }

    /// Signs the tree as it is and puts the checkpoint on disk. Gives it, unless it is the same as
    /// the last one.
    ///
    /// # Errors
    /// As the file system fails.
    pub fn checkpoint(&mut self) -> io::Result<Option<String>> {
        if self.checkpointed == Some(self.size()) {
            return Ok(None);
        }
        self.write_hashes()?;
        self.hashes.sync_data()?;
        let note = self.signer.sign(self.size(), self.frontier.root());
        self.log_checkpoint(&note)?;
        replace(&self.layout.checkpoint(), note.as_bytes())?;
        self.checkpointed = Some(self.size());
        Ok(Some(note))
    }

    /// Keeps what witnesses have added to the checkpoint of this size: behind all others, and as
    /// the newest one if it is.
    ///
    /// # Errors
    /// As the file system fails.
    pub fn keep_cosigned(&mut self, size: u64, note: &str) -> io::Result<()> {
        self.log_checkpoint(note)?;
        if self.checkpointed == Some(size) {
            replace(&self.layout.checkpoint(), note.as_bytes())?;
        }
        Ok(())
    }

    fn log_checkpoint(&mut self, note: &str) -> io::Result<()> {
        let logged = format!("{note}\n");
        self.checkpoints.write_all_at(logged.as_bytes(), self.checkpoints_bytes)?;
        self.checkpoints.sync_data()?;
        self.checkpoints_bytes += logged.len() as u64;
        Ok(())
    }

    /// Seals the file that grows and begins the next one.
    fn begin_file(&mut self) -> io::Result<()> {
        self.checkpoint()?;
        replace(&self.layout.frontier(), self.frontier.to_text().as_bytes())?;
        self.records = create(&self.layout.record_file(self.size()))?;
        sync_directory(&self.layout.records())?;
        (self.records_bytes, self.records_first) = (0, self.size());
        Ok(())
    }

    /// Signs once more, and notes where the next start can begin to hash.
    ///
    /// # Errors
    /// As the file system fails.
    pub fn close(&mut self) -> io::Result<Option<String>> {
        let note = self.checkpoint()?;
        replace(&self.layout.frontier(), self.frontier.to_text().as_bytes())?;
        Ok(note)
    }

    /// The first record that is not in a sealed file older than `age`; `None` where nothing is to
    /// be deleted.
    ///
    /// # Errors
    /// As the file system fails.
    pub fn retired(&self, age: Duration, now: SystemTime) -> io::Result<Option<u64>> {
        let files = self.layout.record_files()?;
        for (at, file) in files.iter().enumerate() {
            let written = fs::metadata(&file.path)?.modified()?;
            let old = now.duration_since(written).is_ok_and(|passed| passed > age);
            if file.first == self.records_first || !old {
                // Only from the front: what is left must follow on.
                return Ok((at > 0).then_some(file.first));
            }
        }
        Ok(None)
    }

    /// Deletes the files whose records all stand before this index; their hashes stay. Gives how
    /// many.
    ///
    /// # Errors
    /// As the file system fails.
    pub fn delete_before(&self, first_kept: u64) -> io::Result<usize> {
        let mut deleted = 0;
        for file in self.layout.record_files()?.iter().take_while(|file| file.first < first_kept) {
            fs::remove_file(&file.path)?;
            deleted += 1;
        }
        Ok(deleted)
    }
}

/// A new file that must not be there.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// A file that is made if it is missing.
pub(super) fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)
}

/// Puts a file in the place of another at once: a crash leaves the one or the other.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    fs::rename(write_new(path, content)?, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Puts beside a file what is to take its place; gives where that is.
fn write_new(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let new = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(new)
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
