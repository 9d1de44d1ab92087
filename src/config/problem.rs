//! What is wrong with a configuration, in words for the person who wrote it.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the key: `keystore[0].credential[1].secret_access_key`. Empty for TOML syntax.
    pub key: String,
    /// Line in the configuration file, from 1.
    pub line: Option<usize>,
    /// Column in characters, from 1; told for TOML syntax only.
    pub column: Option<usize>,
    /// What is wrong and what is accepted. Never holds a secret.
    pub message: String,
}

impl Problem {
    /// A problem of the key `key`, found by looking at more than the text: no line.
    pub fn of_key(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), line: None, column: None, message: message.into() }
    }

    /// `file:line:column:`, as far as it is known, so that editors find it.
    pub fn place(&self, file: &Path) -> String {
        let mut place = format!("{}:", file.display());
        for number in [self.line, self.column].into_iter().flatten() {
            let _ = write!(place, "{number}:");
        }
        place
    }
}

/// A configuration that cannot be used: every problem found, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The configuration file, as named by the caller.
    pub file: PathBuf,
    /// At least one.
    pub problems: Vec<Problem>,
}

/// Without file and line, as for the log.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// In the order of the file.
pub(super) fn sort(problems: &mut [Problem]) {
    problems.sort_by_key(|p| (p.line, p.column));
}

impl Invalid {
    pub(super) fn new(file: &Path, mut problems: Vec<Problem>) -> Self {
        sort(&mut problems);
        Self { file: file.to_owned(), problems }
    }
}

impl std::error::Error for Invalid {}

/// One line a problem, each as `file:line:column: key: message`, so that editors find the place.
impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{} {problem}", problem.place(&self.file))?;
        }
        Ok(())
    }
}

/// `text` in quotes for a message: control characters escaped, cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_CHARS: usize = 80;
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
