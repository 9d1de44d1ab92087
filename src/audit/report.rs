//! What a trail is found to be.

/// More of them help nobody: the first says where to look.
pub const PROBLEMS_MAX: usize = 100;

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
    /// How far each witness that was asked for has cosigned.
    pub cosigned: Vec<Cosigned>,
    /// A record that is being written, or was when the machine went down, bytes.
    pub unfinished_bytes: u64,
    /// A sentence each; none when all is well.
    pub problems: Vec<String>,
}

/// The largest checkpoint that a witness has cosigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigned {
    /// The witness.
    pub name: String,
    /// Records that it covers; none where there is no such checkpoint.
    pub records: Option<u64>,
    /// When the witness saw them, seconds since 1970.
    pub at: u64,
}

impl Report {
    pub(super) fn problem(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

/// Problems that follow from the first of them as a rule: a record that is taken out gives each one
/// after it another place.
#[derive(Default)]
pub(super) struct Alike {
    first: Option<String>,
    more: u64,
}

impl Alike {
    pub(super) fn note(&mut self, problem: impl FnOnce() -> String) {
        match self.first {
            None => self.first = Some(problem()),
            Some(_) => self.more += 1,
        }
    }

    pub(super) fn said(self) -> Option<String> {
        let more = self.more;
        self.first.map(|first| match more {
            0 => first,
            more => format!("{first}; the same is wrong {more} more times after it"),
        })
    }
}
