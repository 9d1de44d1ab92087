//! Opens a trail to be written: finds where it stands after a stop, a crash or an attack, and
//! refuses to go on with one that has lost something.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt, FileExt};

use rustix::fs::{FlockOperation, flock};

use super::checkpoint::{Checkpoint, Signer, Verifier};
use super::layout::{Layout, RecordFile};
use super::note::notes;
use super::reader::{Broken, read_file};
use super::retired::refuse_taken_away;
use super::store::{Store, create, open_or_create, sync_directory};
use super::tree::{Frontier, HASH_BYTES, Hash, leaf_hash};
use crate::limits::AUDIT_CHECKPOINT_BYTES_MAX;

/// What opening found and repaired.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Of a record that was not written whole; nobody had been answered for it.
    pub removed_bytes: u64,
    /// Records on disk that no checkpoint covers yet; the next one does.
    pub not_yet_signed: u64,
}

/// Opens the trail, and makes it if there is none.
///
/// # Errors
/// A sentence for the operator: what cannot be read or written, or what the trail has lost.
pub fn open(
    layout: Layout,
    signer: Signer,
    previous: &[Verifier],
) -> Result<(Store, Recovered), String> {
    let at = |error: io::Error| format!("audit: {}: {error}", layout.directory().display());
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o750).create(layout.records()).map_err(at)?;
    let lock = open_or_create(&layout.lock()).map_err(at)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        format!(
            "audit: another process writes to {}: each instance needs its own directory",
            layout.directory().display()
        )
    })?;
    let hashes = open_or_create(&layout.hashes()).map_err(at)?;
    let checkpoints = open_or_create(&layout.checkpoints_log()).map_err(at)?;
    let verifiers: Vec<&Verifier> = [signer.verifier()].into_iter().chain(previous).collect();
    let (newest, checkpoints_bytes) = newest_checkpoint(&layout, &checkpoints, &verifiers)?;

    let growing = growing_file(&layout, newest.is_some())?;
    let mut tree = Tree::begin(&layout, &hashes, newest.as_ref()).map_err(at)?;
    let (size, removed_bytes) = tree.read_records(&layout)?;
    let frontier = tree.end(&layout, newest.as_ref(), size)?;
    let signed = newest.as_ref().map(|checkpoint| checkpoint.size);
    refuse_taken_away(&layout, &hashes, signed.unwrap_or_default())?;

    let records = open_or_create(&growing.path).map_err(at)?;
    let whole = records.metadata().map_err(at)?.len() - removed_bytes;
    records.set_len(whole).and_then(|()| records.sync_all()).map_err(at)?;
    checkpoints.set_len(checkpoints_bytes).map_err(at)?;
    hashes.set_len(size * HASH_BYTES as u64).map_err(at)?;
    sync_directory(&layout.records()).map_err(at)?;
    let recovered = Recovered { removed_bytes, not_yet_signed: size - signed.unwrap_or_default() };
    let store = Store {
        layout,
        signer,
        records,
        records_bytes: whole,
        records_first: growing.first,
        hashes,
        hashes_bytes: size * HASH_BYTES as u64,
        hashes_owed: Vec::new(),
        checkpoints,
        checkpoints_bytes,
        frontier,
        checkpointed: signed,
        _lock: lock,
    };
    Ok((store, recovered))
}

/// The newest checkpoint, and the length of the log of checkpoints without an unfinished one at its
/// end.
fn newest_checkpoint(
    layout: &Layout,
    log: &File,
    verifiers: &[&Verifier],
) -> Result<(Option<Checkpoint>, u64), String> {
    let at = |error: io::Error| format!("audit: {}: {error}", layout.checkpoints_log().display());
    // The end is enough: it is written after the records, so no other place can be unfinished.
    let length = log.metadata().map_err(at)?.len();
    let from = length.saturating_sub(2 * AUDIT_CHECKPOINT_BYTES_MAX as u64);
    let mut end = vec![0; (length - from) as usize];
    log.read_exact_at(&mut end, from).map_err(at)?;
    let whole = end.windows(2).rposition(|two| two == b"\n\n").map_or(0, |position| position + 2);
    let text = String::from_utf8_lossy(&end[..whole]);
    let logged = notes(&text).last();

    let current = match std::fs::read_to_string(layout.checkpoint()) {
        Ok(note) => Some(note),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("audit: {}: {error}", layout.checkpoint().display())),
    };
    let mut newest: Option<Checkpoint> = None;
    for note in logged.into_iter().chain(current.as_deref()) {
        let opened = open_note(note, verifiers).map_err(|why| {
            format!(
                "audit: a checkpoint in {} is not accepted: {why}. Was the signing key changed? \
                 Then name the verifier key before it in audit.previous_verifier_keys",
                layout.directory().display()
            )
        })?;
        if newest.as_ref().is_none_or(|found| opened.size > found.size) {
            newest = Some(opened);
        }
    }
    Ok((newest, from + whole as u64))
}

/// Opens a note with the first of the keys that has signed it.
pub(super) fn open_note(note: &str, verifiers: &[&Verifier]) -> Result<Checkpoint, String> {
    let mut why = "there is no verifier key".to_owned();
    for verifier in verifiers {
        match verifier.open(note) {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(not) => why = not.to_string(),
        }
    }
    Err(why)
}

/// The last file of records, made if there is none at all.
fn growing_file(layout: &Layout, has_checkpoint: bool) -> Result<RecordFile, String> {
    let at = |error: io::Error| format!("audit: {}: {error}", layout.records().display());
    let files = layout.record_files().map_err(at)?;
    match files.last() {
        Some(last) if !last.compressed => Ok(last.clone()),
        Some(last) => {
            // All are sealed: the next one follows on.
            let end = read_file(last, &mut |_, _| ControlFlow::Continue(()))
                .map_err(|broken| format!("audit: {broken}"))?;
            let ControlFlow::Continue(first) = end else { return Ok(last.clone()) };
            let path = layout.record_file(first);
            create(&path).map_err(at)?;
            Ok(RecordFile { first, path, compressed: false })
        }
        None if has_checkpoint => Err(format!(
            "audit: {} has checkpoints, but no records: they were taken away. Keep the directory \
             as it is, and begin another trail in another directory",
            layout.directory().display()
        )),
        None => {
            let path = layout.record_file(0);
            create(&path).map_err(at)?;
            Ok(RecordFile { first: 0, path, compressed: false })
        }
    }
}

/// The tree while it is rebuilt.
struct Tree<'a> {
    frontier: Frontier,
    hashes: &'a File,
    /// Leaf hashes in their file.
    hashed: u64,
    /// The size at which a root is known, and what was found there.
    known_at: Option<u64>,
    found: Option<Hash>,
}

impl Tree<'_> {
    fn begin<'a>(
        layout: &Layout,
        hashes: &'a File,
        newest: Option<&Checkpoint>,
    ) -> io::Result<Tree<'a>> {
        let hashed = hashes.metadata()?.len() / HASH_BYTES as u64;
        let known_at = newest.map(|checkpoint| checkpoint.size);
        let kept = std::fs::read_to_string(layout.frontier()).ok();
        let kept = kept.and_then(|text| Frontier::parse(&text)).filter(|kept| {
            kept.size() <= hashed && known_at.is_some_and(|known| kept.size() <= known)
        });
        let mut tree =
            Tree { frontier: kept.unwrap_or_default(), hashes, hashed, known_at, found: None };
        tree.look();
        Ok(tree)
    }

    fn look(&mut self) {
        if self.known_at == Some(self.frontier.size()) {
            self.found = Some(self.frontier.root());
        }
    }

    fn append(&mut self, leaf: Hash) {
        self.frontier.append(leaf);
        self.look();
    }

    /// Goes over the hashes, and then over the records that have none. Gives the number of all
    /// records, and the bytes of one that was not written whole.
    fn read_records(&mut self, layout: &Layout) -> Result<(u64, u64), String> {
        let failed = |error: io::Error| format!("audit: {}: {error}", layout.hashes().display());
        let files = layout.record_files().map_err(failed)?;
        // Only the last file is read as a rule, and earlier ones where their hashes were lost.
        let hashed = self.hashed;
        let from = files.iter().rposition(|file| file.first <= hashed).ok_or_else(|| {
            format!("audit: the hashes of the records before {hashed} are missing, and so are they")
        })?;
        let (mut size, mut removed) = (hashed, 0);
        let mut new_hashes = Vec::new();
        for file in &files[from..] {
            size = file.first;
            let read = read_file(file, &mut |index, line| {
                size = index + 1;
                if index >= hashed {
                    new_hashes.extend_from_slice(&leaf_hash(line));
                }
                ControlFlow::Continue(())
            });
            match read {
                Ok(_) => {}
                Err(Broken::Unfinished { bytes, .. }) if Some(file) == files.last() => {
                    removed = bytes;
                }
                Err(broken) => return Err(format!("audit: {broken}")),
            }
        }
        let kept = hashed.min(size);
        self.read_hashes(kept).map_err(failed)?;
        self.hashes.write_all_at(&new_hashes, kept * HASH_BYTES as u64).map_err(failed)?;
        for leaf in new_hashes.as_chunks::<HASH_BYTES>().0 {
            self.append(*leaf);
        }
        Ok((size, removed))
    }

    fn read_hashes(&mut self, end: u64) -> io::Result<()> {
        let mut from = io::BufReader::with_capacity(1024 * 1024, self.hashes);
        let begin = self.frontier.size() * HASH_BYTES as u64;
        io::Seek::seek(&mut from, io::SeekFrom::Start(begin))?;
        let mut hash = [0; HASH_BYTES];
        while self.frontier.size() < end {
            from.read_exact(&mut hash)?;
            self.append(hash);
        }
        Ok(())
    }

    /// The whole tree, once it is shown to be the one that was signed.
    fn end(
        self,
        layout: &Layout,
        newest: Option<&Checkpoint>,
        size: u64,
    ) -> Result<Frontier, String> {
        let keep = "Keep the directory as it is, look at it with `xksd audit verify`, and begin \
                    another trail in another directory";
        let directory = layout.directory().display();
        if self.hashed > size {
            return Err(format!(
                "audit: {directory} has {size} records and the hashes of {}: records were taken \
                 away. {keep}",
                self.hashed
            ));
        }
        match newest {
            Some(checkpoint) if checkpoint.size > size => Err(format!(
                "audit: {directory} has {size} records and a checkpoint over {}: records were \
                 taken away. {keep}",
                checkpoint.size
            )),
            Some(checkpoint) if self.found != Some(checkpoint.root) => Err(format!(
                "audit: {directory} does not have the records that were signed at size {}: they \
                 were changed. {keep}",
                checkpoint.size
            )),
            _ => Ok(self.frontier),
        }
    }
}
