//! A key of a key manager, in one line.

use crate::api::response::{key_spec, key_usage};
use crate::key_manager::KeyListing;

/// What it is, may do, and when.
pub(super) fn line(key: &KeyListing) -> String {
    let usages: Vec<&str> = key.description.usage.iter().map(key_usage).collect();
    let usages = if usages.is_empty() { "no usage".to_owned() } else { usages.join(" ") };
    // A label is the HSM's bytes: quoted, so that it cannot steer a terminal.
    let mut line = format!("{:?}: {}, {usages}", key.label, key_spec(key.description.spec));
    if !key.id.is_empty() {
        line += &format!(", id {}", key.id);
    }
    if key.start_date.is_some() || key.end_date.is_some() {
        let day = |day: &Option<String>| day.clone().unwrap_or_default();
        let today = if key.description.enabled { "" } else { " (not today)" };
        line += &format!(", {} to {}{today}", day(&key.start_date), day(&key.end_date));
    }
    line
}
