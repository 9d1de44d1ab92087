//! The reports' files.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::args::CommonArgs;
use crate::generator::transport::Failure;
use crate::present::page::{Results, page};
use crate::report::Report;

impl CommonArgs {
    /// Whether the reports can be written: nobody wants to hear of it at the end of a long run.
    /// What is in the files stays until then.
    pub(super) fn try_files(&self) -> Result<(), String> {
        for (option, path) in [("--json", &self.json), ("--html", &self.html)] {
            if let Some(path) = path {
                try_file(path).map_err(|e| match (e.kind(), path.parent()) {
                    (io::ErrorKind::NotFound, Some(dir)) => format!(
                        "{option} {}: there is no directory {}",
                        path.display(),
                        dir.display()
                    ),
                    _ => format!("{option} {}: cannot be written: {e}", path.display()),
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn save(&self, report: &Report) -> Result<(), Failure> {
        let mut results = None;
        if let Some(path) = &self.json {
            let text = report.to_json().map_err(Failure::Setup)?;
            write(path, &text)?;
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            results = Some(Results { file, sha256: sha256(&text) });
        }
        if let Some(path) = &self.html {
            write(path, &page(report, results.as_ref()))?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|e| Failure::Setup(format!("{}: {e}", path.display())))
}

/// In hexadecimal, as `sha256sum` prints it.
fn sha256(text: &str) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn try_file(path: &Path) -> io::Result<()> {
    match path.metadata() {
        // Opening another kind of file (a FIFO, a terminal) may wait for its reader, or tell it
        // that this was all.
        Ok(file) if file.is_file() || file.is_dir() => {
            File::options().write(true).open(path).map(drop)
        }
        Ok(_) => Ok(()),
        // What is not there is made and taken away again: a run that cannot start leaves nothing
        // behind.
        Err(e) if e.kind() == io::ErrorKind::NotFound => match File::create_new(path) {
            // A link to a file that is yet to be made.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.and_then(|_| fs::remove_file(path)),
        },
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_what_sha256sum_prints() {
        assert_eq!(
            sha256("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn files_are_tried_and_left_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("new"), dir.path().join("old"));
        fs::write(&old, "before").unwrap();
        assert!(try_file(&new).is_ok() && !new.exists());
        assert!(try_file(&old).is_ok() && fs::read_to_string(&old).unwrap() == "before");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&new, &link).unwrap();
        assert!(try_file(&link).is_ok() && link.is_symlink() && !new.exists());
        assert!(try_file(Path::new("/dev/null")).is_ok());
        assert_eq!(try_file(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(try_file(&new.join("r.json")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(try_file(&old.join("r.json")).unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }
}
