//! Key files and their folder as they should not be.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::Command;

use test_harness::own_process;

use super::{Site, Told};

fn mode(site: &Site, name: &str, bits: u32) {
    fs::set_permissions(site.path(name), Permissions::from_mode(bits)).expect("set");
}

own_process! {
    fn a_file_that_was_tampered_with_is_refused_by_every_command(_directory) {
        let site = Site::with_foo();
        site.done("rotate", "foo", &[]);
        site.done("create", "bar", &[]);
        let good = fs::read(site.file("foo")).expect("read");
        for at in (0..good.len()).step_by(29) {
            for bit in [0x01, 0x40] {
                let mut changed = good.clone();
                changed[at] ^= bit;
                fs::write(site.file("foo"), &changed).expect("written");
                let told = site.all_open();
                assert_eq!(
                    (told.code, told.out.as_str()),
                    (1, "bar: epoch 1, version 0 opens under m1\n"),
                    "byte {at}"
                );
                assert!(told.err.starts_with("key file keys/foo.json"), "{told:?}");
            }
        }
        // No command gives it a new seal.
        let mut changed =
            String::from_utf8(good.clone()).expect("UTF-8").replacen("staged", "disabled", 1);
        for (command, more) in [
            ("rotate", &[][..]),
            ("promote", &["--version", "1"]),
            ("disable", &["--version", "1"]),
            ("enable", &["--version", "1"]),
            ("destroy", &["--version", "1", "--confirm", "foo"]),
            ("rewrap", &["--master", "m2"]),
        ] {
            fs::write(site.file("foo"), &changed).expect("written");
            site.key(command, "foo", more).refused(1, "its seal does not fit what it says");
            assert_eq!(site.text("foo"), changed, "{command}");
        }
        // The files of two keys exchanged, and an old one is no wrong one: only the server knows newer ones.
        changed = site.text("bar");
        fs::write(site.file("foo"), &changed).expect("written");
        site.key("rotate", "foo", &[]).refused(1, "is that of the key \"bar\": it was renamed");
        fs::write(site.file("foo"), good).expect("written");
        assert_eq!(site.all_open().code, 0);
    }
}

own_process! {
    fn a_folder_that_others_can_change_is_refused(_directory) {
        let site = Site::with_foo();
        let every = |words: &str| {
            site.key("create", "bar", &[]).refused(1, words);
            site.key("rotate", "foo", &[]).refused(1, words);
            site.run(&["key", "list", "--key-manager", "near"]).refused(1, words);
            site.all_open().refused(1, words);
        };
        mode(&site, "keys", 0o777);
        every("can be written by every user");
        mode(&site, "keys", 0o750);
        mode(&site, "keys/foo.json", 0o642);
        site.key("rotate", "foo", &[])
            .refused(1, "keys/foo.json can be written by every user; run: chmod o-w");
        mode(&site, "keys/foo.json", 0o640);
        // Needs root: nobody else can give a folder away.
        if chown(site.path("keys"), Some(65_534), None).is_ok() {
            every("belongs to another user (uid 65534)");
            chown(site.path("keys"), Some(0), None).expect("back");
        }
        assert_eq!(site.names_in_folder(), ["foo.json"]);
        site.done("rotate", "foo", &[]);
    }
}

own_process! {
    fn links_are_followed_to_a_folder_and_not_replaced_by_a_file(_directory) {
        let site = Site::with_foo();
        fs::rename(site.path("keys"), site.path("elsewhere")).expect("moved");
        symlink("elsewhere", site.path("keys")).expect("linked");
        site.done("rotate", "foo", &[]);
        site.done("create", "bar", &[]);
        assert_eq!(super::names_in(&site.path("elsewhere")), ["bar.json", "foo.json"]);
        fs::rename(site.path("elsewhere/foo.json"), site.path("foo.json")).expect("moved");
        symlink("../foo.json", site.file("foo")).expect("linked");
        site.key("promote", "foo", &[])
            .refused(1, "keys/foo.json is a symbolic link: change the file where it is itself");
        symlink("nowhere", site.file("new")).expect("linked");
        site.key("create", "new", &[]).refused(1, "keys/new.json is a symbolic link");
        assert_eq!(super::names_in(&site.path("elsewhere")), ["bar.json", "foo.json", "new.json"]);
        // What is no folder is none.
        fs::remove_file(site.path("keys")).expect("removed");
        fs::write(site.path("keys"), "").expect("written");
        site.key("create", "bar", &[]).refused(1, "folder keys: Not a directory");
    }
}

own_process! {
    fn owner_group_and_mode_stay_and_a_new_file_has_those_of_its_folder(_directory) {
        let site = Site::with_foo();
        // As an administrator's shell may have it.
        let with_umask = |words: &str| {
            let line = format!(
                "umask 077; exec {} {words} --key-manager near --config xksd.toml",
                env!("CARGO_BIN_EXE_xksd")
            );
            let output = Command::new("sh")
                .args(["-c", &line])
                .current_dir(site.installation.path())
                .output();
            let told = Told::of(&output.expect("runs"));
            assert_eq!((told.code, told.err.as_str()), (0, ""), "{words}");
        };
        let found = |name: &str| {
            let found = fs::metadata(site.path(name)).expect("there");
            (found.mode() & 0o7777, found.uid(), found.gid())
        };
        let (_, uid, gid) = found("keys/foo.json");
        with_umask("key create --label bar");
        assert_eq!(found("keys/bar.json"), (0o640, uid, gid));
        mode(&site, "keys/foo.json", 0o444);
        with_umask("key rotate --label foo");
        assert_eq!(found("keys/foo.json"), (0o444, uid, gid));
        // Needs root.
        if chown(site.path("keys"), None, Some(1234)).is_ok() {
            chown(site.file("foo"), None, Some(4321)).expect("given away");
            with_umask("key create --label new");
            with_umask("key promote --label foo");
            assert_eq!((found("keys/new.json").2, found("keys/foo.json").2), (1234, 4321));
        }
    }
}

own_process! {
    fn keys_of_one_folder_are_one_set_also_beside_a_file_that_cannot_be_read(_directory) {
        let site = Site::with_foo();
        let set = |label: &str| {
            let described = site.run(&[
                "key",
                "describe",
                "--key-manager",
                "near",
                "--label",
                label,
                "--json",
            ]);
            described.json()["set"].as_str().expect("a set").to_owned()
        };
        fs::write(site.file("a"), "{").expect("written");
        site.done("create", "new", &[]);
        assert_eq!(set("new"), set("foo"));
        for label in ["foo", "new"] {
            fs::remove_file(site.file(label)).expect("removed");
        }
        // Another set would lock out what is in that file.
        site.key("create", "foo", &[]).refused(1, "key file keys/a.json is not a key file");
    }
}

own_process! {
    fn one_command_at_a_time_changes_a_folder(_directory) {
        let site = Site::with_foo();
        let folder = fs::File::open(site.path("keys")).expect("opens");
        rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive).expect("locked");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| site.key("rotate", "foo", &[]));
            test_harness::eventually("it waits", || {
                let locks = fs::read_to_string("/proc/locks").expect("read");
                let inode = format!(":{} ", fs::metadata(site.path("keys")).expect("there").ino());
                locks.lines().any(|line| line.contains("->") && line.contains(&inode))
            });
            assert!(site.text("foo").contains("\"epoch\": 1"));
            drop(folder);
            let told = waiting.join().expect("ends");
            assert_eq!(told.code, 0);
            assert!(
                told.err.contains("another xksd key command is at work in folder keys; waiting"),
                "{told:?}"
            );
        });
        // One that only looks never waits.
        assert_eq!(site.all_open().code, 0);
    }
}

own_process! {
    fn a_backup_opens_under_each_master_that_is_there(_directory) {
        let site = Site::with_foo();
        site.token.make_key("m2", 32, &super::proper());
        site.done("rewrap", "foo", &["--master", "m2"]);
        let good = site.text("foo");
        let opens = |masters: &str| {
            let told = site.all_open();
            let expected = format!("foo: epoch 2, version 0 opens under {masters}\n");
            assert_eq!((told.code, told.out, told.err.as_str()), (0, expected, ""));
        };
        opens("m1, m2");
        // One that the other one does not need: a server with m1 would not find it.
        let at = good.rfind("\"tag\": \"").expect("of the second seal") + 8;
        let other = if good.as_bytes()[at] == b'A' { "B" } else { "A" };
        fs::write(site.file("foo"), [&good[..at], other, &good[at + 1..]].concat())
            .expect("written");
        site.all_open().refused(1, "its seal under the master \"m2\": ");
        fs::write(site.file("foo"), &good).expect("written");
        site.token.delete_key("m2");
        opens("m1");
        site.token.make_key("m2", 32, &super::proper());
        site.all_open().refused(1, "its seal under the master \"m2\": ");
        site.token.delete_key("m2");
        site.token.delete_key("m1");
        site.all_open().refused(1, "no secret key labelled");
    }
}
