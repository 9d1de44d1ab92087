//! Names and forms of the files of an audit trail.
//!
//! ```text
//! records/0000000000.jsonl   records, a line each; the name is the index of the first one
//! hashes                     the leaf hash of each record, 32 bytes: kept when old records go
//! checkpoint                 the newest signed checkpoint
//! checkpoints.log            all of them, each followed by an empty line
//! witness-0a1b2c3d           where the next proof for this witness begins; can be made again
//! frontier                   where to begin to hash at the start; can be made from the hashes
//! lock                       held by the process that writes
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The files of one audit trail.
#[derive(Clone, Debug)]
pub struct Layout {
    directory: PathBuf,
}

/// A file of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordFile {
    /// Index of its first record.
    pub first: u64,
    /// Where it is.
    pub path: PathBuf,
    /// By zstd, as sealed files may be.
    pub compressed: bool,
}

impl Layout {
    /// Of the trail in this directory.
    pub fn new(directory: &Path) -> Layout {
        Layout { directory: directory.to_owned() }
    }

    /// The trail's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the files of records are.
    pub fn records(&self) -> PathBuf {
        self.directory.join("records")
    }

    /// The file of records that begins with this one.
    pub fn record_file(&self, first: u64) -> PathBuf {
        self.records().join(format!("{first:010}.jsonl"))
    }

    /// Leaf hashes.
    pub fn hashes(&self) -> PathBuf {
        self.directory.join("hashes")
    }

    /// The newest checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.directory.join("checkpoint")
    }

    /// All checkpoints.
    pub fn checkpoints_log(&self) -> PathBuf {
        self.directory.join("checkpoints.log")
    }

    /// Where hashing begins at the start.
    pub fn frontier(&self) -> PathBuf {
        self.directory.join("frontier")
    }

    /// The tree that the witness with this key id has cosigned last.
    pub fn witness(&self, key_id: &str) -> PathBuf {
        self.directory.join(format!("witness-{key_id}"))
    }

    /// Held by the writer.
    pub fn lock(&self) -> PathBuf {
        self.directory.join("lock")
    }

    /// The files of records in order. Other files in their directory are ignored.
    ///
    /// # Errors
    /// When the directory cannot be read, or holds one file twice, compressed and not.
    pub fn record_files(&self) -> io::Result<Vec<RecordFile>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.records())? {
            let entry = entry?;
            if let Some((first, compressed)) = entry.file_name().to_str().and_then(parse_name) {
                files.push(RecordFile { first, path: entry.path(), compressed });
            }
        }
        files.sort_by_key(|file| file.first);
        if let Some(twice) = files.windows(2).find(|pair| pair[0].first == pair[1].first) {
            let [one, other] = [&twice[0].path, &twice[1].path].map(|path| path.display());
            return Err(io::Error::other(format!("{one} and {other} hold the same records")));
        }
        Ok(files)
    }
}

/// Index of the first record, and whether the file is compressed.
fn parse_name(name: &str) -> Option<(u64, bool)> {
    let (stem, compressed) = match name.strip_suffix(".jsonl.zst") {
        Some(stem) => (stem, true),
        None => (name.strip_suffix(".jsonl")?, false),
    };
    // As it is written and no other way: one file has one name.
    let first = stem.parse().ok()?;
    (format!("{first:010}") == stem).then_some((first, compressed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!(parse_name("0000000000.jsonl"), Some((0, false)));
        assert_eq!(parse_name("0000000042.jsonl.zst"), Some((42, true)));
        assert_eq!(parse_name("12345678901.jsonl"), Some((12_345_678_901, false)));
        for other in ["", "0.jsonl", "+000000001.jsonl", "0000000001.json", "0000000001.jsonl.tmp"]
        {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn files_are_listed_in_order_and_not_twice() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        fs::create_dir(layout.records()).unwrap();
        for name in ["0000000007.jsonl", "0000000000.jsonl.zst", "notes.txt"] {
            fs::write(layout.records().join(name), "").unwrap();
        }
        let firsts = layout.record_files().unwrap().iter().map(|f| f.first).collect::<Vec<_>>();
        assert_eq!(firsts, [0, 7]);
        fs::write(layout.records().join("0000000007.jsonl.zst"), "").unwrap();
        assert!(layout.record_files().is_err());
    }
}
