//! Making files that are never overwritten.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::Failure;

/// Mode of a file that holds a secret.
pub(super) const PRIVATE: u32 = 0o600;
/// Mode of any other file.
pub(super) const PUBLIC: u32 = 0o644;

/// Makes the directory that a secret shall lie in, mode 0700, where it is missing; true when it
/// was. The one above must be there: a path with more that is missing is rather a mistyped one.
pub(super) fn create_private_parent(path: &Path) -> Result<bool, Failure> {
    // A bare name has an empty one: the current directory, which is there.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let Some(parent) = parent else { return Ok(false) };
    match DirBuilder::new().mode(0o700).create(parent) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Failure::Failed(format!("cannot make {}: {e}", parent.display()))),
    }
}

/// Makes a file that must not exist yet.
pub(super) fn create(path: &Path, mode: u32, content: &[u8]) -> Result<(), Failure> {
    let cannot = |e: std::io::Error| {
        Failure::Failed(match e.kind() {
            ErrorKind::AlreadyExists => {
                format!(
                    "{} is there already and is not overwritten: name another file, or take it \
                     away first",
                    path.display()
                )
            }
            _ => format!("cannot make {}: {e}", path.display()),
        })
    };
    // The mode is given at creation: the secret is at no moment open to others.
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(cannot)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(|e| {
        // Made here a moment ago, and useless: half a key must not look like a key the next time.
        let _ = fs::remove_file(path);
        cannot(e)
    })
}

/// Text as a TOML string.
pub(super) fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A path as a TOML string.
pub(super) fn toml_path(path: &Path) -> Result<String, Failure> {
    match path.to_str() {
        Some(text) => Ok(toml_string(text)),
        None => Err(Failure::Usage(format!(
            "{}: a configuration cannot name a path that is not UTF-8",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_may_lie_in_the_current_directory() {
        assert!(matches!(create_private_parent(Path::new("secret")), Ok(false)));
    }
}
