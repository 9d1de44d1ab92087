//! Arrows between modules that must never exist, and where `unsafe` may stand. See
//! `docs/architecture.md`.

use std::path::Path;

/// Rust files below `src/{dir}`, as (path relative to `src`, text without comments).
fn sources(dir: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut todo = vec![root.join(dir)];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let code: String = text
                .lines()
                .map(|line| line.split("//").next().unwrap_or_default())
                .collect::<Vec<_>>()
                .join("\n");
            found.push((path.strip_prefix(&root).unwrap().display().to_string(), code));
        }
    }
    assert!(!found.is_empty(), "{dir} has no sources: did the folder move?");
    found
}

/// Modules of this crate that a text names: `crate::name` and `crate::{name, …}`.
fn modules_used(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    let name = |text: &str| {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    for rest in code.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            used.push(name(rest));
            continue;
        };
        let (mut depth, mut at_name) = (0, true);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => at_name = true,
                c if at_name && !c.is_whitespace() => {
                    used.push(name(&group[at..]));
                    at_name = false;
                }
                _ => {}
            }
        }
    }
    used
}

fn is_test(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    parts.any(|part| {
        matches!(
            part.as_os_str().to_str(),
            Some("tests" | "tests.rs" | "simulation" | "simulation.rs")
        )
    })
}

fn forbid(dir: &str, modules: &[&str]) {
    for (path, code) in sources(dir) {
        for used in modules_used(&code) {
            assert!(!modules.contains(&used.as_str()), "{path} uses crate::{used}");
        }
    }
}

#[test]
fn no_arrow_points_backwards() {
    let above = ["shard", "tls", "control", "cli", "pipeline", "keystore", "telemetry"];
    for pure in ["http1", "api", "sigv4", "policy"] {
        forbid(pure, &above);
        forbid(pure, &["sched"]);
    }
    // The API spells what a key manager says of itself and its keys, and knows no more of it.
    forbid("http1", &["key_manager"]);
    forbid("sigv4", &["key_manager"]);
    forbid("policy", &["key_manager"]);
    forbid("key_manager", &above);
    forbid("key_manager", &["http1", "api", "sigv4", "sched"]);
    forbid("sched", &above);
    forbid("sched", &["http1", "api", "sigv4"]);
    for data_plane in ["shard", "tls", "pipeline", "keystore"] {
        forbid(data_plane, &["control", "cli"]);
    }
    forbid(
        "telemetry",
        &[
            "shard",
            "tls",
            "control",
            "cli",
            "pipeline",
            "keystore",
            "http1",
            "api",
            "sigv4",
            "key_manager",
            "sched",
        ],
    );
    forbid("limits.rs", &above);
    forbid("limits.rs", &["http1", "api", "sigv4", "key_manager", "sched"]);
    forbid("control", &["cli"]);
}

#[test]
fn pure_rooms_know_no_sockets_threads_or_clocks() {
    let impure = [
        "std::net",
        "std::thread",
        "std::fs",
        "std::env",
        "SystemTime::now",
        "Instant::now",
        "glommio",
        "sync::Mutex",
        "rustix",
    ];
    for dir in ["http1", "api", "sigv4", "policy", "sched/model"] {
        for (path, code) in sources(dir) {
            for what in impure {
                assert!(is_test(&path) || !code.contains(what), "{path} uses {what}");
            }
        }
    }
}

#[test]
fn unsafe_stands_in_few_places_only() {
    for (path, code) in sources("") {
        let has_unsafe =
            code.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe");
        assert!(
            !has_unsafe
                || [
                    "config/environment.rs",
                    "control/signals.rs",
                    "key_manager/pkcs11/ffi.rs",
                    "shard/listener.rs"
                ]
                .contains(&path.as_str())
                || path.starts_with("key_manager/pkcs11/ffi/")
                || is_test(&path),
            "{path} has unsafe"
        );
    }
}

#[test]
fn the_import_reader_sees_what_it_should() {
    assert_eq!(
        modules_used("use crate::key_manager::Job; use crate::{api::{A, B}, limits};"),
        ["key_manager", "api", "limits"]
    );
}
