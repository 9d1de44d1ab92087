//! Any bytes in the files of a trail: it is opened or refused, without a panic, and what it says of
//! its size is true.
//!
//! Input: content of the record file, of the checkpoints, of the newest checkpoint, of the leaf
//! hashes, each after the other with two empty lines between.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use xksd::audit::checkpoint::Signer;
use xksd::audit::layout::Layout;
use xksd::audit::recovery;

/// In memory where that can be had: every run syncs its files.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    parent.join(format!("xksd-fuzz-{}", std::process::id()))
});

fuzz_target!(|input: &[u8]| {
    let _ = fs::remove_dir_all(&*DIRECTORY);
    fs::create_dir_all(DIRECTORY.join("records")).expect("a directory");
    let mut rest = input;
    for name in ["records/0000000000.jsonl", "checkpoints.log", "checkpoint", "hashes"] {
        let at = rest.windows(3).position(|three| three == b"\n\n\n").unwrap_or(rest.len());
        let (content, after) = rest.split_at(at);
        rest = after.get(3..).unwrap_or_default();
        if !content.is_empty() {
            fs::write(DIRECTORY.join(name), content).expect("written");
        }
    }
    let signer = Signer::new(&[7; 32], "a.example/b").expect("a seed and an origin");
    if let Ok((store, recovered)) = recovery::open(Layout::new(&DIRECTORY), signer, &[]) {
        let records = fs::read(DIRECTORY.join("records/0000000000.jsonl")).unwrap_or_default();
        let lines = records.iter().filter(|byte| **byte == b'\n').count() as u64;
        assert_eq!(store.size(), lines);
        // Nobody can have signed a checkpoint of these records.
        assert_eq!(recovered.not_yet_signed, lines);
    }
    let _ = fs::remove_dir_all(&*DIRECTORY);
});
