//! Which source file of a crate uses which, read from the text: enough of Rust's syntax to follow
//! `crate::`, `super::`, `self::` and declared child modules, in `use` and in place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Fails with every circle among the files of a crate.
pub fn assert_no_circles(crate_root: &str) {
    let circles = Graph::read(&Path::new(crate_root).join("src")).circles();
    assert!(circles.is_empty(), "files that use each other in a circle:\n{}", circles.join("\n"));
}

/// Fails where a folder, or file, at the top uses one that does not stand before it.
#[allow(dead_code)] // not every crate has an order
pub fn assert_in_order(crate_root: &str, order: &[&str]) {
    let place = |module: &Module| {
        let top = module.first()?;
        let found = order.iter().position(|name| name == top);
        Some(found.unwrap_or_else(|| panic!("{top} has no place in the order")))
    };
    let graph = Graph::read(&Path::new(crate_root).join("src"));
    for (module, used) in &graph.0 {
        let later = used.iter().find(|used| place(used) > place(module));
        assert!(later.is_none(), "{module:?} uses {later:?}, which comes after it");
    }
}

/// A module's path below the crate's root: `["report", "step"]`; empty for the root itself.
type Module = Vec<String>;

/// The files of a crate, each as a module, with the modules that it uses. Code of tests is left
/// out: a test may look at everything.
pub struct Graph(BTreeMap<Module, BTreeSet<Module>>);

impl Graph {
    /// Reads all sources below `src`, the crate's root being `lib.rs`.
    pub fn read(src: &Path) -> Graph {
        let mut files = BTreeMap::new();
        collect(src, src, &mut files);
        assert!(files.contains_key(&Module::new()), "{} has no lib.rs", src.display());
        Graph::of(&files)
    }

    fn of(files: &BTreeMap<Module, Vec<String>>) -> Graph {
        let used = |module: &Module, tokens: &[String]| {
            let paths = paths(module, tokens);
            let resolved = paths.iter().map(|path| {
                (0..=path.len()).rev().map(|n| &path[..n]).find(|&m| files.contains_key(m)).unwrap()
            });
            resolved.filter(|found| found != module).map(<[String]>::to_vec).collect()
        };
        Graph(files.iter().map(|(m, tokens)| (m.clone(), used(m, tokens))).collect())
    }

    /// Files that reach themselves through others, each with the way: `a → b → a`.
    pub fn circles(&self) -> Vec<String> {
        let way_back = |from: &Module| {
            let (mut ways, mut seen) = (vec![vec![from]], BTreeSet::new());
            while let Some(way) = ways.pop() {
                for next in &self.0[*way.last()?] {
                    if next == from {
                        let names = way.iter().chain([&from]).map(|m| m.join("::"));
                        return Some(names.collect::<Vec<_>>().join(" → "));
                    }
                    if seen.insert(next) {
                        ways.push(way.iter().copied().chain([next]).collect());
                    }
                }
            }
            None
        };
        self.0.keys().filter_map(way_back).collect()
    }
}

fn collect(root: &Path, dir: &Path, files: &mut BTreeMap<Module, Vec<String>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        // Programs are not part of the library, and nothing can use them.
        if name == "tests" || name == "bin" {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, files);
        } else if name.ends_with(".rs") && !["main.rs", "tests.rs"].contains(&name) {
            let inside = path.with_extension("");
            let parts =
                inside.strip_prefix(root).unwrap().iter().map(|part| part.to_str().unwrap());
            let module = parts.filter(|part| !["lib", "mod"].contains(part)).map(str::to_owned);
            files.insert(module.collect(), tokens(&std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Words, `::` and single signs, without comments, texts and modules that are built for tests only.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let end_of = |from: usize, inside: &dyn Fn(char) -> bool| {
        (from..chars.len()).find(|&at| !inside(chars[at])).unwrap_or(chars.len())
    };
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied().unwrap_or('\n');
        at = match c {
            '/' if next == '/' => end_of(at, &|c| c != '\n'),
            'r' if next == '"' || (next == '#' && chars.get(at + 2) != Some(&'!')) => {
                let hashes = end_of(at + 1, &|c| c == '#') - at - 1;
                let close: Vec<char> = ['"'].into_iter().chain(vec!['#'; hashes]).collect();
                let from = at + 2 + hashes;
                let text = chars[from..].windows(close.len()).position(|w| w == close);
                from + text.unwrap() + close.len()
            }
            '"' => {
                let mut end = at + 1;
                while chars[end] != '"' {
                    end += 1 + usize::from(chars[end] == '\\');
                }
                end + 1
            }
            // A character, not a lifetime.
            '\'' if next == '\\' => {
                at + 3 + chars[at + 3..].iter().position(|c| *c == '\'').unwrap() + 1
            }
            '\'' if chars.get(at + 2) == Some(&'\'') => at + 3,
            ':' if next == ':' => {
                tokens.push("::".to_owned());
                at + 2
            }
            c if is_word(c) => {
                let end = end_of(at, &is_word);
                tokens.push(chars[at..end].iter().collect());
                end
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(c.to_string());
                }
                at + 1
            }
        };
    }
    without_tests(tokens)
}

/// Takes away each item behind `#[cfg(test)]`.
fn without_tests(tokens: Vec<String>) -> Vec<String> {
    const TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if !tokens[at..].iter().map(String::as_str).take(TEST.len()).eq(TEST) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0;
        loop {
            match tokens[at].as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 && [";", "}"].contains(&tokens[at - 1].as_str()) {
                break;
            }
        }
    }
    kept
}

/// All paths that a module names, from the crate's root.
fn paths(module: &Module, tokens: &[String]) -> Vec<Module> {
    let word = |at: usize| tokens.get(at).map_or("", String::as_str);
    let children: Vec<&str> = (0..tokens.len())
        .filter(|&at| word(at) == "mod" && word(at + 2) == ";")
        .map(|at| word(at + 1))
        .collect();
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        if word(at + 1) != "::" || (at > 0 && word(at - 1) == "::") {
            continue;
        }
        let from = match word(at) {
            "crate" => (at + 2, Module::new()),
            "self" => (at + 2, module.clone()),
            "super" => (at, module.clone()),
            child if children.contains(&child) => (at, module.clone()),
            _ => continue,
        };
        tree(tokens, from.0, from.1, &mut found);
    }
    found
}

/// Follows a path from where `path` has led, with groups: `a::{b, c::d}`. Gives where it ends.
fn tree(tokens: &[String], mut at: usize, mut path: Module, found: &mut Vec<Module>) -> usize {
    loop {
        match tokens.get(at).map_or("", String::as_str) {
            "super" => drop(path.pop()),
            "self" => {}
            "{" => return group(tokens, at + 1, &path, found),
            name => path.push(name.to_owned()),
        }
        if tokens.get(at + 1).map(String::as_str) != Some("::") {
            found.push(path);
            return at + 1;
        }
        at += 2;
    }
}

fn group(tokens: &[String], mut at: usize, path: &Module, found: &mut Vec<Module>) -> usize {
    loop {
        match tokens.get(at).map_or("}", String::as_str) {
            "}" => return at + 1,
            "," => at += 1,
            // `name as other`
            "as" => at += 2,
            _ => at = tree(tokens, at, path.clone(), found),
        }
    }
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let text = r##"
        //! crate::comment
        mod child;
        use crate::{one, two::{Three, four::five as six}, self as all};
        use super::sibling::Thing;
        use std::collections::BTreeMap; // crate::late
        fn f() -> super::super::Up<'static> {
            let c = ('"', '\'', r#"crate::raw "quoted""#, "crate::text \" more");
            child::call(format!("{}", crate::within(c)))
        }
        #[cfg(test)]
        mod tests { use crate::tested; fn g() { crate::tested_too() } }
        #[cfg(test)]
        mod more;
        use self::child::Last;
    "##;
    let module: Module = ["a", "b"].map(str::to_owned).to_vec();
    let found: Vec<String> = paths(&module, &tokens(text)).iter().map(|p| p.join("::")).collect();
    let expected = "one two::Three two::four::five  a::sibling::Thing Up a::b::child::call within a::b::child::Last";
    assert_eq!(found, expected.split(' ').collect::<Vec<_>>());
}

#[test]
fn circles_are_found_over_any_number_of_files() {
    let files = |edges: &[(&str, &str)]| {
        let of = |name: &str| if name.is_empty() { Vec::new() } else { vec![name.to_owned()] };
        let files = edges.iter().map(|(m, text)| (of(m), tokens(text))).collect();
        Graph::of(&files).circles()
    };
    assert_eq!(files(&[("", "pub mod a;"), ("a", "use crate::b;"), ("b", "")]), [""; 0]);
    assert_eq!(
        files(&[("", ""), ("a", "crate::b::X"), ("b", "crate::c::f()"), ("c", "super::a")]),
        ["a → b → c → a", "b → c → a → b", "c → a → b → c"]
    );
    assert_eq!(files(&[("", "crate::a::f()"), ("a", "crate::helper()")]), [" → a → ", "a →  → a"]);
}
