//! docs/wrapped-keys.md, word for word.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use test_harness::token::PIN;
use test_harness::{own_process, softhsm};

use super::{Site, Told, names_in};

const MANUAL: &str = include_str!("../../../docs/wrapped-keys.md");

/// The blocks of code of a language.
fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}");
    let mut blocks = Vec::new();
    let mut lines = MANUAL.lines();
    while let Some(line) = lines.next() {
        if line.trim() == fence {
            let block = lines.by_ref().take_while(|line| line.trim() != "```");
            blocks.push(block.map(str::trim).collect::<Vec<_>>().join("\n"));
        }
    }
    blocks
}

/// The words of the only command that begins so.
fn command(begin: &str) -> Vec<String> {
    let text = blocks("sh").join("\n").replace("\\\n", " ");
    let inline = MANUAL.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " "));
    let mut found: Vec<String> = text.lines().map(str::to_owned).chain(inline).collect();
    found.retain(|line| line.starts_with(begin));
    assert_eq!(found.len(), 1, "{begin}: {found:?}");
    found[0].split_whitespace().map(str::to_owned).collect()
}

own_process! {
    fn the_set_up_of_the_manual_works_word_for_word(_directory) {
        let site = Site::new();
        site.token.delete_key("m1");
        let mut words = command("pkcs11-tool --module");
        for word in &mut words {
            *word = word.replace(
                "/usr/lib/softhsm/libsofthsm2.so",
                softhsm::module().to_str().expect("UTF-8"),
            );
        }
        let made = Command::new(&words[0]).args(&words[1..]).args(["--pin", PIN]).output();
        assert!(made.as_ref().is_ok_and(|made| made.status.success()), "{made:?}");

        // Its key managers in the configuration.
        let text = fs::read_to_string(site.path("xksd.toml")).expect("there");
        let (head, rest) = text.split_once("[[key_manager]]").expect("there");
        let (_, stores) = rest.split_once("[[keystore]]").expect("there");
        let section = blocks("toml").remove(0);
        let managers = section.split("[[keystore]]").next().expect("there");
        let managers = managers.replace(
            "/usr/lib/softhsm/libsofthsm2.so",
            softhsm::module().to_str().expect("UTF-8"),
        );
        site.installation.write("xksd.toml", &format!("{head}{managers}\n[[keystore]]{stores}"));

        let run = |words: Vec<String>| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_xksd"));
            Told::of(
                &command
                    .args(&words[1..])
                    .current_dir(site.installation.path())
                    .output()
                    .expect("runs"),
            )
        };
        let made = run(command("xksd key create --config"));
        assert_eq!(made.code, 0, "{made:?}");
        let promised = MANUAL.split('`').find(|code| code.starts_with("key \"foo\" is made"));
        assert!(made.out.starts_with(promised.expect("there")), "{}", made.out);
        // SoftHSM's key allows what nobody asked for, and the folder is new.
        assert!(
            made.err.contains("allows more than encrypt and decrypt: CKA_SIGN"),
            "{}",
            made.err
        );
        assert!(made.err.contains("folder keys is new"), "{}", made.err);
        assert_eq!(names_in(&site.path("keys")), ["foo.json"]);
        let mode = |name: &str| {
            fs::metadata(site.path(name)).expect("there").permissions().mode() & 0o7777
        };
        assert_eq!((mode("keys"), mode("keys/foo.json")), (0o750, 0o640));

        fs::create_dir(site.path("BACKUP")).expect("made");
        fs::copy(site.file("foo"), site.path("BACKUP/foo.json")).expect("copied");
        let checked = run(command("xksd key backup-check --config"));
        assert_eq!(
            (checked.code, checked.out.as_str()),
            (0, "foo: epoch 1, version 0 opens under xksd-master-1\n")
        );
        let server = site.installation.start();
        server.wait_event(&["key \"foo\"", "epoch 1 is in use"]);
    }
}
