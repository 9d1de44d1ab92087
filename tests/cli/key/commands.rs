//! What each command says, as text and as JSON, and what it refuses.

use std::process::Command;

use serde_json::{Value, json};
use test_harness::{b64, own_process};

use super::{Site, Told};

/// Times are what they are.
fn timeless(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                let is_time = matches!(name.as_str(), "created" | "promoted" | "destroy_after");
                if is_time && field.is_string() || name == "set" {
                    *field = json!(name);
                } else {
                    *field = timeless(field.take());
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|one| *one = timeless(one.take())),
        _ => {}
    }
    value
}

own_process! {
    fn each_command_says_what_it_did(_directory) {
        let site = Site::new();
        site.installation.write("raw", &b64([9; 32]));
        let file = |label: &str, epoch: u64| format!("  keys/{label}.json has epoch {epoch}\n");
        let created = site.key("create", "foo", &[]);
        assert_eq!(
            (created.code, created.out),
            (0, format!("key \"foo\" is made; version 0 encrypts\n{}", file("foo", 1)))
        );
        assert!(
            created.err.starts_with("folder keys is new.")
                && created.err.contains("chgrp xksd keys"),
            "{}",
            created.err
        );
        assert_eq!(
            site.done("import", "old", &["--file", "raw"]),
            format!("key \"old\" is made; version 0 encrypts\n{}", file("old", 1))
        );
        let done = |command, more: &[&str], words: &str, epoch| {
            let told = site.done(command, "foo", more);
            assert!(
                told.starts_with(&format!("key \"foo\": {words}"))
                    && told.ends_with(&format!("\n{}", file("foo", epoch))),
                "{told}"
            );
        };
        done("rotate", &[], "version 1 is staged: it decrypts and does not encrypt yet.", 2);
        done("promote", &[], "version 1 encrypts from now on", 3);
        let zero = ["--version", "0"];
        done("disable", &zero, "version 0 is disabled; nothing it encrypted opens now", 4);
        done("enable", &zero, "version 0 decrypts again", 5);
        let destroy = ["--version", "0", "--after", "1d", "--confirm", "foo"];
        done("destroy", &destroy, "version 0 is disabled, and is to be destroyed after 2", 6);
        let described = site.done("describe", "foo", &[]);
        assert!(
            described.contains("epoch 6, wrapped under m1")
                && described.contains("version 0: disabled, cipher 2, created 2"),
            "{described}"
        );
        assert!(
            described.contains(", to be destroyed after 2")
                && described.contains("version 1: primary"),
            "{described}"
        );
        done("cancel-destroy", &zero, "version 0 stays, disabled", 7);
        site.token.make_key("m2", 32, &super::proper());
        done("rewrap", &["--master", "m2"], "wrapped under m1, m2", 8);
        let dropped = site.key("rewrap", "foo", &["--drop", "m1"]);
        assert_eq!(dropped.out, format!("key \"foo\": wrapped under m2\n{}", file("foo", 9)));
        assert!(dropped.err.contains("\"m1\" is still the `master`"), "{}", dropped.err);
        let list = site.run(&["key", "list", "--key-manager", "near"]);
        assert_eq!(
            list.out,
            "foo: epoch 9, 2 versions, 1 encrypts\nold: epoch 1, 1 version, 0 encrypts\n"
        );
        // Also the version that is not used now.
        assert_eq!(
            site.all_open().out,
            "foo: epoch 9, versions 0, 1 open under m2\nold: epoch 1, version 0 opens under m1\n"
        );
    }
}

own_process! {
    fn each_command_says_it_as_json(_directory) {
        let site = Site::with_foo();
        site.installation.write("raw", &b64([9; 32]));
        let done = |command, label, more: &[&str]| {
            let told = site.key(command, label, &[more, &["--json"]].concat());
            assert_eq!((told.code, told.err.as_str()), (0, ""), "{command}");
            assert_eq!(told.out.lines().count(), 1, "{command}");
            told.json()
        };
        let changed = |label: &str, done: &str, epoch, primary| json!({"done": done, "file": format!("keys/{label}.json"), "epoch": epoch, "primary": primary});
        assert_eq!(
            done("create", "bar", &[]),
            changed("bar", "key \"bar\" is made; version 0 encrypts", 1, 0)
        );
        assert_eq!(
            done("import", "old", &["--file", "raw"]),
            changed("old", "key \"old\" is made; version 0 encrypts", 1, 0)
        );
        let rotated = done("rotate", "foo", &[]);
        assert_eq!((&rotated["epoch"], &rotated["primary"]), (&json!(2), &json!(0)));
        assert_eq!(
            done("promote", "foo", &[]),
            changed("foo", "key \"foo\": version 1 encrypts from now on", 3, 1)
        );
        let zero = ["--version", "0"];
        assert_eq!(done("disable", "foo", &zero)["epoch"], 4);
        assert_eq!(done("enable", "foo", &zero)["epoch"], 5);
        assert_eq!(done("destroy", "foo", &["--version", "0", "--confirm", "foo"])["epoch"], 6);
        let version = |number: u16, state: &str, destroy_after: Value| json!({"version": number, "state": state, "cipher": 2, "created": "created", "promoted": "promoted", "destroy_after": destroy_after});
        let foo = json!({
            "label": "foo", "set": "set", "epoch": 6, "primary": 1, "masters": ["m1"],
            "versions": [version(0, "disabled", json!("destroy_after")), version(1, "primary", Value::Null)],
        });
        assert_eq!(timeless(done("describe", "foo", &[])), foo);
        assert_eq!(done("cancel-destroy", "foo", &zero)["epoch"], 7);
        site.token.make_key("m2", 32, &super::proper());
        assert_eq!(done("rewrap", "foo", &["--master", "m2"])["epoch"], 8);
        let list = timeless(site.run(&["key", "list", "--key-manager", "near", "--json"]).json());
        let labels: Vec<_> = list["keys"]
            .as_array()
            .expect("keys")
            .iter()
            .map(|key| key["label"].clone())
            .collect();
        assert_eq!(
            (labels, &list["wrong"]),
            (vec![json!("bar"), json!("foo"), json!("old")], &json!([]))
        );
        assert_eq!(list["keys"][1]["masters"], json!(["m1", "m2"]));
        std::fs::write(site.file("old"), "{").expect("written");
        let checked = site.run(&["key", "backup-check", "--key-manager", "near", "--json"]);
        assert_eq!(checked.code, 1);
        assert_eq!(
            checked.json()["good"],
            json!([
                {"label": "bar", "epoch": 1, "versions": [0], "masters": ["m1"]},
                {"label": "foo", "epoch": 8, "versions": [0, 1], "masters": ["m1", "m2"]},
            ])
        );
        let wrong = checked.json()["wrong"][0].as_str().expect("text").to_owned();
        assert!(
            wrong.contains("keys/old.json is not a key file") && checked.err.trim_end() == wrong,
            "{checked:?}"
        );
        let list = site.run(&["key", "list", "--key-manager", "near", "--json"]);
        assert_eq!((list.code, list.json()["wrong"][0].as_str()), (1, Some(wrong.as_str())));
    }
}

own_process! {
    fn what_cannot_be_is_refused_in_a_sentence_and_changes_nothing(_directory) {
        let site = Site::with_foo();
        site.done("rotate", "foo", &[]);
        let before = site.text("foo");
        let foo = |command, more: &[&str], code, words: &str| {
            site.key(command, "foo", more).refused(code, words);
            assert_eq!(site.text("foo"), before, "{command} {more:?}");
        };
        foo("create", &[], 1, "keys/foo.json exists already");
        foo("rotate", &[], 1, "key \"foo\": version 1 is staged already: promote it first");
        foo("promote", &["--version", "0"], 1, "key \"foo\": version 0 is primary already");
        foo("promote", &["--version", "7"], 1, "key \"foo\": it has no version 7");
        foo("promote", &["--version", "70000"], 2, "70000 is not in 0..=65535");
        foo("promote", &["--instance", "10.0.0.2:9180"], 2, "http://ADDRESS:PORT is meant");
        foo(
            "promote",
            &["--instance", "https://10.0.0.2:9180"],
            2,
            "http://ADDRESS:PORT is meant",
        );
        foo(
            "promote",
            &["--instance", "http://127.0.0.1:1"],
            1,
            "instance http://127.0.0.1:1: it cannot be asked",
        );
        foo("disable", &["--version", "0"], 1, "version 0 is primary: promote another one first");
        foo("disable", &[], 2, "--version <N>");
        foo("enable", &["--version", "1"], 1, "version 1 is staged, not disabled");
        foo(
            "destroy",
            &["--version", "0", "--confirm", "foo"],
            1,
            "version 0 is primary: promote another one first",
        );
        foo(
            "destroy",
            &["--version", "1", "--confirm", "fo"],
            1,
            "\"fo\" is not the label \"foo\": nothing was changed",
        );
        foo("destroy", &["--version", "1", "--after", "3h"], 2, "at least a day: 1d");
        foo("cancel-destroy", &["--version", "1"], 1, "version 1 is not to be destroyed");
        foo("rewrap", &[], 2, "--master <LABEL>");
        foo("rewrap", &["--master", "m1"], 1, "it is wrapped under \"m1\" already");
        foo(
            "rewrap",
            &["--master", "none"],
            1,
            "the master \"none\" cannot be used: hsm-a: no secret key labelled \"none\"",
        );
        foo("rewrap", &["--drop", "m1"], 1, "\"m1\" is its only master");
        foo("rewrap", &["--drop", "m2"], 1, "it is not wrapped under \"m2\"");
        foo("import", &["--file", "none"], 1, "--file: none does not exist");
        assert_eq!(site.names_in_folder(), ["foo.json"]);
        for command in ["describe", "rotate", "promote"] {
            site.key(command, "bar", &[]).refused(1, "there is no key file keys/bar.json");
        }
        for label in ["a/b", "../foo", "", ".foo", "a b", &"x".repeat(65)] {
            site.key("describe", label, &[])
                .refused(2, "a label has 1 to 64 of A-Z a-z 0-9 . _ -");
            site.key("create", label, &[]).refused(2, "a label has 1 to 64 of A-Z a-z 0-9 . _ -");
        }
        let of = |manager, words: &str| {
            site.run(&["key", "create", "--key-manager", manager, "--label", "x"])
                .refused(2, words);
        };
        of("none", "--key-manager: there is no \"none\" in the configuration");
        of("hsm-a", "are made and kept by the HSM, with the HSM's own tools");
        of("local", "\"local\" is of kind \"local\"; keys for trying out have no versions");
        site.run(&["key-manager", "seal", "near"]).refused(1, "nobody listens here");
    }
}

own_process! {
    fn of_several_instances_none_is_forgotten(_directory) {
        let site = Site::with_foo();
        site.done("rotate", "foo", &[]);
        let path = site.installation.path().join("xksd.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("[server]\n").count(), 1);
        std::fs::write(&path, text.replace("[server]\n", "[server]\ninstances = 2\n")).unwrap();
        site.key("promote", "foo", &[]).refused(2, "give each other one with --instance");
        assert!(site.done("describe", "foo", &[]).contains("staged"));
        site.done("promote", "foo", &["--only-instance"]);
    }
}

own_process! {
    fn an_instance_that_lacks_the_version_is_named(_directory) {
        let site = Site::with_foo();
        let server = site.installation.start();
        let url = format!("http://127.0.0.1:{}", server.admin);
        site.done("rotate", "foo", &[]);
        server.wait_event(&["key \"foo\"", "epoch 2 is in use"]);
        // Another key of that instance's, which this configuration does not use.
        site.done("create", "bar", &[]);
        site.done("rotate", "bar", &[]);
        let refused = site.key("promote", "bar", &["--instance", &url]);
        refused.refused(1, &format!("key \"bar\": instance {url}: it has no key \"bar\" in use"));
        assert!(refused.err.ends_with("nothing was changed\n"));
        // One that is there and one that is not.
        let two =
            site.key("promote", "foo", &["--instance", &url, "--instance", "http://127.0.0.1:1"]);
        two.refused(1, "instance http://127.0.0.1:1: it cannot be asked");
        assert!(!two.err.contains(&url), "{}", two.err);
        site.done("promote", "foo", &["--instance", &url]);
        // And seal, in the running process.
        let sealed = site.run(&["key-manager", "seal", "near", "--reason", "test", "--json"]);
        assert_eq!(sealed.code, 0, "{sealed:?}");
        assert_eq!(sealed.json(), json!({"key_manager": "near", "state": "sealed"}));
        site.run(&["key-manager", "seal", "hsm-a"]).refused(1, "hsm-a");
        let unsealed = site.run(&["key-manager", "unseal", "near"]);
        assert_eq!((unsealed.code, unsealed.err.as_str()), (0, ""), "{unsealed:?}");
        site.run(&["key-manager", "unseal", "near"]).refused(1, "it is not sealed");
    }
}

own_process! {
    fn an_hsm_that_cannot_be_used_is_named_and_nothing_is_changed(_directory) {
        let site = Site::with_foo();
        let before = site.text("foo");
        // The master is gone, is another key, or is none that can wrap.
        site.configure("master = \"small\"");
        site.key("create", "bar", &[])
            .refused(1, "the master \"small\": hsm-a: no secret key labelled \"small\"");
        site.token.make_key("small", 16, &super::proper());
        site.key("create", "bar", &[])
            .refused(1, "the master \"small\": the key is not an AES-256 key that allows");
        site.configure("");
        site.token.delete_key("m1");
        let rotate = || site.key("rotate", "foo", &[]);
        rotate().refused(
            1,
            "key file keys/foo.json: hsm-a: no secret key labelled \"m1\" on the token",
        );
        site.token.make_key("m1", 32, &super::proper());
        rotate().refused(1, "sealed by another master");
        site.all_open().refused(1, "sealed by another master");
        site.token.delete_key("m1");
        site.token.import_key(
            "m1",
            cryptoki::object::KeyType::AES,
            &super::MASTER,
            &super::proper(),
        );
        // The PIN.
        site.installation.write("secrets/pin", "1111");
        rotate().refused(1, "key manager hsm-a: C_Login: CKR_PIN_INCORRECT");
        site.key("create", "bar", &[]).refused(1, "key manager hsm-a: C_Login: CKR_PIN_INCORRECT");
        site.installation.write("secrets/pin", test_harness::token::PIN);
        assert_eq!(
            (site.text("foo"), site.names_in_folder()),
            (before, vec!["foo.json".to_owned()])
        );
        assert_eq!(site.all_open().code, 0);
    }
}

own_process! {
    fn no_configuration_is_wrong_usage(_directory) {
        let site = Site::with_foo();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xksd"));
        command.args(["key", "list", "--key-manager", "near", "--config", "none.toml"]);
        let output = command.current_dir(site.installation.path()).output().expect("runs");
        Told::of(&output).refused(2, "none.toml: does not exist");
        std::fs::remove_file(site.file("foo")).expect("removed");
        let list = site.run(&["key", "list", "--key-manager", "near"]);
        assert_eq!((list.code, list.out.as_str()), (0, "no key files in keys\n"));
        std::fs::remove_dir(site.path("keys")).expect("removed");
        site.run(&["key", "list", "--key-manager", "near"]).refused(1, "folder keys: ");
    }
}
