//! The Terraform module: what it names is declared, and what is declared is used.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// All files of the module, without comments.
fn module() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/terraform/privatelink");
    let mut text = String::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "tf") {
            let content = fs::read_to_string(path).expect("text");
            let code = content.lines().filter(|line| !line.trim_start().starts_with('#'));
            text.extend(code.map(|line| format!("{line}\n")));
        }
    }
    text
}

/// The names after `start`, up to what cannot be in one.
fn names<'t>(text: &'t str, start: &str) -> BTreeSet<&'t str> {
    let after = text.split(start).skip(1);
    let end = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    after.filter_map(|rest| rest.split(end).next()).filter(|name| !name.is_empty()).collect()
}

#[test]
fn variables_are_declared_and_used() {
    let text = module();
    let declared = names(&text, "variable \"");
    assert!(declared.len() > 8, "{declared:?}");
    // A variable's own checks name it, too.
    let checks = text.lines().filter(|line| !line.trim_start().starts_with("condition"));
    let uses = checks.collect::<Vec<_>>().join("\n");
    assert_eq!(names(&uses, "var."), declared);
}

#[test]
fn resources_that_are_named_are_declared() {
    let text = module();
    let declared: BTreeSet<(String, String)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("resource ")?.split('"');
            Some((words.nth(1)?.to_owned(), words.nth(1)?.to_owned()))
        })
        .collect();
    let mut seen = 0;
    for kind in declared.iter().map(|(kind, _)| kind).collect::<BTreeSet<_>>() {
        for name in names(&text, &format!("{kind}.")) {
            assert!(declared.contains(&(kind.clone(), name.to_owned())), "{kind}.{name}");
            seen += 1;
        }
    }
    assert!(seen >= 5, "{seen}");
}
