//! What was tested, by whom, from where and how: what a reader needs to repeat a test, or
//! to put a name under its report.

use serde::{Deserialize, Serialize};

use crate::limits::NOTE_CHARS_MAX;
use crate::observe::host::Host;
use crate::workload::identity::Identity;

/// What was tested.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// What the person who ran the test says of it.
    pub described: Description,
    /// What the proxy says of itself, where it does.
    pub identity: Option<Identity>,
    /// The load balancer that the load went through.
    pub balancer: Option<String>,
    /// Whether a process of the proxy was seen on the machine that the load came from.
    pub proxy_on_this_host: bool,
    /// The machine that the load came from.
    pub host: Host,
    /// The command, as a shell takes it.
    pub command: String,
}

/// What the person who runs a test says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Of the proxy, in place of what it says itself.
    pub proxy: Option<String>,
    /// Of the HSM, in place of what the proxy says of it.
    pub hsm: Option<String>,
    /// Name and organisation.
    pub tested_by: Option<String>,
    /// Whatever else belongs into the report.
    pub notes: Vec<Note>,
}

/// A line for the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What it is of.
    pub name: String,
    /// What it says.
    pub text: String,
}

impl Note {
    /// Reads `NAME=TEXT`.
    ///
    /// # Errors
    /// A sentence that says what is accepted.
    pub fn parse(text: &str) -> Result<Note, String> {
        let wrong = || format!("{text:?}: NAME=TEXT, as in network=\"10 Gbit/s, same rack\"");
        let (name, text) = text.split_once('=').ok_or_else(wrong)?;
        let (name, text) = (described(name)?, described(text)?);
        Ok(Note { name, text })
    }
}

/// Reads a text for the report.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn described(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > NOTE_CHARS_MAX {
        return Err(format!("a text of 1 to {NOTE_CHARS_MAX} characters"));
    }
    Ok(text.to_owned())
}

impl Subject {
    /// The proxy: what it is and, where it says so, its version.
    pub fn proxy(&self) -> Option<String> {
        let said = |identity: &Identity| {
            let (vendor, model) = (&identity.proxy_vendor, &identity.proxy_model);
            // Many models begin with their vendor's name.
            let named = vendor.is_empty() || model.starts_with(vendor.as_str());
            if named { model.clone() } else { format!("{vendor} {model}") }
        };
        let said = self.identity.as_ref().map(said).filter(|said| !said.is_empty());
        self.described.proxy.clone().or(said)
    }

    /// The HSMs, one a line.
    pub fn hsms(&self) -> Vec<String> {
        if let Some(described) = &self.described.hsm {
            return vec![described.clone()];
        }
        let Some(identity) = &self.identity else { return Vec::new() };
        let vendor = match identity.hsm_vendor.as_str() {
            "" | "unknown" => String::new(),
            vendor => format!("{vendor}, "),
        };
        identity.hsms.iter().map(|hsm| format!("{}: {vendor}{}", hsm.id, hsm.model)).collect()
    }
}

/// A command as a POSIX shell takes it.
pub fn command(words: impl Iterator<Item = String>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    let quoted = |word: String| {
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::workload::identity::Hsm;

    #[test]
    fn a_shell_reads_back_the_words_of_a_command() {
        let words =
            ["printf", "%s|", "a b", "it's", "$HOME `x` \\ \"q\"", "", "--sla=p99.9=1ms", "ä"];
        let text = command(words.iter().map(|word| (*word).to_owned()));
        assert!(text.starts_with("printf ") && text.contains(" --sla=p99.9=1ms "), "{text}");
        let shell = Command::new("sh").args(["-c", &text]).output().unwrap();
        let expected: String = words.iter().skip(2).map(|word| format!("{word}|")).collect();
        assert_eq!(String::from_utf8(shell.stdout).unwrap(), expected);
    }

    #[test]
    fn the_subject_is_what_was_described_or_what_the_proxy_says() {
        let hsm = |id: &str| Hsm { id: id.into(), model: "m 7".into(), health: "ACTIVE".into() };
        let identity = |vendor: &str| Identity {
            proxy_vendor: vendor.into(),
            proxy_model: "xksd 0.1.0".into(),
            hsm_vendor: "Maker".into(),
            hsms: vec![hsm("a"), hsm("b")],
        };
        let mut subject = Subject::default();
        assert_eq!((subject.proxy(), subject.hsms()), (None, Vec::new()));
        subject.identity = Some(identity("xksd"));
        assert_eq!(subject.proxy().unwrap(), "xksd 0.1.0");
        assert_eq!(subject.hsms(), ["a: Maker, m 7", "b: Maker, m 7"]);
        subject.identity = Some(identity("Other"));
        assert_eq!(subject.proxy().unwrap(), "Other xksd 0.1.0");
        subject.described.proxy = Some("p".into());
        subject.described.hsm = Some("h".into());
        assert_eq!((subject.proxy().unwrap(), subject.hsms()), ("p".into(), vec!["h".into()]));
    }

    #[test]
    fn notes_are_bounded() {
        let longest = "x".repeat(NOTE_CHARS_MAX);
        assert_eq!(described(&longest), Ok(longest.clone()));
        assert!(described(&format!("{longest}x")).is_err() && described(" ").is_err());
        let note = Note::parse("network = a=b").unwrap();
        assert_eq!((note.name.as_str(), note.text.as_str()), ("network", "a=b"));
        for wrong in ["network", "=x", "x="] {
            assert!(Note::parse(wrong).is_err(), "{wrong}");
        }
    }
}
