//! Form, level and place of the log: three keys of `[server]`.

use std::path::PathBuf;

use super::reader::Value;

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Which lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// All.
    Info,
    /// What somebody should look at, and failures.
    Warn,
    /// Failures.
    Error,
}

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// systemd's journal.
    Journal,
    /// The syslog daemon of the machine.
    Syslog,
    /// A file.
    File(PathBuf),
}

impl LogFormat {
    const ALL: [Self; 3] = [Self::Auto, Self::Json, Self::Text];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}

impl LogLevel {
    const ALL: [Self; 3] = [Self::Info, Self::Warn, Self::Error];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl LogOutput {
    /// Those that are no file.
    const NAMED: [(&str, Self); 3] =
        [("stderr", Self::Stderr), ("journal", Self::Journal), ("syslog", Self::Syslog)];

    /// As it stands in the file.
    pub fn shown(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            output => {
                let named = Self::NAMED.iter().find(|(_, named)| named == output);
                named.map_or("", |(name, _)| name).to_owned()
            }
        }
    }
}

pub(super) fn format(value: &Value<'_>) -> Option<LogFormat> {
    let of_name = |name: &str| LogFormat::ALL.into_iter().find(|format| format.name() == name);
    of_name(value.string_where("\"auto\", \"json\" or \"text\"", |t| of_name(t).is_some())?)
}

pub(super) fn level(value: &Value<'_>) -> Option<LogLevel> {
    let of_name = |name: &str| LogLevel::ALL.into_iter().find(|level| level.name() == name);
    of_name(value.string_where("\"info\", \"warn\" or \"error\"", |t| of_name(t).is_some())?)
}

pub(super) fn output(value: &Value<'_>) -> Option<LogOutput> {
    let of_name = |name: &str| LogOutput::NAMED.into_iter().find(|(named, _)| *named == name);
    let accepted = "\"stderr\", \"journal\", \"syslog\", or the path of a file, with a / in it";
    let text = value.string_where(accepted, |t| of_name(t).is_some() || t.contains('/'))?;
    match of_name(text) {
        Some((_, output)) => Some(output),
        None => value.path().map(LogOutput::File),
    }
}
