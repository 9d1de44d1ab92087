//! `include`: files with further `[[keystore]]` tables, read as if they stood at the end of the
//! configuration.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::files::{Files, digest_of};
use super::reader::{Section, Value};
use super::sources::{IncludedFile, Sources, path_from};
use crate::limits::CONFIG_INCLUDES_MAX;

/// A configuration with what it includes.
pub(super) struct Joined {
    /// The file's text, and behind it that of each that could be read. Secrets may stand in both.
    pub(super) text: Zeroizing<String>,
    /// In which line of `text` each of those begins, from 1.
    pub(super) begins: Vec<(usize, PathBuf)>,
    /// What each of those held when it was read.
    pub(super) held: Files,
    /// Of those that hold secrets for others to read: the permission bits of all of them.
    pub(super) mode: u32,
    /// Places in `include` of those that cannot be used, and why.
    refused: Vec<(usize, String)>,
}

/// Reads what `text` includes.
pub(super) fn join(text: &str, base: &Path, sources: &dyn Sources) -> Joined {
    let (document, _) = DeTable::parse_recoverable(text);
    let files = document.get_ref().get("include").and_then(|value| value.get_ref().as_array());
    let (mut texts, mut mode, mut refused) = (Vec::new(), 0, Vec::new());
    for (place, file) in files.into_iter().flatten().enumerate().take(CONFIG_INCLUDES_MAX) {
        // What is no string is refused by `included`.
        let DeValue::String(file) = file.get_ref() else { continue };
        let path = path_from(base, file, sources);
        match read(&path, sources) {
            Ok((text, its_mode)) => {
                texts.push((path, text));
                mode |= its_mode;
            }
            Err(why) => refused.push((place, format!("{} {why}", path.display()))),
        }
    }
    // At once: memory that had become too small would be given back with the secrets in it.
    let bytes = text.len() + texts.iter().map(|(_, text)| 1 + text.len()).sum::<usize>();
    let mut joined = Zeroizing::new(String::with_capacity(bytes));
    joined.push_str(text);
    let (mut begins, mut held) = (Vec::new(), Files::new());
    for (path, text) in texts {
        joined.push('\n');
        held.insert(path.clone(), digest_of(text.as_bytes()));
        begins.push((joined.matches('\n').count() + 1, path));
        joined.push_str(&text);
    }
    Joined { text: joined, begins, held, mode, refused }
}

fn read(path: &Path, sources: &dyn Sources) -> Result<IncludedFile, String> {
    let (text, mode) = sources.included_file(path)?;
    let (document, _) = DeTable::parse_recoverable(&text);
    let other = document.get_ref().keys().find(|key| key.get_ref() != "keystore");
    match other {
        Some(key) => Err(format!("has {:?}: only [[keystore]] may be included", key.get_ref())),
        None => Ok((text, mode)),
    }
}

/// The files as the configuration names them; what is wrong with one is reported.
pub(super) fn included(root: &Section<'_>, joined: &Joined) -> Option<Vec<PathBuf>> {
    root.or("include", Vec::new(), |value| {
        let files = value.distinct_strings(Value::string)?;
        if files.len() > CONFIG_INCLUDES_MAX {
            return value.refuse(format!("{CONFIG_INCLUDES_MAX} files at most"));
        }
        let elements = value.elements()?;
        for (place, why) in &joined.refused {
            elements.get(*place)?.refuse::<()>(why.as_str());
        }
        joined.refused.is_empty().then(|| files.iter().map(PathBuf::from).collect())
    })
}
