//! For build scripts: which commit a program is built from, for its `--version`.

#![allow(clippy::print_stdout, reason = "how a build script speaks to cargo")]

use std::path::Path;
use std::process::Command;

/// Says the commit where there is no repository, as in a tarball.
const VARIABLE: &str = "XKSD_COMMIT";
/// As `git rev-parse --short` is asked for.
const DIGITS: &str = "12";

/// Sets `BUILT_FROM` for the package's code: `commit 0123456789ab`, and `, changed` where files are
/// not those of the commit; `commit unknown`; or `debug build`, which would otherwise have to be
/// compiled again for each commit.
pub fn tell_cargo() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let built_from = match std::env::var(VARIABLE) {
        Ok(commit) if !commit.is_empty() => format!("commit {commit}"),
        _ if !is_release => "debug build".to_owned(),
        _ => of_repository().unwrap_or_else(|| "commit unknown".to_owned()),
    };
    println!("cargo::rustc-env=BUILT_FROM={built_from}");
}

fn of_repository() -> Option<String> {
    // Not that of another repository in which a tarball was unpacked.
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    let commit = git(&["rev-parse", &format!("--short={DIGITS}"), "HEAD"])?;
    // Commits and changes after which cargo has to ask again.
    for of_git in ["logs/HEAD", "HEAD"] {
        let path = git(&["rev-parse", "--git-path", of_git])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    for file in ["src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let changed = git(&["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"])?;
    Some(format!("commit {commit}{}", if changed.is_empty() { "" } else { ", changed" }))
}

/// What git says; `None` where it is missing or refuses.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
