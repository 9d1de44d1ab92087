//! Reads the records of a trail in order, over all of its files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;

use super::layout::{Layout, RecordFile};
use crate::limits::AUDIT_RECORD_BYTES_MAX;

/// What is wrong with files of records.
#[derive(Debug)]
pub enum Broken {
    /// A file cannot be read.
    Io(String, io::Error),
    /// A file does not begin where the one before ends.
    Gap {
        /// Index of the record that should come.
        expected: u64,
        /// File, and the index in its name.
        found: (String, u64),
    },
    /// A line is longer than a record can be.
    TooLong {
        /// Index of the record.
        index: u64,
    },
    /// The last line of a file has no end.
    Unfinished {
        /// Index of the record it would be.
        index: u64,
        /// What is there of it.
        bytes: u64,
    },
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Io(file, error) => write!(f, "{file}: {error}"),
            Broken::Gap { expected, found: (file, first) } => write!(
                f,
                "{file} begins with record {first}, but record {expected} should come: records \
                 are missing, twice there, or files were renamed"
            ),
            Broken::TooLong { index } => {
                write!(f, "record {index} is longer than {AUDIT_RECORD_BYTES_MAX} bytes")
            }
            Broken::Unfinished { index, bytes } => {
                write!(f, "record {index} is cut off after {bytes} bytes")
            }
        }
    }
}

/// Reads one file of records; `each` gets a record's index and line, without the newline. Gives the
/// index after the last record.
///
/// # Errors
/// What is wrong with it.
pub fn read_file(
    file: &RecordFile,
    each: &mut impl FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> Result<ControlFlow<(), u64>, Broken> {
    let name = file.path.display().to_string();
    let at = |error| Broken::Io(name.clone(), error);
    let open = File::open(&file.path).map_err(at)?;
    let mut lines: Box<dyn BufRead> = if file.compressed {
        let decoder = ruzstd::decoding::StreamingDecoder::new(open)
            .map_err(|error| at(io::Error::other(error.to_string())))?;
        Box::new(BufReader::new(decoder))
    } else {
        Box::new(BufReader::with_capacity(1024 * 1024, open))
    };
    let mut line = Vec::new();
    let mut index = file.first;
    loop {
        line.clear();
        let bound = AUDIT_RECORD_BYTES_MAX as u64 + 1;
        let bytes = lines.by_ref().take(bound).read_until(b'\n', &mut line).map_err(at)?;
        if bytes == 0 {
            return Ok(ControlFlow::Continue(index));
        }
        if line.pop_if(|last| *last == b'\n').is_none() {
            return Err(match bytes as u64 {
                bytes if bytes == bound => Broken::TooLong { index },
                bytes => Broken::Unfinished { index, bytes },
            });
        }
        if each(index, &line).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        index += 1;
    }
}

/// Reads all records that are still there, in order. Gives the range of indexes that was read.
///
/// # Errors
/// The first thing that is wrong with the files.
pub fn read_all(
    layout: &Layout,
    mut each: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> Result<std::ops::Range<u64>, Broken> {
    let files = layout
        .record_files()
        .map_err(|error| Broken::Io(layout.records().display().to_string(), error))?;
    let first = files.first().map_or(0, |file| file.first);
    let mut next = first;
    for file in &files {
        if file.first != next {
            let found = (file.path.display().to_string(), file.first);
            return Err(Broken::Gap { expected: next, found });
        }
        match read_file(file, &mut each)? {
            ControlFlow::Continue(after) => next = after,
            ControlFlow::Break(()) => break,
        }
    }
    Ok(first..next)
}
