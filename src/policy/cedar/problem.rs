//! What is wrong with policies, for who wrote them.

use std::fmt;

/// One thing that is wrong, or probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as its reader named it.
    pub file: String,
    /// From 1.
    pub line: Option<usize>,
    /// The `@id` of the policy.
    pub policy: Option<String>,
    /// What it is.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(policy) = &self.policy {
            write!(f, ": policy {policy:?}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// The line of a byte of `text`, from 1.
pub(super) fn line_of(text: &str, byte: usize) -> usize {
    text.as_bytes().iter().take(byte).filter(|&&byte| byte == b'\n').count() + 1
}

/// Cedar's words in one line: they name a policy by the id that stands before them already.
pub(super) fn words(error: &dyn miette::Diagnostic) -> String {
    let mut words = error.to_string();
    if let Some(start) = words.strip_prefix("for policy `")
        && let Some((_, rest)) = start.split_once("`, ")
    {
        words = rest.to_owned();
    }
    if let Some(help) = error.help() {
        words = format!("{words} ({help})");
    }
    words.replace(['\n', '\r'], " ")
}

/// Where an error stands, as a byte of its file.
pub(super) fn place(error: &dyn miette::Diagnostic) -> Option<usize> {
    error.labels()?.next().map(|label| label.offset())
}
