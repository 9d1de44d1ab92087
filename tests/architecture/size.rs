//! What is too long to be read.

use std::path::Path;

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::rust_files;

/// Lines of a function, its head included.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of a file. Fewer are better.
const FILE_LINES_MAX: usize = 600;
/// The same of tests.
const TEST_FILE_LINES_MAX: usize = 900;
/// Characters of a line.
const LINE_CHARS_MAX: usize = 100;

const FOLDERS: &[&str] = &["src", "loadtest", "crates", "tests", "benches", "fuzz/fuzz_targets"];

/// Each Rust file of ours with its text.
fn files() -> impl Iterator<Item = (String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = FOLDERS.iter().flat_map(move |folder| rust_files(&root.join(folder)));
    files.map(move |file| {
        let name = file.strip_prefix(root).expect("below").display().to_string();
        (name, std::fs::read_to_string(&file).expect("text"))
    })
}

/// A table of cases is as long as it has cases, and a case as what it is about.
fn is_test(file: &str) -> bool {
    file.split('/').any(|part| matches!(part, "tests" | "tests.rs"))
}

struct Functions {
    file: String,
    long: Vec<String>,
}

impl Functions {
    fn measure(&mut self, name: &syn::Ident, whole: Span) {
        let lines = whole.end().line + 1 - name.span().start().line;
        if lines > FUNCTION_LINES_MAX {
            let at = name.span().start().line;
            self.long.push(format!("{}:{at}: {name} has {lines} lines", self.file));
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig.ident, item.block.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig.ident, item.block.span());
        visit::visit_impl_item_fn(self, item);
    }
}

#[test]
fn functions_fit_a_screen() {
    let mut functions = Functions { file: String::new(), long: Vec::new() };
    for (file, text) in files().filter(|(file, _)| !is_test(file)) {
        let syntax = syn::parse_file(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
        functions.file = file;
        functions.visit_file(&syntax);
    }
    let long = functions.long;
    assert!(long.is_empty(), "above {FUNCTION_LINES_MAX} lines:\n{}", long.join("\n"));
}

#[test]
fn files_are_short() {
    let lines = |(file, text): (String, String)| (file, text.lines().count());
    let long: Vec<String> = files()
        .map(lines)
        .filter(|(file, lines)| {
            *lines > if is_test(file) { TEST_FILE_LINES_MAX } else { FILE_LINES_MAX }
        })
        .map(|(file, lines)| format!("{file}: {lines}"))
        .collect();
    assert!(long.is_empty(), "above {FILE_LINES_MAX} lines:\n{}", long.join("\n"));
}

#[test]
fn lines_fit_a_screen() {
    let mut long = Vec::new();
    for (file, text) in files() {
        for (line, number) in text.lines().zip(1..) {
            let chars = line.chars().count();
            // A raw string has no place at which it can be broken.
            if chars > LINE_CHARS_MAX && !is_test(&file) && !line.contains("r#\"") {
                long.push(format!("{file}:{number}: {chars}"));
            }
        }
    }
    assert!(long.is_empty(), "above {LINE_CHARS_MAX} characters:\n{}", long.join("\n"));
}
