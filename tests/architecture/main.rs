//! What the house forbids: arrows between modules that must never exist, circles, places of
//! `unsafe`, and what is too long to be read. See `docs/architecture.md`.

mod arrows;
mod size;
mod tree;
mod unsafety;

use std::path::{Path, PathBuf};

/// Rust files below a folder.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            // `target` of a program that stands outside the workspace.
            if !path.ends_with("target") {
                let entries = std::fs::read_dir(&path).expect("a folder");
                todo.extend(entries.map(|entry| entry.expect("an entry").path()));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}
