//! Finds what was changed, taken away, put in, put in another order or cut off in a trail.
//!
//! What it cannot find: older files brought back together with their older checkpoint. Only a
//! checkpoint that was kept elsewhere shows that.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::ops::ControlFlow;

use super::checkpoint::{Checkpoint, Verifier};
use super::cosignature::CosignerKey;
use super::layout::Layout;
use super::note::{NotAccepted, notes};
use super::reader::{Broken, read_all};
use super::recovery::open_note;
use super::report::{Alike, Cosigned, Report};
use super::retired::Seen;
use super::tree::{Frontier, HASH_BYTES, Hash, leaf_hash};

/// Reads the whole trail. `witnesses` must have cosigned; `against`: a checkpoint that was kept
/// elsewhere.
///
/// # Errors
/// When it cannot be read.
pub fn verify(
    layout: &Layout,
    verifiers: &[&Verifier],
    witnesses: &[CosignerKey],
    against: Option<&str>,
) -> io::Result<Report> {
    let of_none =
        |key: &CosignerKey| Cosigned { name: key.name().to_owned(), records: None, at: 0 };
    let cosigned = witnesses.iter().map(of_none).collect();
    let mut report = Report { cosigned, ..Report::default() };
    // Before the records: those that come meanwhile are more than it says, not fewer.
    let keys = Keys { verifiers, witnesses };
    let signed = checkpoints(layout, keys, against, &mut report)?;
    let mut leaves = LeavesOf {
        tree: Frontier::default(),
        signed: &signed,
        report: &mut report,
        retired: Vec::new(),
        other_roots: Alike::default(),
        other_hashes: Alike::default(),
    };
    leaves.look();
    read(layout, &mut leaves)?;
    let LeavesOf { tree, retired, other_roots, other_hashes, .. } = leaves;
    let size = tree.size();
    report.records = size;
    for alike in [other_hashes, other_roots] {
        alike.said().into_iter().for_each(|problem| report.problem(problem));
    }
    for (&beyond, stated) in signed.range(size + 1..) {
        for (_, whence) in stated {
            report.problem(format!(
                "{whence} covers {beyond} records, and {size} are there: records were cut off"
            ));
        }
    }
    report.signed = signed.range(..=size).next_back().map_or(0, |(size, _)| *size);
    // Of records that are not signed anybody can have written the last ones.
    let told = retired.into_iter().filter(|(index, _)| *index < report.signed);
    if told.map(|(_, before)| before).max().unwrap_or_default() < report.deleted {
        report.problem(format!(
            "the first {} records are missing, and no signed record says that they were deleted \
             when they were old",
            report.deleted
        ));
    }
    Ok(report)
}

/// What verifies the checkpoints.
#[derive(Clone, Copy)]
struct Keys<'a> {
    verifiers: &'a [&'a Verifier],
    witnesses: &'a [CosignerKey],
}

/// Roots that were signed, with where that stands, by size.
type Signed = BTreeMap<u64, Vec<(Hash, String)>>;

fn checkpoints(
    layout: &Layout,
    keys: Keys<'_>,
    against: Option<&str>,
    report: &mut Report,
) -> io::Result<Signed> {
    let read = |path| match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    };
    // In this order: each checkpoint is in the log first, and one may be made just now.
    let (current, log) = (read(layout.checkpoint())?, read(layout.checkpoints_log())?);
    let mut signed = Signed::new();
    let mut last = 0;
    for (number, note) in (1..).zip(notes(&log)) {
        let whence = format!("checkpoint {number} of checkpoints.log");
        if let Some(Checkpoint { size, root, .. }) = accept(note, &whence, keys, report) {
            // Of one that was cosigned later, the same stands before it.
            let stated = signed.get(&size).is_some_and(|all| all.iter().any(|(r, _)| *r == root));
            if size < last && !stated {
                report.problem(format!("{whence} is smaller than the one before it"));
            }
            last = last.max(size);
            signed.entry(size).or_default().push((root, whence));
        }
    }
    // The first one of all is in the log only while it is made, or after a crash just then.
    let missing = match (current.is_empty(), log.is_empty()) {
        (true, true) => Some("there is no checkpoint"),
        (false, true) => {
            Some("checkpoints.log is missing or empty: the checkpoints were taken away")
        }
        (true, false) if signed.len() > 1 => {
            Some("the file checkpoint is missing or empty: it was taken away")
        }
        _ => None,
    };
    missing.into_iter().for_each(|missing| report.problem(missing.to_owned()));
    for (note, whence) in [
        (Some(&*current).filter(|note| !note.is_empty()), "the file checkpoint"),
        (against, "the checkpoint that was kept elsewhere"),
    ] {
        let Some(note) = note else { continue };
        if let Some(Checkpoint { size, root, .. }) = accept(note, whence, keys, report) {
            signed.entry(size).or_default().push((root, whence.to_owned()));
        }
    }
    report.checkpoints = signed.values().map(Vec::len).sum();
    for lacking in report.cosigned.clone().iter().filter(|found| found.records.is_none()) {
        report.problem(format!("no checkpoint is cosigned by the witness {}", lacking.name));
    }
    Ok(signed)
}

fn accept(note: &str, whence: &str, keys: Keys<'_>, report: &mut Report) -> Option<Checkpoint> {
    let checkpoint = open_note(note, keys.verifiers)
        .map_err(|why| report.problem(format!("{whence} is not accepted: {why}")))
        .ok()?;
    for (at, key) in keys.witnesses.iter().enumerate() {
        match key.cosigned_at(note) {
            Ok(time) => {
                let found = &mut report.cosigned[at];
                if found.records.is_none_or(|records| records <= checkpoint.size) {
                    (found.records, found.at) = (Some(checkpoint.size), time);
                }
            }
            Err(NotAccepted::NotSigned) => {}
            Err(why) => {
                let name = key.name();
                report.problem(format!("{whence} is not cosigned rightly by {name}: {why}"));
            }
        }
    }
    Some(checkpoint)
}

/// Leaves in order, compared with each signed root that they come by.
struct LeavesOf<'a> {
    tree: Frontier,
    signed: &'a Signed,
    report: &'a mut Report,
    /// Records that say what is deleted: their index, and up to where.
    retired: Vec<(u64, u64)>,
    /// Checkpoints and kept hashes that do not agree with the records.
    other_roots: Alike,
    other_hashes: Alike,
}

impl LeavesOf<'_> {
    fn append(&mut self, leaf: Hash) {
        self.tree.append(leaf);
        self.look();
    }

    fn look(&mut self) {
        let size = self.tree.size();
        let Some(stated) = self.signed.get(&size) else { return };
        let root = self.tree.root();
        for (_, whence) in stated.iter().filter(|(stated, _)| *stated != root) {
            self.other_roots.note(|| {
                format!(
                    "{whence} states another tree of {size} records: a record before {size} was \
                     changed, put in or taken out"
                )
            });
        }
    }
}

fn read(layout: &Layout, leaves: &mut LeavesOf<'_>) -> io::Result<()> {
    let mut hashes = match File::open(layout.hashes()) {
        Ok(file) => Some(BufReader::with_capacity(1024 * 1024, file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let first = layout.record_files()?.first().map_or(0, |file| file.first);
    for index in 0..first {
        let Some(hash) = next_hash(&mut hashes)? else {
            let missing = format!("records {index} to {first} are missing, and their hashes too");
            leaves.report.problem(missing);
            return Ok(());
        };
        leaves.append(hash);
    }
    leaves.report.deleted = first;
    let mut failed = None;
    let read = read_all(layout, |index, line| {
        let leaf = leaf_hash(line);
        match next_hash(&mut hashes) {
            Ok(Some(kept)) if kept != leaf => {
                let differs = || format!("record {index} differs from the hash kept of it");
                leaves.other_hashes.note(differs);
            }
            Ok(_) => {}
            Err(error) => failed = Some(error),
        }
        match serde_json::from_slice::<Seen>(line) {
            Ok(seen) if line.first() == Some(&b'{') => {
                leaves.retired.extend(seen.retired_before().map(|before| (index, before)));
            }
            _ => leaves.report.problem(format!("record {index} is not a JSON object")),
        }
        leaves.append(leaf);
        if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match read {
        _ if failed.is_some() => failed.map_or(Ok(()), Err),
        Ok(_) => Ok(()),
        Err(Broken::Io(_, error)) => Err(error),
        Err(Broken::Unfinished { index, bytes }) if index == leaves.tree.size() => {
            leaves.report.unfinished_bytes = bytes;
            Ok(())
        }
        Err(broken) => {
            leaves.report.problem(broken.to_string());
            Ok(())
        }
    }
}

/// The next of the kept hashes; they may end before the records do, since they are written later.
fn next_hash(hashes: &mut Option<BufReader<File>>) -> io::Result<Option<Hash>> {
    let Some(file) = hashes else { return Ok(None) };
    let mut hash = [0; HASH_BYTES];
    match file.read_exact(&mut hash) {
        Ok(()) => Ok(Some(hash)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            *hashes = None;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
