//! Where `unsafe` may stand.

use proc_macro2::{TokenStream, TokenTree};
use std::path::Path;

use super::rust_files;

const FOLDERS: &[&str] = &["src", "crates"];
/// Files and folders from the root on.
const ALLOWED: &[&str] = &[
    "crates/secret-memory/src",
    "crates/syscall/src",
    "crates/test-harness/src",
    "src/config/environment.rs",
    "src/control/signals.rs",
    "src/key_manager/pkcs11/ffi.rs",
    "src/key_manager/pkcs11/ffi",
    "src/shard/listener.rs",
    "src/shard/round_trip.rs",
];

fn has_unsafe(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == "unsafe",
        TokenTree::Group(group) => has_unsafe(group.stream()),
        _ => false,
    })
}

#[test]
fn unsafe_stands_in_few_places() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in FOLDERS.iter().flat_map(|folder| rust_files(&root.join(folder))) {
        let name = file.strip_prefix(root).expect("below");
        let is_test = name.iter().any(|part| part == "tests" || part == "tests.rs");
        let text = std::fs::read_to_string(&file).expect("text");
        let tokens: TokenStream = text.parse().expect("Rust");
        let is_allowed = ALLOWED.iter().any(|allowed| name.starts_with(allowed));
        assert!(is_allowed || is_test || !has_unsafe(tokens), "{} has unsafe", name.display());
    }
}
