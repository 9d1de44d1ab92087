//! `key_manager.environment`: variables for PKCS#11 modules. Many of them find their settings only
//! through the environment of the process (`SOFTHSM2_CONF`, `ChrystokiConfigurationPath`).

use std::collections::BTreeMap;
use std::fs;

use super::reader::Value;
use crate::limits::{
    ENVIRONMENT_NAME_CHARS_MAX, ENVIRONMENT_VALUE_BYTES_MAX, ENVIRONMENT_VARIABLES_MAX,
};

/// Names and values.
pub type Environment = BTreeMap<String, String>;

/// Each value is the text itself, or `{ path = "…" }`: a path that is relative to the
/// configuration file.
pub(super) fn environment(value: &Value<'_>) -> Option<Environment> {
    let entries = value.entries()?;
    if entries.len() > ENVIRONMENT_VARIABLES_MAX {
        return value.refuse(format!(
            "{} variables are too many: {ENVIRONMENT_VARIABLES_MAX} at most",
            entries.len()
        ));
    }
    let mut variables = Some(Environment::new());
    // All are looked at, so that each can report its problem.
    for (name, value) in entries {
        match (variable(name, &value), &mut variables) {
            (Some(text), Some(variables)) => {
                variables.insert(name.to_owned(), text);
            }
            (_, variables) => *variables = None,
        }
    }
    variables
}

fn variable(name: &str, value: &Value<'_>) -> Option<String> {
    if name.len() > ENVIRONMENT_NAME_CHARS_MAX || !is_variable_name(name) {
        return value.refuse(format!(
            "this is not the name of an environment variable: 1 to {ENVIRONMENT_NAME_CHARS_MAX} \
             letters, digits and _ are accepted, and no digit first"
        ));
    }
    let text = if value.is_table() { path(value)? } else { value.string()?.to_owned() };
    // Not quoted: vendors let PINs be given so.
    if text.contains('\0') || text.len() > ENVIRONMENT_VALUE_BYTES_MAX {
        return value.refuse(format!(
            "the value is not accepted: at most {ENVIRONMENT_VALUE_BYTES_MAX} bytes, and no NUL"
        ));
    }
    Some(text)
}

fn path(value: &Value<'_>) -> Option<String> {
    let section = value.section(&["path"])?;
    let path = section.must("path", "a path, relative to this file", Value::path)?;
    // The text of the configuration is UTF-8, the name of its directory may be anything.
    match path.to_str() {
        Some(path) => Some(path.to_owned()),
        None => value.refuse(format!("{} is not UTF-8", path.display())),
    }
}

/// Whether every system and shell takes this for the name of a variable.
pub(crate) fn is_variable_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Sets variables in the environment of this process. To be called on the main thread before it
/// has started another one, and before a module is loaded.
///
/// # Errors
/// When this process has more than one thread, or its threads cannot be counted.
pub(super) fn set<'a>(
    variables: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<(), String> {
    let mut variables = variables.into_iter().peekable();
    if variables.peek().is_none() {
        return Ok(());
    }
    let threads = fs::read_dir("/proc/self/task")
        .map_err(|e| format!("cannot count the threads of this process: /proc/self/task: {e}"))?
        .count();
    if threads != 1 {
        return Err(format!("cannot set key_manager.environment: {threads} threads run"));
    }
    for (name, value) in variables {
        // SAFETY: no variable may be set while another thread reads one. There is no other thread:
        // they were counted above, and this one has started none since.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(())
}
