//! Any text as a configuration: never a panic, always either a configuration or problems that have
//! a place, and no secret told.

#![no_main]

use std::ffi::OsString;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use xksd::config::{Config, Exposure, IncludedFile, Sources};
use xksd::key_manager::Secret;

/// The content of every file and variable.
const SECRET: &str = "5ecret5ecret5ecret5ecret5ecret5ecret5ecret5ecret";

/// The content of every file of policies, which is no file of entities.
const POLICY: &str = "@id(\"all\") permit(principal, action, resource);";

/// The content of every file that is included.
const MORE: &str = "[[keystore]]\npath_prefix = \"/more\"\nkey_manager = [\"a\"]\n";

/// Nothing of this machine: the text names files of the fuzzer's choice.
struct Nowhere;

impl Sources for Nowhere {
    fn certificates(&self, _: &Path) -> Vec<xksd::tls::Certificate> {
        Vec::new()
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        (name != "NONE").then(|| SECRET.into())
    }

    fn secret_file(&self, path: &Path) -> Result<Secret, String> {
        if path.ends_with("none") {
            Err("does not exist".to_owned())
        } else {
            Ok(SECRET.as_bytes().to_vec().into())
        }
    }

    fn is_missing(&self, path: &Path) -> bool {
        path.ends_with("none")
    }

    fn policy_file(&self, path: &Path) -> Result<String, String> {
        if path.ends_with("none") { Err("does not exist".to_owned()) } else { Ok(POLICY.into()) }
    }

    fn included_file(&self, path: &Path) -> Result<IncludedFile, String> {
        if path.ends_with("none") {
            Err("does not exist".to_owned())
        } else {
            Ok((MORE.to_owned().into(), 0))
        }
    }

    fn check_file(&self, path: &Path, _: Exposure) -> Result<(), String> {
        if path.ends_with("none") { Err("does not exist".to_owned()) } else { Ok(()) }
    }

    fn key_file_labels(&self, path: &Path) -> Result<Option<Vec<String>>, String> {
        if path.ends_with("empty") { Ok(Some(Vec::new())) } else { Ok(None) }
    }

    fn check_tls(&self, _: &xksd::tls::Settings) -> xksd::tls::Report {
        xksd::tls::Report::default()
    }
}

fuzz_target!(|text: &str| {
    let told = match Config::parse(text, Path::new("/etc/xksd/xksd.toml"), &Nowhere) {
        Ok(config) => {
            assert!(!config.key_managers.is_empty() && !config.keystores.is_empty());
            for store in &config.keystores {
                assert!(!store.credentials.is_empty() && !store.key_managers.is_empty());
                assert!(store.key_managers.iter().all(|&i| i < config.key_managers.len()));
            }
            format!("{config:?}")
        }
        Err(invalid) => {
            assert!(!invalid.problems.is_empty());
            // Of an included file the message tells the line.
            let mut problems = invalid.problems.iter();
            assert!(problems.all(|it| it.line.is_some() || it.message.starts_with('/')));
            invalid.to_string()
        }
    };
    // Unless the text itself holds it, perhaps escaped: names and paths are quoted in messages.
    assert!(text.contains("5ecret") || text.contains('\\') || !told.contains("5ecret"));
});
