//! Which module may use which, and what from outside the crate.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{ModulePath, Tree};

const CRATES: &[&str] = &["src", "loadtest/src", "loadtest/hsm-sim/src"];

/// From each of the first to each of the second.
const FORBIDDEN: &[(&[&str], &[&str])] = &[
    // Pure modules.
    (
        &["http1", "api", "sigv4", "policy"],
        &[
            "admin",
            "audit",
            "cli",
            "config",
            "control",
            "file",
            "keystore",
            "pipeline",
            "sched",
            "shard",
            "telemetry",
            "tls",
        ],
    ),
    // The API spells what a key manager says of itself and its keys, and knows no more of it.
    (
        &["fleet"],
        &[
            "admin",
            "api",
            "audit",
            "cli",
            "config",
            "control",
            "file",
            "http1",
            "key_manager",
            "keystore",
            "pipeline",
            "sched",
            "shard",
            "sigv4",
            "telemetry",
            "tls",
        ],
    ),
    (&["http1", "sigv4", "policy"], &["key_manager"]),
    (&["http1", "sigv4"], &["policy"]),
    (AUDIT_VALUES, &["telemetry", "audit::store", "audit::trail"]),
    // What does the cryptography knows nobody who asks for it.
    (
        &["key_manager"],
        &[
            "admin",
            "api",
            "audit",
            "cli",
            "config",
            "control",
            "http1",
            "keystore",
            "pipeline",
            "policy",
            "sched",
            "shard",
            "sigv4",
            "telemetry",
            "tls",
        ],
    ),
    (
        &["sched"],
        &[
            "admin",
            "api",
            "audit",
            "cli",
            "config",
            "control",
            "http1",
            "keystore",
            "key_manager::pkcs11",
            "key_manager::local",
            "pipeline",
            "policy",
            "shard",
            "sigv4",
            "telemetry",
            "tls",
        ],
    ),
    (&["keystore"], &["admin", "api", "audit", "cli", "config", "control", "http1", "pipeline"]),
    (&["keystore", "pipeline"], &["shard", "tls"]),
    // The data path does not know who started it.
    (&["shard", "tls", "pipeline"], &["admin", "cli", "config", "control"]),
    (
        &["telemetry", "limits"],
        &[
            "admin",
            "api",
            "audit",
            "cli",
            "config",
            "control",
            "file",
            "http1",
            "key_manager",
            "keystore",
            "pipeline",
            "policy",
            "sched",
            "shard",
            "sigv4",
            "tls",
        ],
    ),
    (&["admin", "control"], &["cli"]),
    // It is handed what shows its state.
    (&["control"], &["admin"]),
    (&["config"], &["admin", "cli", "control", "pipeline", "sched", "shard", "telemetry"]),
];

/// What the audit trail is made of, apart from files.
const AUDIT_VALUES: &[&str] = &[
    "audit::tree",
    "audit::note",
    "audit::checkpoint",
    "audit::cosignature",
    "audit::consistency",
];

/// Only these make records of the audit trail.
const RECORDS: (&str, &[&str]) = ("audit::record", &["audit", "control", "pipeline"]);

/// They are told what time it is, and are given bytes.
const PURE: &[&str] = &[
    "http1",
    "api",
    "sigv4",
    "policy",
    "fleet",
    "sched::model",
    "shard::proxy_protocol",
    "network",
];
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::sync::Condvar",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::mpsc",
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "time::OffsetDateTime::now_utc",
    "crossbeam",
    "glommio",
    "libc",
    "rustix",
];

fn starts_with(path: &[String], start: &str) -> bool {
    let mut path = path.iter();
    start.split("::").all(|name| path.next().is_some_and(|other| other == name))
}

#[test]
fn no_arrow_points_backwards() {
    let tree = Tree::read("src");
    let known = |start: &&&str| tree.modules.keys().any(|module| starts_with(module, start));
    let named = FORBIDDEN.iter().flat_map(|(from, to)| from.iter().chain(*to)).chain(PURE);
    let unknown: Vec<&&str> = named.filter(|start| !known(start)).collect();
    assert!(unknown.is_empty(), "modules that do not exist: {unknown:?}");

    let mut wrong = BTreeSet::new();
    for (user, used) in tree.arrows() {
        let forbidden = FORBIDDEN.iter().any(|(from, to)| {
            from.iter().any(|start| starts_with(&user, start))
                && to.iter().any(|start| starts_with(&used, start))
        });
        let (record, writers) = RECORDS;
        let writes =
            starts_with(&used, record) && !writers.iter().any(|writer| starts_with(&user, writer));
        if forbidden || writes {
            wrong.insert(format!("{} uses {}", user.join("::"), used.join("::")));
        }
    }
    assert!(wrong.is_empty(), "arrows that must not be: {wrong:#?}");
}

#[test]
fn pure_modules_know_no_sockets_threads_clocks_or_files() {
    let tree = Tree::read("src");
    let mut wrong = BTreeSet::new();
    for module in tree.modules.keys() {
        if PURE.iter().chain(AUDIT_VALUES).any(|start| starts_with(module, start)) {
            let outside = tree.outside(module).into_iter();
            let impure = outside.filter(|path| {
                let path: ModulePath = path.split("::").map(str::to_owned).collect();
                IMPURE.iter().any(|start| starts_with(&path, start))
            });
            wrong.extend(impure.map(|path| format!("{} uses {path}", module.join("::"))));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Arrows between the modules that stand directly in each folder.
fn siblings(tree: &Tree) -> BTreeMap<ModulePath, BTreeSet<(String, String)>> {
    let mut folders: BTreeMap<ModulePath, BTreeSet<(String, String)>> = BTreeMap::new();
    for (user, used) in tree.arrows() {
        let common = user.iter().zip(&used).take_while(|(a, b)| a == b).count();
        if let (Some(from), Some(to)) = (user.get(common), used.get(common)) {
            let folder = user[..common].to_vec();
            folders.entry(folder).or_default().insert((from.clone(), to.clone()));
        }
    }
    folders
}

/// A way along the arrows from one back to itself.
fn circle(arrows: &BTreeSet<(String, String)>) -> Option<Vec<String>> {
    fn walk(
        at: &str,
        arrows: &BTreeSet<(String, String)>,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if let Some(begin) = way.iter().position(|name| name == at) {
            way.drain(..begin);
            way.push(at.to_owned());
            return true;
        }
        if done.contains(at) {
            return false;
        }
        way.push(at.to_owned());
        let mut next = arrows.iter().filter(|(from, _)| from == at);
        if next.any(|(_, to)| walk(to, arrows, way, done)) {
            return true;
        }
        way.pop();
        done.insert(at.to_owned());
        false
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    let found = arrows.iter().any(|(from, _)| walk(from, arrows, &mut way, &mut done));
    found.then_some(way)
}

#[test]
fn no_circles_in_a_folder() {
    let mut circles = Vec::new();
    for name in CRATES {
        for (folder, mut arrows) in siblings(&Tree::read(name)) {
            while let Some(way) = circle(&arrows) {
                let place = [&[(*name).to_owned()], &folder[..]].concat().join("/");
                circles.push(format!("{place}: {}", way.join(" → ")));
                arrows.remove(&(way[0].clone(), way[1].clone()));
            }
        }
    }
    assert!(circles.is_empty(), "circles: {circles:#?}");
}

/// Also of different folders.
#[test]
fn no_two_files_use_each_other() {
    let mut pairs = Vec::new();
    for name in CRATES {
        let arrows = Tree::read(name).arrows();
        for (user, used) in &arrows {
            let is_inside = user.starts_with(used) || used.starts_with(user);
            if user < used && !is_inside && arrows.contains(&(used.clone(), user.clone())) {
                pairs.push(format!("{name}: {} and {}", user.join("::"), used.join("::")));
            }
        }
    }
    assert!(pairs.is_empty(), "files that use each other: {pairs:#?}");
}
