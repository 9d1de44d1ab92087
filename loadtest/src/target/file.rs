//! Files that are read whole.

use std::path::Path;

use crate::limits::FILE_BYTES_MAX;

/// A text file of bounded size.
///
/// # Errors
/// A sentence with the file's name.
pub fn read_text(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        Err(format!("{}: larger than {FILE_BYTES_MAX} bytes", path.display()))
    } else {
        Ok(text)
    }
}
