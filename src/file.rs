//! Files that an operator names: regular ones, read whole and within a bound.
//!
//! Anything else may block the thread that opens it (a FIFO waits for its writer, for ever), never
//! end (`/dev/zero`), and give nothing a second time, when a reload reads it again. Symbolic links
//! are followed.

mod trusted;

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use zeroize::Zeroizing;

pub use trusted::refuse_changeable;

/// What a file holds, zeroed when dropped: it may be a secret.
pub struct Content {
    /// All of it.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Permission bits (`0o600`) of the file that was read.
    pub mode: u32,
}

/// Why a file was not read: the end of a sentence that begins with the file's name.
#[derive(Debug)]
pub enum Refused {
    /// The system's error.
    Io(io::Error),
    /// No regular file but this.
    NotRegular(Kind),
    /// Longer than this, bytes.
    TooLong(usize),
}

/// What is not a regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A FIFO, also one that a shell makes for `<(…)`.
    Pipe,
    /// A Unix socket.
    Socket,
    /// Anything else: a device.
    Device,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::Pipe => "pipe",
            Self::Socket => "socket",
            Self::Device => "device",
        })
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                f.write_str("does not exist")
            }
            Self::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                f.write_str("cannot be read by this user (permission denied)")
            }
            Self::Io(error) => write!(f, "cannot be read: {error}"),
            Self::NotRegular(kind) => write!(f, "is a {kind} and not a regular file"),
            Self::TooLong(bytes_max) => write!(f, "is longer than {bytes_max} bytes"),
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Opens a file that is nothing else than a file.
///
/// # Errors
/// Why it cannot be opened.
pub fn open(path: &Path) -> Result<(File, Metadata), Refused> {
    // Looked at before it is opened, because opening may be what blocks; and again, because what is
    // open need no longer be what the path named.
    regular(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    Ok((file, metadata))
}

/// Whether this is of a regular file.
///
/// # Errors
/// What it is of else.
pub fn regular(metadata: &Metadata) -> Result<(), Refused> {
    let found = metadata.file_type();
    if found.is_file() {
        return Ok(());
    }
    Err(Refused::NotRegular(match found {
        _ if found.is_dir() => Kind::Directory,
        _ if found.is_fifo() => Kind::Pipe,
        _ if found.is_socket() => Kind::Socket,
        _ => Kind::Device,
    }))
}

/// Reads a whole file of at most `bytes_max` bytes.
///
/// # Errors
/// Why it is not acceptable.
pub fn read(path: &Path, bytes_max: usize) -> Result<Content, Refused> {
    let (file, metadata) = open(path)?;
    // Room for all of it and a byte more at once: growing would leave copies of a secret behind
    // that nobody zeroes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max + 1));
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(Refused::TooLong(bytes_max));
    }
    Ok(Content { bytes, mode: metadata.mode() & 0o7777 })
}

/// A path as one word for a POSIX shell.
pub fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+,:@%".contains(&b)) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn why(path: &Path) -> String {
        read(path, 3).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_read_up_to_its_bound_and_through_links() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        symlink(&file, &link).unwrap();
        for text in ["", "abc"] {
            std::fs::write(&file, text).unwrap();
            let content = read(&link, 3).unwrap();
            assert_eq!(
                (content.bytes.as_slice(), content.bytes.capacity()),
                (text.as_bytes(), 4),
                "room at once"
            );
        }
        std::fs::write(&file, "abcd").unwrap();
        assert_eq!(why(&link), "is longer than 3 bytes");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(why(&link), "does not exist");
    }

    #[test]
    fn what_could_block_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let (fifo, socket, link) = (
            directory.path().join("fifo"),
            directory.path().join("socket"),
            directory.path().join("link"),
        );
        // Nobody ever writes to it.
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let _listener = UnixListener::bind(&socket).unwrap();
        symlink(&fifo, &link).unwrap();
        for (path, kind) in [
            (fifo.as_path(), "pipe"),
            (&socket, "socket"),
            (&link, "pipe"),
            (directory.path(), "directory"),
            (Path::new("/dev/zero"), "device"),
            (Path::new("/dev/tty"), "device"),
        ] {
            assert_eq!(
                why(path),
                format!("is a {kind} and not a regular file"),
                "{}",
                path.display()
            );
        }
    }
}
