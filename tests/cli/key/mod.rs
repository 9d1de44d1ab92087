//! `xksd key`: the commands over SoftHSM, as a security officer runs them.

mod commands;
mod crashes;
mod destroy;
mod files;
mod lies;
mod manual;
mod masters;
mod vectors;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cryptoki::object::{Attribute, KeyType};
use serde_json::Value;
use test_harness::config::{key, key_store};
use test_harness::token::PIN;
use test_harness::{A, Config, Installation, Token, softhsm};

/// What masters are made of: known, so that others can open the files, too.
const MASTER: [u8; 32] = *b"\x80 master of the command tests \x81\x00";

/// A token `xks` with the master `m1`, and a configuration of the wrapped key manager `near`, in a
/// process of its own.
struct Site {
    installation: Installation,
    token: Token,
}

/// Of a master as it should be.
fn proper() -> Vec<Attribute> {
    vec![
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]
}

/// The same but for these.
fn proper_but(others: &[Attribute]) -> Vec<Attribute> {
    let is_other =
        |one: &Attribute| others.iter().any(|other| other.attribute_type() == one.attribute_type());
    proper().into_iter().filter(|one| !is_other(one)).chain(others.to_vec()).collect()
}

impl Site {
    fn new() -> Site {
        let site = Site {
            installation: Installation::default(),
            token: softhsm::new_token(&softhsm::load(), "xks"),
        };
        site.installation.write("secrets/pin", PIN);
        site.token.import_key("m1", KeyType::AES, &MASTER, &proper());
        site.configure("");
        site
    }

    /// One with the key `foo`.
    fn with_foo() -> Site {
        let site = Site::new();
        fs::create_dir(site.path("keys")).expect("made");
        site.done("create", "foo", &[]);
        site
    }

    /// `more`: lines of the wrapped key manager.
    fn configure(&self, more: &str) {
        let master = if more.contains("master = ") { "" } else { "master = \"m1\"\n" };
        let hsms = if more.contains("unseal_with = ") { "" } else { "unseal_with = [\"hsm-a\"]\n" };
        self.installation.configure(&Config {
            key_managers: format!(
                "[[key_manager]]\nname = \"near\"\nkind = \"wrapped\"\nfolder = \"keys\"\n\
                 {master}{hsms}{more}\n[[key_manager]]\nname = \"hsm-a\"\nkind = \"pkcs11\"\n\
                 module = {:?}\ntoken = \"xks\"\npin = {{ file = \"secrets/pin\" }}\n\
                 profile = \"softhsm\"\n[[key_manager]]\nname = \"local\"\nkind = \"local\"\n\
                 key_file = \"keys.json\"\n",
                softhsm::module()
            ),
            key_stores: key_store("/one", "key_manager = [\"near\"]", &[&A], &key("foo", "")),
            ..Config::default()
        });
    }

    fn path(&self, name: &str) -> PathBuf {
        self.installation.path().join(name)
    }

    fn file(&self, label: &str) -> PathBuf {
        self.path(&format!("keys/{label}.json"))
    }

    fn text(&self, label: &str) -> String {
        fs::read_to_string(self.file(label)).expect("a key file")
    }

    /// `xksd … --config xksd.toml`, where the configuration is.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xksd"));
        command.args(words).args(["--config", "xksd.toml"]);
        command.current_dir(self.installation.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Told {
        Told::of(&self.command(words).output().expect("runs"))
    }

    /// `xksd key COMMAND` of a key.
    fn key(&self, command: &str, label: &str, more: &[&str]) -> Told {
        let of = ["key", command, "--key-manager", "near", "--label", label];
        self.run(&[&of[..], more].concat())
    }

    /// What it prints.
    fn done(&self, command: &str, label: &str, more: &[&str]) -> String {
        let told = self.key(command, label, more);
        assert_eq!((told.code, told.err.as_str()), (0, ""), "{command} {more:?}");
        told.out
    }

    /// The HSM opens every file of the folder.
    fn all_open(&self) -> Told {
        self.run(&["key", "backup-check", "--key-manager", "near"])
    }

    fn names_in_folder(&self) -> Vec<String> {
        names_in(&self.path("keys"))
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<_> = entries.map(|e| name(e).into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// Exit code and what was printed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    code: i32,
    out: String,
    err: String,
}

impl Told {
    fn of(output: &Output) -> Told {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        Told { code: output.status.code().unwrap_or(-1), out, err }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// It did nothing, and said why.
    fn refused(&self, code: i32, words: &str) {
        let says = self.err.contains(words);
        assert!((self.code, self.out.as_str()) == (code, "") && says, "{words:?}: {self:#?}");
    }
}
