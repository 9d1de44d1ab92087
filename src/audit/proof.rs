//! What others need to verify a record without the whole trail: C2SP tlog-proof for one record,
//! C2SP tlog-tiles for all of them.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::checkpoint::Checkpoint;
use super::layout::Layout;
use super::reader::read_all;
use super::tree::{HASH_BYTES, Hash, Leaves, inclusion_proof, is_included, root};

/// Hashes in a full tile, and entries in a full bundle: "Full tiles MUST be exactly 256 hashes
/// wide", tlog-tiles.
const TILE: u64 = 256;

/// The leaf hashes as they are kept.
pub struct HashFile(File);

impl HashFile {
    /// Of this trail.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(layout: &Layout) -> io::Result<HashFile> {
        File::open(layout.hashes()).map(HashFile)
    }

    pub(super) fn of(file: File) -> HashFile {
        HashFile(file)
    }
}

impl Leaves for HashFile {
    type Error = io::Error;

    fn leaf(&mut self, index: u64) -> io::Result<Hash> {
        let mut hash = [0; HASH_BYTES];
        self.0.read_exact_at(&mut hash, index * HASH_BYTES as u64)?;
        Ok(hash)
    }
}

/// The proof that a record is in the tree of this checkpoint, in the form of C2SP tlog-proof.
///
/// # Errors
/// When the hashes cannot be read, or do not lead to the checkpoint's root.
pub fn prove(
    layout: &Layout,
    leaf: Hash,
    index: u64,
    checkpoint: &Checkpoint,
    note: &str,
) -> io::Result<String> {
    let proof = inclusion_proof(&mut HashFile::open(layout)?, index, checkpoint.size)?
        .filter(|proof| is_included(leaf, index, checkpoint.size, proof, &checkpoint.root));
    let Some(proof) = proof else {
        return Err(io::Error::other(format!(
            "record {index} cannot be proved: the kept hashes do not lead to the signed root; \
             look at the trail with `xksd audit verify`"
        )));
    };
    let hashes: String = proof.iter().map(|hash| STANDARD.encode(hash) + "\n").collect();
    Ok(format!("c2sp.org/tlog-proof@v1\nindex {index}\n{hashes}\n{note}"))
}

/// Writes the tree of this checkpoint as files that a web server can serve: C2SP tlog-tiles.
///
/// # Errors
/// When files cannot be read or written, or records are missing.
pub fn export_tiles(
    layout: &Layout,
    checkpoint: &Checkpoint,
    note: &str,
    to: &Path,
) -> io::Result<()> {
    let mut leaves = HashFile::open(layout)?;
    if root(&mut leaves, 0..checkpoint.size)? != checkpoint.root {
        return Err(io::Error::other(
            "the kept hashes do not lead to the signed root; look at the trail with `xksd audit \
             verify`",
        ));
    }
    let mut level = 0;
    let mut span = 1;
    // "the n-th tile at level l is MTH(D[(n * 256 + i) * 256**l : (n * 256 + i + 1) * 256**l])".
    while checkpoint.size / span > 0 {
        let hashes = checkpoint.size / span;
        for tile in 0..hashes.div_ceil(TILE) {
            let width = TILE.min(hashes - tile * TILE);
            let mut content = Vec::with_capacity((width as usize) * HASH_BYTES);
            for at in tile * TILE..tile * TILE + width {
                content.extend_from_slice(&root(&mut leaves, at * span..(at + 1) * span)?);
            }
            write(&to.join(tile_path(&level.to_string(), tile, width)), &content)?;
        }
        level += 1;
        span *= TILE;
    }
    export_entries(layout, checkpoint.size, to)?;
    // Last: who finds it finds what it is about.
    write(&to.join("checkpoint"), note.as_bytes())
}

/// "Entry bundles are sequences of big-endian uint16 length-prefixed log entries."
fn export_entries(layout: &Layout, size: u64, to: &Path) -> io::Result<()> {
    let mut bundle = Vec::new();
    let mut failed = None;
    let read = read_all(layout, |index, line| {
        if index >= size {
            return ControlFlow::Break(());
        }
        let last = index + 1 == size;
        let written = u16::try_from(line.len())
            .map_err(|_| io::Error::other(format!("record {index} is too long for a tile")))
            .and_then(|length| {
                bundle.extend_from_slice(&length.to_be_bytes());
                bundle.extend_from_slice(line);
                let tile = index / TILE;
                let width = index % TILE + 1;
                if width == TILE || last {
                    write(&to.join(tile_path("entries", tile, width)), &bundle)?;
                    bundle.clear();
                }
                Ok(())
            });
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    let range = read.map_err(|broken| io::Error::other(broken.to_string()))?;
    match failed {
        Some(error) => Err(error),
        None if range.start > 0 => Err(io::Error::other(format!(
            "the records before {} were deleted: entries cannot be exported without them",
            range.start
        ))),
        None => Ok(()),
    }
}

/// `tile/<level>/<N>[.p/<W>]`: "zero-padded 3-digit path elements. All but the last path element
/// MUST begin with an x."
fn tile_path(level: &str, tile: u64, width: u64) -> PathBuf {
    let digits = tile.to_string();
    let padded = format!("{digits:0>width$}", width = digits.len().div_ceil(3) * 3);
    let parts: Vec<&str> =
        (0..padded.len()).step_by(3).filter_map(|at| padded.get(at..at + 3)).collect();
    let mut path = PathBuf::from("tile").join(level);
    for (at, part) in parts.iter().enumerate() {
        let last = at + 1 == parts.len();
        path.push(if last { (*part).to_owned() } else { format!("x{part}") });
    }
    if width < TILE {
        path.as_mut_os_string().push(".p");
        path.push(width.to_string());
    }
    path
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_named_as_the_specification_says() {
        let path = |tile, width| tile_path("0", tile, width).display().to_string();
        assert_eq!(path(1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(path(0, 256), "tile/0/000");
        assert_eq!(path(273, 112), "tile/0/273.p/112");
        assert_eq!(
            tile_path("entries", 1000, 1).display().to_string(),
            "tile/entries/x001/000.p/1"
        );
    }
}
