//! The reports' files.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::args::CommonArgs;
use crate::generator::transport::Failure;
use crate::present::html;
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
        if let Some(path) = &self.json {
            report.save(path).map_err(Failure::Setup)?;
        }
        if let Some(path) = &self.html {
            fs::write(path, html::page(report))
                .map_err(|e| Failure::Setup(format!("{}: {e}", path.display())))?;
        }
        Ok(())
    }
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
