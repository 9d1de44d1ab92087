//! The local key manager's file.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::LessSafeKey;
use ring::rand::SecureRandom;
use secret_memory::{Arena, Slot};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{KEY_BYTES, NO_RANDOM, RawKey, cipher};
use crate::file;
use crate::limits::KEY_FILE_BYTES_MAX;

/// Of a file that is made: the owner's read and write.
const MODE: u32 = 0o600;
/// Refused as with every other secret's file; the group may have access.
const OTHERS: u32 = 0o007;

type Keys = HashMap<String, Slot<LessSafeKey>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    label: String,
    /// Borrowed, so that the text is in memory once and is zeroed there.
    key: &'a str,
}

/// By label, made in the arena. An error names the file and never shows what is in it besides
/// labels.
pub(super) fn read(path: &Path, arena: &Arena) -> Result<Keys, String> {
    let failed = |why: &dyn std::fmt::Display| format!("key file {}: {why}", path.display());
    let content = file::read(path, KEY_FILE_BYTES_MAX)
        .map_err(|refused| format!("key file {} {refused}", path.display()))?;
    if content.mode & OTHERS != 0 {
        return Err(failed(&format_args!(
            "mode {:04o} gives every user access to the keys; run: chmod o= {}",
            content.mode,
            file::shell_word(path)
        )));
    }
    file::refuse_changeable(path).map_err(|why| format!("key file {} {why}", path.display()))?;
    parse(&content.bytes, arena).map_err(|why| failed(&why))
}

fn parse(text: &[u8], arena: &Arena) -> Result<Keys, String> {
    // serde_json's own message may quote a value, which may be a key.
    let document: Document = serde_json::from_slice(text).map_err(|error| {
        let what = if error.is_data() { "not of the form" } else { "not JSON of the form" };
        format!(
            "line {}, column {}: {what} {{\"keys\":[{{\"label\":…,\"key\":…}}]}} and nothing else",
            error.line(),
            error.column()
        )
    })?;
    let mut keys = Keys::with_capacity(document.keys.len());
    for Entry { label, key } in document.keys {
        if label.is_empty() {
            return Err("a key without a label".to_owned());
        }
        if keys.contains_key(&label) {
            return Err(format!("key \"{label}\" is there twice"));
        }
        let made = arena.place(|| {
            let key = decode(key)
                .ok_or_else(|| format!("key \"{label}\" is not {KEY_BYTES} bytes in base64"))?;
            cipher(&key)
        })?;
        keys.insert(label, made);
    }
    Ok(keys)
}

fn decode(text: &str) -> Option<RawKey> {
    // A little more room than a key needs, so that a longer one is seen to be longer.
    let mut bytes = Zeroizing::new([0; KEY_BYTES + 2]);
    let length = STANDARD.decode_slice(text, &mut *bytes).ok()?;
    let mut key = RawKey::default();
    (length == KEY_BYTES).then(|| key.copy_from_slice(&bytes[..KEY_BYTES]))?;
    Some(key)
}

/// Makes the file; see [`super::Local::create`].
pub(super) fn create(
    path: &Path,
    labels: &[&str],
    random: &dyn SecureRandom,
) -> Result<(), String> {
    let failed = |why: &dyn std::fmt::Display| format!("key file {}: {why}", path.display());
    // Made in memory first, so that nothing half-written is left for a want of labels or random
    // bytes.
    let text = compose(labels, random).map_err(|why| failed(&why))?;
    // create_new: never overwrites, never follows a link. The mode holds from the first moment.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)
        .map_err(|error| failed(&error))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
        // It is this call's own file, without a whole set of keys.
        let _ = std::fs::remove_file(path);
        failed(&error)
    })
}

fn compose(labels: &[&str], random: &dyn SecureRandom) -> Result<Zeroizing<String>, String> {
    /// Base64 of a key, and the JSON around it with its line end.
    const ENTRY_BYTES: usize = KEY_BYTES.div_ceil(3) * 4 + 32;
    // Escaping makes six bytes of one at most. Large enough from the start, as above.
    let capacity =
        labels.iter().map(|label| 6 * label.len() + ENTRY_BYTES).sum::<usize>() + ENTRY_BYTES;
    let mut text = Zeroizing::new(String::with_capacity(capacity));
    text.push_str("{\"keys\":[\n");
    for (n, label) in labels.iter().enumerate() {
        if label.is_empty() {
            return Err("a key without a label".to_owned());
        }
        if labels[..n].contains(label) {
            return Err(format!("key \"{label}\" is there twice"));
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        random.fill(&mut *key).map_err(|_| NO_RANDOM.to_owned())?;
        let label = serde_json::to_string(label).map_err(|error| error.to_string())?;
        let separator = if n + 1 == labels.len() { "" } else { "," };
        text.push_str("{\"label\":");
        text.push_str(&label);
        text.push_str(",\"key\":\"");
        STANDARD.encode_string(key.as_slice(), &mut text);
        text.push_str("\"}");
        text.push_str(separator);
        text.push('\n');
    }
    text.push_str("]}\n");
    Ok(text)
}
