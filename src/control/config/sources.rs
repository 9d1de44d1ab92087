//! Where secrets come from: files and the environment of this machine, or a map in tests.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::limits::SECRET_FILE_BYTES_MAX;
use crate::tls;

/// What a configuration may refer to besides its own text.
pub trait Sources {
    /// An environment variable.
    fn variable(&self, name: &str) -> Option<OsString>;
    /// The whole content of a secret's file, or why it is not acceptable, as the end of a sentence that begins with the file's name.
    fn secret_file(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, String>;
    /// Whether a file that the configuration names can be used later, or why not, in the same form.
    fn check_file(&self, path: &Path, exposure: Exposure) -> Result<(), String>;
    /// What is wrong or unwise with what stands in the TLS files.
    fn check_tls(&self, settings: &tls::Settings) -> tls::Report;
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Anybody: certificates, libraries.
    Public,
    /// Its owner and group: keys.
    Private,
}

/// Files and environment of this process.
pub struct Machine {
    /// Whether [`Sources::check_file`] opens files. The server does not ask for it: it opens each file itself, and one that is missing
    /// may concern a single key manager while the rest can serve. A private file that is open to all is refused in any case.
    pub check_files: bool,
}

impl Sources for Machine {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn secret_file(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
        let file = open_regular(path)?;
        // Of the file that is open, not of whatever the path names by now.
        let opened = file.metadata().map_err(|e| cannot_read(&e))?;
        refuse_open_mode(path, opened.mode())?;
        // Room for all of it at once: growing would leave copies behind that nobody zeroes.
        let mut content = Zeroizing::new(Vec::with_capacity(SECRET_FILE_BYTES_MAX + 1));
        file.take(SECRET_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut content).map_err(|e| cannot_read(&e))?;
        if content.len() > SECRET_FILE_BYTES_MAX {
            return Err(format!("is longer than {SECRET_FILE_BYTES_MAX} bytes"));
        }
        Ok(content)
    }

    fn check_file(&self, path: &Path, exposure: Exposure) -> Result<(), String> {
        if exposure == Exposure::Private
            && let Ok(found) = std::fs::metadata(path)
        {
            refuse_open_mode(path, found.mode())?;
        }
        if self.check_files {
            open_regular(path)?;
        }
        Ok(())
    }

    fn check_tls(&self, settings: &tls::Settings) -> tls::Report {
        if self.check_files { tls::check(settings) } else { tls::Report::default() }
    }
}

/// Opens a file that is nothing else than a file.
fn open_regular(path: &Path) -> Result<File, String> {
    // Looked at before it is opened: opening a named pipe would wait for a writer.
    let found = std::fs::metadata(path).map_err(|e| cannot_read(&e))?;
    if !found.is_file() {
        return Err("is not a regular file".to_owned());
    }
    File::open(path).map_err(|e| cannot_read(&e))
}

/// A file that holds a secret must be closed to all but its owner and group: any bit for others is refused, as ssh does.
/// The group may read: services are commonly given files of root:service, mode 0640.
pub(super) fn refuse_open_mode(path: &Path, mode: u32) -> Result<(), String> {
    match mode & 0o007 {
        0 => Ok(()),
        _ => Err(format!("is open to every user (mode {:04o}); run: chmod o-rwx {}", mode & 0o7777, shell_word(path))),
    }
}

/// Why a file cannot be read, as the end of a sentence that begins with the file's name.
pub(super) fn cannot_read(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "cannot be read by this user (permission denied)".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

/// A path as one word for a POSIX shell.
pub(crate) fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+,:@%".contains(&b)) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
