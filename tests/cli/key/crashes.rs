//! A command that is killed, or that the disk fails, at each step of a change: every file loads
//! before and after, and the next command works.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Output;

use test_harness::own_process;

use super::{Site, Told};

/// System calls by which a command changes the folder.
const CALLS: &[&str] =
    &["mkdir", "openat", "unlink", "fchown", "fchmod", "write", "fsync", "rename"];

/// A step: the name of a call, and the how-many-th of them it is in the process.
type Step = (String, usize);

impl Site {
    /// Runs a command under strace with these options, its calls written to a file.
    fn traced(&self, words: &[&str], options: &[&str]) -> Output {
        let mut command = std::process::Command::new("strace");
        command.args(["-y", "-o", "calls"]).args(options).arg(env!("CARGO_BIN_EXE_xksd"));
        command.args(words).args(["--key-manager", "near", "--config", "xksd.toml"]);
        let output = command.current_dir(self.installation.path()).output();
        output.expect("strace is installed by scripts/test")
    }

    /// The steps of a command that touch the folder; it is done.
    fn steps(&self, words: &[&str]) -> Vec<Step> {
        let told = Told::of(&self.traced(words, &["-e", &format!("trace={}", CALLS.join(","))]));
        assert_eq!(told.code, 0, "{told:?}");
        let calls = fs::read_to_string(self.path("calls")).expect("written");
        let (mut counts, mut steps) = (HashMap::<&str, usize>::new(), Vec::new());
        for line in calls.lines() {
            let Some((name, rest)) = line.split_once('(') else { continue };
            let count = counts.entry(name).or_default();
            *count += 1;
            // Not keys.json, which the configuration names.
            let named = ["\"keys\"", "\"keys/", "/keys>", "/keys/"];
            if named.iter().any(|name| rest.contains(name)) {
                steps.push((name.to_owned(), *count));
            }
        }
        steps
    }

    /// The folder as it is in `saved`.
    fn restore(&self, saved: &Path) {
        let keys = self.path("keys");
        let _ = fs::remove_dir_all(&keys);
        if saved.is_dir() {
            copy(saved, &keys);
        }
    }

    /// What a file says of itself, apart from random bytes; empty where there is none.
    fn epoch(&self, label: &str) -> u64 {
        let text = fs::read_to_string(self.file(label)).unwrap_or_default();
        let epoch = text.split_once("\"epoch\": ").and_then(|(_, rest)| rest.split_once(','));
        epoch.map_or(0, |(epoch, _)| epoch.parse().expect("a number"))
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("made");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

/// The commands that change the key foo, in an order in which each one is possible.
const CHANGES: &[&[&str]] = &[
    &["key", "create", "--label", "foo"],
    &["key", "rotate", "--label", "foo"],
    &["key", "promote", "--label", "foo"],
    &["key", "rewrap", "--label", "foo", "--master", "m2"],
    &["key", "rewrap", "--label", "foo", "--drop", "m1"],
    &["key", "destroy", "--label", "foo", "--version", "0", "--confirm", "foo"],
    &["key", "cancel-destroy", "--label", "foo", "--version", "0"],
];

/// Has `fail` spoil each step of each command, in a folder as it was before the command.
fn at_each_step(fail: impl Fn(&Site, &[&str], &Step, u64)) {
    let site = Site::new();
    site.token.make_key("m2", 32, &super::proper());
    for (number, words) in CHANGES.iter().enumerate() {
        let saved = site.path(&format!("saved-{number}"));
        if site.path("keys").is_dir() {
            copy(&site.path("keys"), &saved);
        }
        let before = site.epoch("foo");
        let steps = site.steps(words);
        assert!(steps.len() >= 8, "{words:?}: {steps:?}");
        assert_eq!(site.epoch("foo"), before + 1);
        for step in &steps {
            site.restore(&saved);
            fail(&site, words, step, before);
            let epoch = site.epoch("foo");
            // Whatever happened, what is there opens: the old file or the new one, whole.
            assert!(epoch == before || epoch == before + 1, "{words:?} {step:?}");
            if epoch > 0 {
                let told = site.all_open();
                assert_eq!((told.code, told.err.as_str()), (0, ""), "{words:?} {step:?}");
            }
            // And the next command works.
            let again = site.command(&[words, &["--key-manager", "near"][..]].concat());
            let again = Told::of(&{ again }.output().expect("runs"));
            assert_eq!(again.code == 0, epoch == before, "{words:?} {step:?}: {again:?}");
            assert_eq!(site.epoch("foo"), before + 1, "{words:?} {step:?}");
            assert_eq!(site.names_in_folder(), ["foo.json"], "{words:?} {step:?}");
        }
    }
}

own_process! {
    fn killed_at_each_step_of_each_command_and_every_file_loads(_directory) {
        at_each_step(|site, words, (call, number), _| {
            let kill = format!("inject={call}:signal=KILL:when={number}");
            let output = site.traced(words, &["-e", &format!("trace={call}"), "-e", &kill]);
            assert_eq!(output.status.signal(), Some(9), "{words:?}, {call} {number}: {output:?}");
        });
    }
}

own_process! {
    fn a_disk_that_is_full_at_any_step_of_any_command_loses_nothing(_directory) {
        at_each_step(|site, words, (call, number), before| {
            if call == "fchown" && before == 0 {
                // A new file keeps its group where another one cannot be given.
                return;
            }
            let inject = format!("inject={call}:error=ENOSPC:when={number}");
            let output = site.traced(words, &["-e", &format!("trace={call}"), "-e", &inject]);
            let told = Told::of(&output);
            let at = format!("{words:?}, {call} {number}: {told:?}");
            assert!(told.code == 1 && told.err.contains("keys"), "{at}");
            assert!(told.err.contains("No space left on device"), "{at}");
            if site.epoch("foo") > before {
                assert!(
                    told.err.contains("is replaced, and may be the old one after a power failure"),
                    "{at}"
                );
            }
            // Nothing is left beside it.
            let names =
                if site.path("keys").is_dir() { site.names_in_folder() } else { Vec::new() };
            assert!(names.iter().all(|name| name == "foo.json"), "{at}: {names:?}");
        });
    }
}
