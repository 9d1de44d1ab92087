//! Finds what was changed, taken away, put in, put in another order or cut off in a trail.
//!
//! What it cannot find: older files brought back together with their older checkpoint. Only a
//! checkpoint that was kept elsewhere shows that.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::ops::ControlFlow;

use super::checkpoint::{Checkpoint, Verifier};
use super::layout::Layout;
use super::note::notes;
use super::reader::{Broken, read_all};
use super::recovery::open_note;
use super::retired::Seen;
use super::tree::{Frontier, HASH_BYTES, Hash, leaf_hash};

/// More of them help nobody: the first says where to look.
const PROBLEMS_MAX: usize = 100;

/// What a trail is, and what is wrong with it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records in the tree.
    pub records: u64,
    /// Of them, those that are not there any more; their hashes are.
    pub deleted: u64,
    /// Checkpoints that were looked at.
    pub checkpoints: usize,
    /// Records that the newest checkpoint covers.
    pub signed: u64,
    /// A record that is being written, or was when the machine went down, bytes.
    pub unfinished_bytes: u64,
    /// A sentence each; none when all is well.
    pub problems: Vec<String>,
}

impl Report {
    fn problem(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

/// Reads the whole trail. `against`: a checkpoint that was kept elsewhere.
///
/// # Errors
/// When it cannot be read.
pub fn verify(
    layout: &Layout,
    verifiers: &[&Verifier],
    against: Option<&str>,
) -> io::Result<Report> {
    let mut report = Report::default();
    // Before the records: those that come meanwhile are more than it says, not fewer.
    let signed = checkpoints(layout, verifiers, against, &mut report)?;
    let mut leaves = LeavesOf {
        tree: Frontier::default(),
        signed: &signed,
        report: &mut report,
        retired: Vec::new(),
    };
    leaves.look();
    read(layout, &mut leaves)?;
    let (size, retired) = (leaves.tree.size(), leaves.retired);
    report.records = size;
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

/// Roots that were signed, with where that stands, by size.
type Signed = BTreeMap<u64, Vec<(Hash, String)>>;

fn checkpoints(
    layout: &Layout,
    verifiers: &[&Verifier],
    against: Option<&str>,
    report: &mut Report,
) -> io::Result<Signed> {
    let read = |path| match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    };
    let (log, current) = (read(layout.checkpoints_log())?, read(layout.checkpoint())?);
    let mut signed = Signed::new();
    let mut last = 0;
    for (number, note) in (1..).zip(notes(&log)) {
        let whence = format!("checkpoint {number} of checkpoints.log");
        if let Some(Checkpoint { size, root, .. }) = accept(note, &whence, verifiers, report) {
            if size < last {
                report.problem(format!("{whence} is smaller than the one before it"));
            }
            last = size;
            signed.entry(size).or_default().push((root, whence));
        }
    }
    if log.is_empty() && current.is_empty() {
        report.problem("there is no checkpoint".to_owned());
    }
    for (note, whence) in [
        (Some(&*current).filter(|note| !note.is_empty()), "the file checkpoint"),
        (against, "the checkpoint that was kept elsewhere"),
    ] {
        let Some(note) = note else { continue };
        if let Some(Checkpoint { size, root, .. }) = accept(note, whence, verifiers, report) {
            signed.entry(size).or_default().push((root, whence.to_owned()));
        }
    }
    report.checkpoints = signed.values().map(Vec::len).sum();
    Ok(signed)
}

fn accept(
    note: &str,
    whence: &str,
    verifiers: &[&Verifier],
    report: &mut Report,
) -> Option<Checkpoint> {
    open_note(note, verifiers)
        .map_err(|why| report.problem(format!("{whence} is not accepted: {why}")))
        .ok()
}

/// Leaves in order, compared with each signed root that they come by.
struct LeavesOf<'a> {
    tree: Frontier,
    signed: &'a Signed,
    report: &'a mut Report,
    /// Records that say what is deleted: their index, and up to where.
    retired: Vec<(u64, u64)>,
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
            self.report.problem(format!(
                "{whence} states another tree of {size} records: a record before {size} was \
                 changed, put in or taken out"
            ));
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
                leaves.report.problem(format!("record {index} differs from the hash kept of it"));
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
