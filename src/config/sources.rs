//! Where secrets come from: files and the environment of this machine, or a map in tests.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use zeroize::Zeroizing;

use crate::file::{self, shell_word};
use crate::key_manager::InProcess;
use crate::key_manager::local::Local;
use crate::limits::{CONFIG_BYTES_MAX, POLICY_FILE_BYTES_MAX, SECRET_FILE_BYTES_MAX};
use crate::tls;
use crate::tls::client::NotUsable;

use super::files::{self, Digest};

/// Text of an included file, in which secrets may stand, and its permission bits.
pub type IncludedFile = (Zeroizing<String>, u32);

/// What a configuration may refer to besides its own text.
pub trait Sources {
    /// An environment variable.
    fn variable(&self, name: &str) -> Option<OsString>;
    /// The whole content of a secret's file, or why it is not acceptable, as the end of a sentence
    /// that begins with the file's name.
    fn secret_file(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, String>;
    /// Whether there is no such file.
    fn is_missing(&self, path: &Path) -> bool;
    /// Whether a path is of a folder, and not of a link to one.
    fn is_folder(&self, _path: &Path) -> bool {
        false
    }
    /// The text of a file of policies, or why it is not acceptable, in the same form.
    fn policy_file(&self, path: &Path) -> Result<String, String>;
    /// A file that the configuration includes, or why it is not acceptable, in the same form.
    fn included_file(&self, path: &Path) -> Result<IncludedFile, String>;
    /// What a file holds now, where it is to be watched.
    fn digest(&self, _path: &Path) -> Option<Digest> {
        None
    }
    /// Whether a file that the configuration names can be used later, or why not, in the same form.
    fn check_file(&self, path: &Path, exposure: Exposure) -> Result<(), String>;
    /// Labels of the keys in the file of a local key manager, or why it cannot be used, as a
    /// sentence; `None` where files are not looked into.
    fn key_file_labels(&self, path: &Path) -> Result<Option<Vec<String>>, String>;
    /// What is wrong or unwise with what stands in the TLS files.
    fn check_tls(&self, settings: &tls::Settings) -> tls::Report;
    /// Whether a file of trust anchors can be used, or why not, as a sentence.
    fn check_trust_anchors(&self, _path: &Path) -> Result<(), String> {
        Ok(())
    }
    /// Whether a client's certificate and private key can be used, or which file cannot.
    fn check_client_certificate(&self, _files: (&Path, &Path)) -> Result<(), NotUsable> {
        Ok(())
    }
    /// The certificates in a chain's file, none where files are not looked into.
    fn certificates(&self, chain: &Path) -> Vec<tls::Certificate>;
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
    /// Whether [`Sources::check_file`] opens files, and key files and those of TLS are looked into.
    /// The server does not ask for it: it opens each file itself, and one that is missing may
    /// concern a single key manager while the rest can serve. A private file that is open to all,
    /// and what is no regular file, is refused in any case.
    pub check_files: bool,
}

impl Sources for Machine {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn secret_file(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
        let content =
            file::read(path, SECRET_FILE_BYTES_MAX).map_err(|refused| refused.to_string())?;
        refuse_open_mode(path, content.mode)?;
        file::refuse_changeable(path)?;
        Ok(content.bytes)
    }

    fn is_missing(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
    }

    fn is_folder(&self, path: &Path) -> bool {
        std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
    }

    fn policy_file(&self, path: &Path) -> Result<String, String> {
        let content =
            file::read(path, POLICY_FILE_BYTES_MAX).map_err(|refused| refused.to_string())?;
        file::refuse_changeable(path)?;
        String::from_utf8(content.bytes.to_vec()).map_err(|_| "is not UTF-8 text".to_owned())
    }

    fn included_file(&self, path: &Path) -> Result<IncludedFile, String> {
        let content = file::read(path, CONFIG_BYTES_MAX).map_err(|refused| refused.to_string())?;
        file::refuse_changeable(path)?;
        let text = str::from_utf8(&content.bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
        Ok((Zeroizing::new(text.to_owned()), content.mode))
    }

    fn digest(&self, path: &Path) -> Option<Digest> {
        files::digest(path)
    }

    fn check_file(&self, path: &Path, exposure: Exposure) -> Result<(), String> {
        let named = std::fs::metadata(path);
        if let Ok(named) = &named {
            file::regular(named).map_err(|refused| refused.to_string())?;
            if exposure == Exposure::Private {
                refuse_open_mode(path, named.mode())?;
            }
            file::refuse_changeable(path)?;
        }
        if self.check_files {
            file::open(path).map_err(|refused| refused.to_string())?;
        }
        Ok(())
    }

    fn key_file_labels(&self, path: &Path) -> Result<Option<Vec<String>>, String> {
        if !self.check_files {
            return Ok(None);
        }
        // As the server loads it, so that both refuse the same.
        let keys = Local::load(path)?;
        Ok(Some(keys.labels()))
    }

    fn check_tls(&self, settings: &tls::Settings) -> tls::Report {
        if self.check_files { tls::check(settings) } else { tls::Report::default() }
    }

    fn check_trust_anchors(&self, path: &Path) -> Result<(), String> {
        if self.check_files { tls::client::trusting_file(path).map(drop) } else { Ok(()) }
    }

    fn check_client_certificate(&self, files: (&Path, &Path)) -> Result<(), NotUsable> {
        if self.check_files { tls::client::check_certificate(files) } else { Ok(()) }
    }

    fn certificates(&self, chain: &Path) -> Vec<tls::Certificate> {
        if self.check_files { tls::chain_of(chain) } else { Vec::new() }
    }
}

/// A path that the configuration names, relative ones from `base`. `folder/..` goes where `folder`
/// is one; behind a link it leads elsewhere, and stays.
pub(super) fn path_from(base: &Path, named: &str, sources: &dyn Sources) -> PathBuf {
    let mut path = PathBuf::new();
    for part in base.join(named).components() {
        let is_name = matches!(path.components().next_back(), Some(Component::Normal(_)));
        if part == Component::ParentDir && is_name && sources.is_folder(&path) {
            path.pop();
        } else {
            path.push(part);
        }
    }
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path }
}

/// A file that holds a secret must be closed to all but its owner and group: any bit for others is
/// refused, as ssh does. The group may read: services are commonly given files of root:service,
/// mode 0640.
pub(super) fn refuse_open_mode(path: &Path, mode: u32) -> Result<(), String> {
    match mode & 0o007 {
        0 => Ok(()),
        _ => Err(format!(
            "is open to every user (mode {:04o}); run: chmod o-rwx {}",
            mode & 0o7777,
            shell_word(path)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_back_goes_and_a_link_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (base, machine) = (dir.path().join("demo"), Machine { check_files: false });
        std::fs::create_dir(&base).unwrap();
        std::os::unix::fs::symlink(dir.path(), base.join("link")).unwrap();
        let from = |named: &str| path_from(&base, named, &machine);
        assert_eq!(from("../keys/foo").as_os_str(), dir.path().join("keys/foo").as_os_str());
        assert_eq!(from("./keys").as_os_str(), base.join("keys").as_os_str());
        assert_eq!(from("link/../keys").as_os_str(), base.join("link/../keys").as_os_str());
        assert_eq!(from("none/../keys").as_os_str(), base.join("none/../keys").as_os_str());
        assert_eq!(from("/none/../keys"), Path::new("/none/../keys"));
        // Relative to the working directory, which is this crate's.
        let relative = |named: &str| path_from(Path::new("src"), named, &machine);
        assert_eq!(relative("../docs"), Path::new("docs"));
        assert_eq!(relative(".."), Path::new("."));
        assert_eq!(relative("../../x"), Path::new("../x"));
    }
}
