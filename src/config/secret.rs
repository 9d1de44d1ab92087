//! Secrets: read from a file, the environment or the text, never shown.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::environment::is_variable_name;
use super::problem::quoted;
use super::reader::Value;
use crate::secret::SecretString;

const FORMS: &str = "a secret is one of { file = \"…\" }, { credential = \"…\" }, { env = \"…\" } \
    and { value = \"…\" }";
const KEYS: [&str; 4] = ["file", "credential", "env", "value"];
/// Where systemd puts what a unit names in LoadCredential= and the like.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Reads a secret for which `valid` holds; `accepted` tells its form. No problem tells the secret
/// or any part of it.
pub(super) fn secret(
    value: &Value<'_>,
    accepted: &str,
    valid: impl Fn(&str) -> bool,
) -> Option<SecretString> {
    if !value.is_table() {
        return value.refuse(FORMS);
    }
    let section = value.section(&KEYS)?;
    let given = KEYS.iter().filter(|key| section.has(key)).count();
    if given != 1 {
        return value.refuse(format!(
            "{} of them are given; exactly one is needed: {FORMS}",
            if given == 0 { "none" } else { "several" }
        ));
    }
    let (origin, text) = if let Some(file) = section.optional("file") {
        content(&file, &file.path()?)?
    } else if let Some(credential) = section.optional("credential") {
        content(&credential, &credential_file(&credential)?)?
    } else if let Some(env) = section.optional("env") {
        let name = env.string()?;
        // Not quoted: the likely mistake is the secret itself in the place of the name.
        if !is_variable_name(name) {
            return env.refuse(
                "this is not the name of an environment variable: letters, digits \
                and _ are accepted",
            );
        }
        let Some(content) = value.reader.sources.variable(name) else {
            return env.refuse(format!("the environment variable {} is not set", quoted(name)));
        };
        let Ok(text) = content.into_string().map(Zeroizing::new) else {
            return env
                .refuse(format!("the environment variable {} is not UTF-8 text", quoted(name)));
        };
        (format!("the environment variable {}", quoted(name)), text)
    } else {
        let inline = section.optional("value")?;
        let text = inline.string()?;
        value
            .reader
            .inline_secret
            .borrow_mut()
            .get_or_insert_with(|| (inline.path.clone(), inline.span.clone()));
        ("the value".to_owned(), Zeroizing::new(text.to_owned()))
    };
    if text.is_empty() {
        return value.refuse(format!("{origin} is empty"));
    }
    if !valid(&text) {
        return value.refuse(format!(
            "{origin} ({} characters) is not accepted: {accepted}",
            text.chars().count()
        ));
    }
    match SecretString::new(&text) {
        Ok(secret) => Some(secret),
        Err(why) => value.refuse(why.to_string()),
    }
}

/// The text of the file that `value` names, and what to call it.
fn content(value: &Value<'_>, path: &Path) -> Option<(String, Zeroizing<String>)> {
    let content = match value.reader.sources.secret_file(path) {
        Ok(content) => content,
        Err(why) => return value.refuse(format!("{} {why}", path.display())),
    };
    let Ok(text) = std::str::from_utf8(&content) else {
        return value.refuse(format!("{} holds bytes that are not UTF-8 text", path.display()));
    };
    // One line end is an editor's; more would be part of the secret, and then wrong.
    let text = text.strip_suffix('\n').map_or(text, |t| t.strip_suffix('\r').unwrap_or(t));
    Some((format!("the content of {}", path.display()), Zeroizing::new(text.to_owned())))
}

/// The file of a credential that systemd has loaded for this unit.
fn credential_file(value: &Value<'_>) -> Option<PathBuf> {
    // Not quoted where it is refused: it may be the secret itself.
    let name = value.string()?;
    let is_file_name = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
    if !is_file_name {
        return value
            .refuse("this is not the name of a credential: that of a file, without a path");
    }
    match value.reader.sources.variable(CREDENTIALS_DIRECTORY) {
        Some(directory) => Some(Path::new(&directory).join(name)),
        None => value.refuse(format!(
            "${CREDENTIALS_DIRECTORY} is not set: credentials are there in a unit of systemd that \
             names them, as in LoadCredential={}:/etc/xksd/secrets/FILE",
            quoted(name).trim_matches('"')
        )),
    }
}
