//! Old records that were deleted, and the signed records that say so. Where none does, somebody has
//! taken them away.

use std::borrow::Cow;
use std::fs::File;
use std::ops::ControlFlow;

use serde::Deserialize;

use super::layout::Layout;
use super::proof::HashFile;
use super::reader::read_file;
use super::tree::{Leaves, leaf_hash};

/// What matters of a record.
#[derive(Deserialize)]
pub(super) struct Seen<'a> {
    #[serde(default, borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    before: Option<u64>,
}

impl Seen<'_> {
    /// Of a record that says so, the index before which records are deleted.
    pub(super) fn retired_before(&self) -> Option<u64> {
        self.before.filter(|_| self.kind == "retired")
    }
}

/// Refuses a trail whose first records are not there, unless one of the `signed` records says that
/// they were deleted. Their hashes have been compared with what was signed.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn refuse_taken_away(layout: &Layout, hashes: &File, signed: u64) -> Result<(), String> {
    let at = |error: std::io::Error| format!("audit: {}: {error}", layout.directory().display());
    let files = layout.record_files().map_err(at)?;
    let first = files.first().map_or(0, |file| file.first);
    if first == 0 {
        return Ok(());
    }
    let mut hashes = HashFile::of(hashes.try_clone().map_err(at)?);
    // The newest first: the last file was begun when about as many old records were deleted.
    for file in files.iter().rev().filter(|file| file.first < signed) {
        let mut told = false;
        let mut look = |index: u64, line: &[u8]| {
            if index >= signed {
                return ControlFlow::Break(());
            }
            let seen = serde_json::from_slice::<Seen>(line).ok();
            let covers = seen.and_then(|seen| seen.retired_before()).is_some_and(|b| b >= first);
            // A line that was put in is not the one that was signed.
            told |= covers && hashes.leaf(index).is_ok_and(|kept| kept == leaf_hash(line));
            if told { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        // What is wrong with it is told by who opens the trail, or by `verify`.
        let _ = read_file(file, &mut look);
        if told {
            return Ok(());
        }
    }
    Err(format!(
        "audit: the first {first} records of {} are missing, and no signed record says that they \
         were deleted when they were old: they were taken away. Bring their files back, or keep \
         the directory as it is and begin another trail in another directory",
        layout.directory().display()
    ))
}
