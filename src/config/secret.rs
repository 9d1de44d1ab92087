//! Secrets: read from a file, the environment or the text, never shown.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::environment::is_variable_name;
use super::problem::quoted;
use super::reader::{Section, Value};
use super::sources::{Machine, Sources};
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
    read(value, &value.section(&KEYS)?, accepted, valid)
}

/// The text of a file that holds a secret, or why not, as a sentence.
fn of_file(sources: &dyn Sources, path: &Path) -> Result<Zeroizing<String>, String> {
    let at = path.display();
    let content = sources.secret_file(path).map_err(|why| format!("{at} {why}"))?;
    let text = std::str::from_utf8(&content)
        .map_err(|_| format!("{at} holds bytes that are not UTF-8 text"))?;
    // One line end is an editor's; more would be part of the secret, and then wrong.
    let text = text.strip_suffix('\n').map_or(text, |t| t.strip_suffix('\r').unwrap_or(t));
    Ok(Zeroizing::new(text.to_owned()))
}

/// A PIN out of the file in which it was awaited.
///
/// # Errors
/// A sentence for the operator, why that cannot be one.
pub fn late_pin(path: &Path) -> Result<SecretString, String> {
    let text = of_file(&Machine { check_files: false }, path)?;
    if text.is_empty() || !is_pin(&text) {
        return Err(format!("{} holds no PIN: {PIN_FORM}", path.display()));
    }
    SecretString::new(&text).map_err(|why| why.to_string())
}

/// What a PIN is.
pub(super) const PIN_FORM: &str = "a PIN is not empty, and has no NUL and no line end";

pub(super) fn is_pin(text: &str) -> bool {
    !text.contains(['\0', '\n', '\r'])
}

/// A secret, or the file that it will come in.
pub(super) enum Late {
    There(SecretString),
    Awaited(PathBuf),
}

/// The same where `late = true` may stand beside `file`: the file need not be there yet.
pub(super) fn late_secret(
    value: &Value<'_>,
    accepted: &str,
    valid: impl Fn(&str) -> bool,
) -> Option<Late> {
    if !value.is_table() {
        return value.refuse(FORMS);
    }
    let section = value.section(&[&KEYS[..], &["late"]].concat())?;
    let is_late = section.or("late", false, Value::boolean)?;
    match section.optional("file") {
        Some(file) if is_late => {
            let path = file.watched()?;
            if value.reader.sources.is_missing(&path) {
                let why = format!("{} is not there yet: it is waited for", path.display());
                value.reader.warning(&value.path, &value.span, why);
                return Some(Late::Awaited(path));
            }
        }
        None if is_late => return value.refuse("late belongs beside file"),
        _ => {}
    }
    read(value, &section, accepted, valid).map(Late::There)
}

fn read(
    value: &Value<'_>,
    section: &Section<'_>,
    accepted: &str,
    valid: impl Fn(&str) -> bool,
) -> Option<SecretString> {
    let given = KEYS.iter().filter(|key| section.has(key)).count();
    if given != 1 {
        return value.refuse(format!(
            "{} of them are given; exactly one is needed: {FORMS}",
            if given == 0 { "none" } else { "several" }
        ));
    }
    let (origin, text) = if let Some(file) = section.optional("file") {
        content(&file, &file.watched()?)?
    } else if let Some(credential) = section.optional("credential") {
        let path = credential_file(&credential)?;
        credential.watch(&path);
        content(&credential, &path)?
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
    match of_file(value.reader.sources, path) {
        Ok(text) => Some((format!("the content of {}", path.display()), text)),
        Err(why) => value.refuse(why),
    }
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
