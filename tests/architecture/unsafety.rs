//! Where `unsafe` may stand.

use proc_macro2::{TokenStream, TokenTree};
use std::path::Path;

use super::rust_files;

/// Files and folders below `src`.
const ALLOWED: &[&str] = &[
    "config/environment.rs",
    "control/signals.rs",
    "key_manager/pkcs11/ffi.rs",
    "key_manager/pkcs11/ffi",
    "shard/listener.rs",
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
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&src) {
        let name = file.strip_prefix(&src).expect("below");
        let is_test = name.iter().any(|part| part == "tests" || part == "tests.rs");
        let text = std::fs::read_to_string(&file).expect("text");
        let tokens: TokenStream = text.parse().expect("Rust");
        let is_allowed = ALLOWED.iter().any(|allowed| name.starts_with(allowed));
        assert!(is_allowed || is_test || !has_unsafe(tokens), "{} has unsafe", name.display());
    }
}
