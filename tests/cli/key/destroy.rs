//! `xksd key destroy`: the question before it, and what is there when its time has come.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;
use test_harness::{b64, own_process};
use time::{Duration, OffsetDateTime};
use xksd::key_manager::local::Local;
use xksd::key_manager::wrapped::edit;
use xksd::key_manager::wrapped::key_file::KeyFile;
use xksd::key_manager::wrapped::wrap::Hsm;
use xksd::key_manager::{InProcess, Job, KeyRef, Outcome, Task};

use super::{MASTER, Site, Told};

/// AES-256-GCM in this process, with the bytes that the master in the HSM has.
struct Software(Local);

impl Hsm for Software {
    fn name(&self) -> &str {
        "software"
    }

    fn execute(&mut self, key: &KeyRef, task: Task) -> Outcome {
        let deadline = Instant::now() + std::time::Duration::from_secs(60);
        self.0.execute(Job { key: key.clone(), task, deadline })
    }
}

impl Site {
    /// Has whoever holds the master change the file.
    fn edit(&self, label: &str, change: impl FnOnce(&mut KeyFile)) {
        let keys = json!({"keys": [{"label": "m1", "key": b64(MASTER)}]});
        let keys = self.installation.write("masters.json", &keys.to_string());
        let software = Software(Local::load(&keys).expect("loads"));
        let mut file = KeyFile::parse(self.text(label).as_bytes()).expect("a key file");
        change(&mut file);
        let mut hsms: Vec<Box<dyn Hsm>> = vec![Box::new(software)];
        let mut random =
            |bytes: &mut [u8]| SystemRandom::new().fill(bytes).map_err(|_| "none".to_owned());
        edit::seal(&mut file, &mut hsms, &mut random).expect("sealed");
        fs::write(self.file(label), file.to_text()).expect("written");
    }

    /// Runs the command at a terminal, where this is typed.
    fn at_a_terminal(&self, words: &str, typed: &str) -> Told {
        let xksd = env!("CARGO_BIN_EXE_xksd");
        let line = format!("{xksd} {words} --config xksd.toml");
        let mut terminal = Command::new("script");
        terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        terminal.current_dir(self.installation.path());
        terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = terminal.spawn().expect("script, of util-linux");
        child.stdin.take().expect("piped").write_all(typed.as_bytes()).expect("typed");
        Told::of(&child.wait_with_output().expect("ends"))
    }
}

own_process! {
    fn it_asks_for_the_label_at_a_terminal_and_nowhere_else(_directory) {
        let site = Site::with_foo();
        site.done("rotate", "foo", &[]);
        let before = site.text("foo");
        let destroy = "key destroy --key-manager near --label foo --version 1";
        for typed in ["bar\n", "\n", "y\n"] {
            let told = site.at_a_terminal(destroy, typed);
            assert!(
                told.code == 1
                    && told.out.contains("is not the label \"foo\": nothing was changed"),
                "{told:#?}"
            );
            assert!(
                told.out
                    .contains("What version 1 of \"foo\" encrypted will never be decrypted again"),
                "{told:#?}"
            );
        }
        // Nobody is there to be asked, whatever comes through the pipe.
        site.key("destroy", "foo", &["--version", "1"]).refused(2, "give the label with --confirm");
        assert_eq!(site.text("foo"), before);
        let told = site.at_a_terminal(destroy, "foo\n");
        assert!(
            told.code == 0
                && told.out.contains("version 1 is disabled, and is to be destroyed after"),
            "{told:#?}"
        );
    }
}

own_process! {
    fn its_material_goes_when_its_time_has_come_and_not_before(_directory) {
        let site = Site::with_foo();
        for _ in 0..3 {
            site.done("rotate", "foo", &[]);
            site.done("promote", "foo", &[]);
        }
        let destroy = |version, more: &[&str]| {
            site.key(
                "destroy",
                "foo",
                &[&["--version", version, "--confirm", "foo"], more].concat(),
            )
        };
        for version in ["0", "1"] {
            assert_eq!(destroy(version, &["--after", "7d"]).code, 0);
        }
        let before = site.text("foo");
        // Asked for again, it would never come if each time put it off.
        destroy("0", &[]).refused(1, "and it is not that time yet");
        destroy("0", &["--after", "1d"]).refused(1, "For another time take that back first");
        site.key("enable", "foo", &["--version", "0"])
            .refused(1, "is to be destroyed: cancel that first");
        assert_eq!(site.text("foo"), before);

        let past = OffsetDateTime::now_utc() - Duration::days(8);
        site.edit("foo", |file| {
            for number in [0, 1] {
                file.versions[number].destroy_after = None;
                edit::destroy(file, number as u16, Duration::days(7), past).expect("as then");
            }
        });
        let described = site.done("describe", "foo", &[]);
        assert!(described.contains("version 0: destroyed"), "{described}");
        // It is there until somebody takes it away; the other one stays.
        assert!(site.all_open().out.contains("versions 0, 1, 2, 3 open"));
        let done = destroy("0", &[]);
        assert_eq!(done.code, 0);
        for words in [
            "version 0 is destroyed: this file no longer has its material",
            "Backups do, until the master",
        ] {
            assert!(done.out.contains(words), "{}", done.out);
        }
        let file = KeyFile::parse(site.text("foo").as_bytes()).expect("a key file");
        let wraps: Vec<_> = file.versions.iter().map(|version| version.wraps.len()).collect();
        assert_eq!(wraps, [0, 1, 1, 1]);
        assert!(site.all_open().out.contains("versions 1, 2, 3 open"));
        destroy("0", &[]).refused(1, "version 0 is destroyed already");
        for command in ["enable", "disable", "cancel-destroy"] {
            site.key(command, "foo", &["--version", "0"]).refused(1, "version 0 is destroyed");
        }
        site.key("promote", "foo", &["--version", "0"]).refused(1, "version 0 is destroyed");
        // Time over, and nothing taken away yet: it can be taken back.
        site.done("cancel-destroy", "foo", &["--version", "1"]);
        site.done("enable", "foo", &["--version", "1"]);
        assert_eq!(site.all_open().code, 0);
        // Its number is never used again.
        assert!(site.done("rotate", "foo", &[]).contains("version 4 is staged"));
    }
}
