//! What cargo has built beside the test that runs, and other files that tests run.

use std::path::{Path, PathBuf};

/// `target/debug/deps`, where the test stands.
fn deps() -> PathBuf {
    let test = std::env::current_exe().expect("this test");
    test.parent().expect("a directory").to_owned()
}

/// `xksd`. Cargo builds it for the tests of its package; for others,
/// `cargo build --workspace` does.
pub fn xksd() -> PathBuf {
    let path = deps().with_file_name("xksd");
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// `hsm-sim` as a PKCS#11 module.
pub fn hsm_sim() -> PathBuf {
    let module = deps().join("libhsm_sim.so");
    assert!(module.is_file(), "{} is not there", module.display());
    module
}

/// What `scripts/modules p11-kit` has made: p11-kit, its server, and the client module that reaches
/// it.
pub fn p11_kit(name: &str) -> PathBuf {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/modules/p11-kit");
    let path = made.join(name);
    assert!(path.exists(), "{} is missing: run `scripts/modules p11-kit` first", path.display());
    path.canonicalize().expect("a path")
}

/// A script that runs its arguments where the kernel refuses io_uring.
pub fn without_io_uring() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/without_io_uring.py")
}

/// The first of these libraries that is there. Tests do not skip where none is.
pub fn library(candidates: &[&str]) -> PathBuf {
    let found = candidates.iter().map(Path::new).find(|path| path.exists());
    found
        .unwrap_or_else(|| panic!("none of {candidates:?} is installed: run scripts/test"))
        .to_owned()
}
