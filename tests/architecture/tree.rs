//! The modules of a crate and what each uses, read from its source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// A path within the crate, without `crate::`; `["std", …]` stands in [`Module::outside`].
pub type ModulePath = Vec<String>;

/// One module.
#[derive(Debug, Default)]
pub struct Module {
    /// Where it stands, from the crate's `src` on.
    pub file: PathBuf,
    /// What its `use` lines bring in, by the name that it has here.
    imports: BTreeMap<String, ModulePath>,
    /// All paths in it, as they stand there.
    paths: Vec<ModulePath>,
}

/// All modules of a crate, but for those of its tests.
pub struct Tree {
    pub modules: BTreeMap<ModulePath, Module>,
    tests: BTreeSet<ModulePath>,
}

impl Tree {
    /// Of the crate whose source is `src`, from the repository's root on.
    pub fn read(src: &str) -> Tree {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(src);
        let mut tree = Tree { modules: BTreeMap::new(), tests: BTreeSet::new() };
        for file in super::rust_files(&root) {
            let inner = file.strip_prefix(&root).expect("below").to_path_buf();
            let text = std::fs::read_to_string(&file).expect("text");
            let syntax = syn::parse_file(&text).unwrap_or_else(|e| panic!("{inner:?}: {e}"));
            let mut reader = Reader { tree: &mut tree, file: inner.clone(), at: path_of(&inner) };
            reader.module();
            reader.visit_file(&syntax);
        }
        let tests = std::mem::take(&mut tree.tests);
        tree.modules.retain(|path, _| !tests.iter().any(|test| path.starts_with(test)));
        assert!(tree.modules.len() > 1, "{src} has no sources: did the folder move?");
        tree
    }

    /// What each module uses of others of the crate: (user, used), the modules that define it.
    pub fn arrows(&self) -> BTreeSet<(ModulePath, ModulePath)> {
        let mut arrows = BTreeSet::new();
        for (user, module) in &self.modules {
            for path in &module.paths {
                if let Some(used) = self.inner(user, path).map(|path| self.defines(path, 0))
                    && used != *user
                {
                    arrows.insert((user.clone(), used));
                }
            }
        }
        arrows
    }

    /// What a module uses from outside the crate, as `std::fs::File`.
    pub fn outside(&self, user: &ModulePath) -> Vec<String> {
        let paths = self.modules[user].paths.iter();
        let outside = paths.filter(|path| self.inner(user, path).is_none());
        outside.map(|path| self.full(user, path).join("::")).collect()
    }

    /// `path` with what an import of this module stands for in place of its first name.
    fn full(&self, user: &ModulePath, path: &[String]) -> ModulePath {
        match self.modules[user].imports.get(&path[0]) {
            Some(import) if import[0] != path[0] || import.len() > 1 => {
                [import, &path[1..]].concat()
            }
            _ => path.to_vec(),
        }
    }

    /// From the crate's root on; `None` where it leads outside.
    fn inner(&self, user: &ModulePath, path: &[String]) -> Option<ModulePath> {
        let mut at = user.clone();
        let mut rest = path;
        match path[0].as_str() {
            "crate" => {
                at.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while let Some(("super", more)) = rest.split_first().map(|(a, b)| (a.as_str(), b)) {
                    at.pop();
                    rest = more;
                }
            }
            name => {
                let child = [&at[..], &[name.to_owned()]].concat();
                if self.modules.contains_key(&child) {
                    return Some([&at[..], path].concat());
                }
                let import = self.modules.get(user)?.imports.get(name)?;
                // `use name::…` of a crate outside.
                if import[0] == name {
                    return None;
                }
                let import = self.inner(user, import)?;
                return Some([&import[..], &path[1..]].concat());
            }
        }
        Some([&at[..], rest].concat())
    }

    /// The module that defines what `path` leads to, also where another one only passes it on.
    fn defines(&self, path: ModulePath, depth: usize) -> ModulePath {
        let known = (0..=path.len()).rev().find(|n| self.modules.contains_key(&path[..*n]));
        let module = path[..known.expect("the root is there")].to_vec();
        let imports = &self.modules[&module].imports;
        let Some(import) = path.get(module.len()).and_then(|name| imports.get(name)) else {
            return module;
        };
        match self.inner(&module, import) {
            Some(further) if depth < 10 => {
                let rest = &path[module.len() + 1..];
                self.defines([&further[..], rest].concat(), depth + 1)
            }
            _ => module,
        }
    }
}

/// `a/b.rs` and `a/b/mod.rs` are `a::b`; `lib.rs` and `main.rs` the root.
fn path_of(file: &Path) -> ModulePath {
    let mut path: ModulePath = file
        .with_extension("")
        .iter()
        .map(|part| part.to_str().expect("UTF-8").to_owned())
        .collect();
    if matches!(path.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        path.pop();
    }
    path
}

struct Reader<'t> {
    tree: &'t mut Tree,
    file: PathBuf,
    at: ModulePath,
}

impl Reader<'_> {
    fn module(&mut self) -> &mut Module {
        let file = self.file.clone();
        let module = self.tree.modules.entry(self.at.clone()).or_default();
        module.file = file;
        module
    }

    fn path(&mut self, path: ModulePath) {
        if !path.is_empty() {
            self.module().paths.push(path);
        }
    }

    fn import(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        let (path, name) = match tree {
            syn::UseTree::Path(path) => return self.import(&with(&path.ident), &path.tree),
            syn::UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.import(before, tree));
            }
            syn::UseTree::Glob(_) => return self.path(before.to_vec()),
            syn::UseTree::Name(name) if name.ident == "self" => {
                (before.to_vec(), before.last().expect("a name").clone())
            }
            syn::UseTree::Name(name) => (with(&name.ident), name.ident.to_string()),
            syn::UseTree::Rename(name) => (with(&name.ident), name.rename.to_string()),
        };
        self.module().imports.insert(name, path.clone());
        self.path(path);
    }

    /// Paths in what a macro is given.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = ModulePath::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.path(std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    self.path(std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.path(path);
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return attribute.path().is_ident("test");
        };
        let words = list.tokens.to_string();
        list.path.is_ident("cfg") && (words == "test" || words.starts_with("all (test"))
    })
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.at.push(module.ident.to_string());
        if is_test(&module.attrs) {
            self.tree.tests.insert(self.at.clone());
        } else if module.content.is_some() {
            self.module();
            visit::visit_item_mod(self, module);
        }
        self.at.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test(&item.attrs) {
            self.import(&[], &item.tree);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if !is_test(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.path(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.visit_path(&item.path);
        self.tokens(item.tokens.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ModulePath {
        text.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// As if these were the files of a crate.
    fn tree(files: &[(&str, &str)]) -> Tree {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            std::fs::write(file, text).expect("written");
        }
        Tree::read(folder.path().to_str().expect("UTF-8"))
    }

    #[test]
    fn each_way_to_name_a_module_is_seen() {
        let ways = [
            "use crate::b::c::X;",
            "use crate::{a, b::{c::{self, Y}}};",
            "use super::b::c;",
            "fn f() { crate::b::c::x() }",
            "fn f(x: super::b::c::X) {}",
            "fn f() { println!(\"{}\", [crate::b::c::X]) }",
            "use crate::b; fn f() { b::c::x() }",
            "use super::b as other; type T = Vec<other::c::X>;",
            "mod inner { use super::super::b::c::X; }",
            // What another module passes on is its maker's.
            "use crate::X;",
            "use crate::b::X;",
        ];
        for way in ways {
            let tree = tree(&[
                ("lib.rs", "mod a; mod b; pub use b::X;"),
                ("a.rs", way),
                ("b/mod.rs", "mod c; pub use c::X;"),
                ("b/c.rs", "pub struct X;"),
            ]);
            let used = |(user, used): &(ModulePath, ModulePath)| {
                user.starts_with(&path("a")) && *used == path("b::c")
            };
            assert!(tree.arrows().iter().any(used), "{way}: {:?}", tree.arrows());
        }
    }

    #[test]
    fn tests_and_words_are_no_arrows() {
        for way in [
            "// crate::b::x",
            "const X: &str = \"crate::b\";",
            "#[cfg(test)] mod tests { use crate::b::X; }",
            "#[cfg(test)] use crate::b::X;",
        ] {
            let tree = tree(&[("lib.rs", "mod a; mod b;"), ("a.rs", way), ("b.rs", "")]);
            assert!(!tree.arrows().contains(&(path("a"), path("b"))), "{way}");
        }
    }

    #[test]
    fn what_is_from_outside_has_its_whole_name() {
        let text = "use std::{fs::{self, File}, time::Instant}; fn f() { fs::read(1); File::x(); \
                    Instant::now() }";
        let tree = tree(&[("lib.rs", "mod a;"), ("a.rs", text)]);
        let outside = tree.outside(&path("a"));
        for name in ["std::fs::read", "std::fs::File::x", "std::time::Instant::now"] {
            assert!(outside.contains(&name.to_owned()), "{name}: {outside:?}");
        }
    }
}
