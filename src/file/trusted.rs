//! Files that decide who may use keys, and libraries that are loaded: whether another user could
//! change one, or put another in its place.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::process::geteuid;

/// As Linux follows at most.
const SYMBOLIC_LINKS_MAX: usize = 40;
/// Others may write.
const WRITABLE: u32 = 0o002;
/// In such a directory only its owner, an entry's owner and root rename or remove an entry.
const STICKY: u32 = 0o1000;

/// Refuses a path if a user other than root and this process's own could change what stands there:
/// the file, each directory above it, and each symbolic link on the way. A group may write: whom
/// root has put into it, root trusts.
///
/// What does not exist, or cannot be looked at, is left to who opens it.
///
/// # Errors
/// Who could, and what to do about it, as the end of a sentence that begins with the path.
pub fn refuse_changeable(path: &Path) -> Result<(), String> {
    let Ok(absolute) = std::path::absolute(path) else { return Ok(()) };
    let own = geteuid().as_raw();
    let mut at = PathBuf::from("/");
    let mut ahead: VecDeque<OsString> = names(&absolute).collect();
    let mut links = 0;
    refuse_at(&at, own, path)?;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        at.push(&name);
        let Some(metadata) = refuse_at(&at, own, path)? else { return Ok(()) };
        if metadata.is_symlink() {
            links += 1;
            let Ok(target) = std::fs::read_link(&at) else { return Ok(()) };
            if links > SYMBOLIC_LINKS_MAX {
                return Ok(());
            }
            at.pop();
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                ahead.push_front(name);
            }
        }
    }
    Ok(())
}

fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// Looks at one entry on the way to `path`; `None` where it cannot be looked at.
fn refuse_at(at: &Path, own: u32, path: &Path) -> Result<Option<Metadata>, String> {
    let Ok(metadata) = std::fs::symlink_metadata(at) else { return Ok(None) };
    match why_changeable(metadata.uid(), metadata.mode(), metadata.is_symlink(), own) {
        None => Ok(Some(metadata)),
        Some(Changeable { by, help }) => {
            let itself = std::path::absolute(path).is_ok_and(|path| path == at);
            let what = if itself {
                String::new()
            } else {
                format!("could be changed by another user: {} ", at.display())
            };
            Err(format!("{what}{by}; {help} {}", super::shell_word(at)))
        }
    }
}

struct Changeable {
    by: String,
    help: &'static str,
}

/// Of an entry with this owner and mode, for a process of the user `own`.
fn why_changeable(owner: u32, mode: u32, is_link: bool, own: u32) -> Option<Changeable> {
    if owner != 0 && owner != own {
        let by = format!(
            "belongs to another user (uid {owner}), neither to root nor to this process's user \
             (uid {own})"
        );
        // What it is was his to choose until now, and stays so after the command.
        let help = "look first at what is in it, or make a new one; then run: chown -h root";
        return Some(Changeable { by, help });
    }
    // A link has no mode: its directory counts.
    if is_link || mode & WRITABLE == 0 || mode & STICKY != 0 {
        return None;
    }
    let by = format!("can be written by every user (mode {:04o})", mode & 0o7777);
    Some(Changeable { by, help: "run: chmod o-w" })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// A file two directories down.
    fn file(directory: &Path) -> PathBuf {
        let folder = directory.join("above/folder");
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("file");
        fs::write(&file, "").unwrap();
        file
    }

    #[test]
    fn owner_and_mode_decide() {
        for (owner, bits, is_link, refused) in [
            (0, 0o644, false, false),
            (7, 0o600, false, false),
            (8, 0o600, false, true),
            (8, 0o777, true, true),
            (7, 0o777, true, false),
            (0, 0o775, false, false),
            (0, 0o757, false, true),
            (0, 0o1777, false, false),
            (8, 0o1755, false, true),
        ] {
            let found = why_changeable(owner, bits, is_link, 7).is_some();
            assert_eq!(found, refused, "{owner} {bits:o}");
        }
    }

    #[test]
    fn the_file_and_each_directory_above_count() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(directory.path());
        assert_eq!(refuse_changeable(&file), Ok(()));
        mode(&file, 0o666);
        let why = refuse_changeable(&file).unwrap_err();
        assert!(why.starts_with("can be written by every user (mode 0666); run: chmod o-w "));
        mode(&file, 0o644);
        let above = directory.path().join("above");
        mode(&above, 0o777);
        let why = refuse_changeable(&file).unwrap_err();
        let expected = format!("could be changed by another user: {} can be", above.display());
        assert!(why.starts_with(&expected), "{why}");
        // As /tmp: nobody else can rename what stands in it.
        mode(&above, 0o1777);
        assert_eq!(refuse_changeable(&file), Ok(()));
        assert_eq!(refuse_changeable(&directory.path().join("none/at/all")), Ok(()));
    }

    #[test]
    fn links_are_followed_step_by_step() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(directory.path());
        let open = directory.path().join("open");
        fs::create_dir(&open).unwrap();
        let (outer, inner) = (directory.path().join("outer"), open.join("inner"));
        symlink("../above/../above/folder/file", &inner).unwrap();
        symlink("open/inner", &outer).unwrap();
        assert_eq!(fs::canonicalize(&outer).unwrap(), fs::canonicalize(&file).unwrap());
        assert_eq!(refuse_changeable(&outer), Ok(()));
        // Neither the link nor the file stands there: only a link between them.
        mode(&open, 0o777);
        assert!(refuse_changeable(&outer).unwrap_err().contains("/open can be written"));
        let round = directory.path().join("round");
        symlink(&round, &round).unwrap();
        assert_eq!(refuse_changeable(&round), Ok(()));
    }

    /// Needs root: nobody else can give a file away.
    #[test]
    fn what_belongs_to_another_user_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(directory.path());
        if lchown(&file, Some(65_534), None).is_err() {
            return;
        }
        assert!(refuse_changeable(&file).unwrap_err().starts_with("belongs to another user"));
        lchown(&file, Some(0), None).unwrap();
        let link = directory.path().join("link");
        symlink(&file, &link).unwrap();
        lchown(&link, Some(65_534), None).unwrap();
        assert!(refuse_changeable(&link).is_err());
    }
}
