//! An HSM that computes wrongly, under the commands: it is found out, and nothing is written.

use std::fs;
use std::process::{Command, Stdio};

use test_harness::config::{key, key_store};
use test_harness::hsm_sim::{KEY as MASTER, SimulatedHsm};
use test_harness::token::PIN;
use test_harness::{A, Config, Installation};

use super::{Told, names_in};

struct Lab {
    installation: Installation,
    hsm: SimulatedHsm,
}

impl Lab {
    fn new() -> Lab {
        let installation = Installation::default();
        let hsm = installation.hsm("hsm", "");
        let lab = Lab { installation, hsm };
        lab.configure(PIN);
        fs::create_dir(lab.installation.path().join("keys")).unwrap();
        lab
    }

    fn configure(&self, pin: &str) {
        let near = format!(
            "[[key_manager]]\nname = \"near\"\nkind = \"wrapped\"\nfolder = \"keys\"\n\
             unseal_with = [\"hsm\"]\nmaster = \"{MASTER}\"\n"
        );
        self.installation.configure(&Config {
            key_managers: format!("{}{near}", self.hsm.key_manager_with_pin(1, pin)),
            key_stores: key_store("/one", "key_manager = [\"near\"]", &[&A], &key("foo", "")),
            ..Config::default()
        });
    }

    /// `xksd key …`, with these faults of the HSM.
    fn key(&self, faults: &str, words: &[&str]) -> Told {
        self.hsm.prepare(faults);
        let mut command = Command::new(env!("CARGO_BIN_EXE_xksd"));
        command.arg("key").args(words).args(["--config", "xksd.toml", "--key-manager", "near"]);
        command.current_dir(self.installation.path()).stdin(Stdio::null());
        command.env("SOFTHSM2_CONF", self.installation.path().join("softhsm2.conf"));
        Told::of(&command.output().unwrap())
    }

    fn names(&self) -> Vec<String> {
        names_in(&self.installation.path().join("keys"))
    }

    fn foo(&self) -> String {
        fs::read_to_string(self.installation.path().join("keys/foo.json")).unwrap()
    }
}

const CREATE: &[&str] = &["create", "--label", "foo"];
const ROTATE: &[&str] = &["rotate", "--label", "foo"];

#[test]
fn what_an_hsm_computes_wrongly_is_not_written() {
    let lab = Lab::new();
    for lie in ["wrong_plaintext = 1.0", "corrupt_ciphertext = 1.0"] {
        let told = lab.key(lie, CREATE);
        told.refused(1, "the master \"foo\": hsm: ");
        assert!(told.err.contains("integrity check"), "{told:?}");
        assert!(lab.names().is_empty(), "{lie}");
    }
    assert_eq!(lab.key("", CREATE).code, 0);
    let before = lab.foo();
    lab.key("wrong_plaintext = 1.0", ROTATE).refused(1, "with another check value");
    lab.key("corrupt_ciphertext = 1.0", ROTATE).refused(1, "integrity check");
    lab.key("wrong_plaintext = 1.0", &["backup-check"]).refused(1, "with another check value");
    assert_eq!((lab.foo(), lab.names()), (before, vec!["foo.json".to_owned()]));
    assert_eq!(lab.key("", &["backup-check"]).code, 0);
}

#[test]
fn what_it_computes_wrongly_now_and_then_is_not_written_either() {
    let lab = Lab::new();
    assert_eq!(lab.key("", CREATE).code, 0);
    let config = lab.hsm.module.with_file_name("hsm.so.toml");
    let text = fs::read_to_string(&config).unwrap();
    let (mut done, mut refused) = (0, 0);
    for seed in 0..24 {
        fs::write(&config, format!("{text}\nseed = {seed}\n")).unwrap();
        let before = lab.foo();
        let lie = if seed % 2 == 0 { "wrong_plaintext" } else { "corrupt_ciphertext" };
        let words: &[&str] =
            if before.contains("staged") { &["promote", "--label", "foo"] } else { ROTATE };
        let told = lab.key(&format!("{lie} = 0.2"), words);
        if told.code == 0 {
            done += 1;
        } else {
            refused += 1;
            assert_eq!((told.code, lab.foo()), (1, before), "{told:?}");
        }
        assert_eq!(lab.names(), ["foo.json"]);
        let honest = lab.key("", &["backup-check"]);
        assert_eq!((honest.code, honest.err.as_str()), (0, ""), "seed {seed}: {told:?}");
    }
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
}

#[test]
fn an_hsm_that_is_away_or_refuses_the_pin_is_named() {
    let lab = Lab::new();
    assert_eq!(lab.key("", CREATE).code, 0);
    let before = lab.foo();
    for (faults, why) in [
        ("token_removed = true", "key manager hsm: token \"hsm\" not found"),
        ("initialize_fails = \"CKR_DEVICE_ERROR\"", "key manager hsm: C_Initialize: CKR_DEVICE"),
        ("login_fails = \"CKR_PIN_LOCKED\"", "key manager hsm: C_Login: CKR_PIN_LOCKED"),
        (
            "error = { call = \"C_OpenSession\", code = \"CKR_DEVICE_ERROR\" }",
            "key manager hsm: C_OpenSession: CKR_DEVICE_ERROR",
        ),
        (
            "error = { call = \"C_GenerateRandom\", code = \"CKR_DEVICE_ERROR\" }",
            "C_GenerateRandom: CKR_DEVICE_ERROR",
        ),
        (
            "error = { call = \"C_Decrypt\", code = \"CKR_DEVICE_ERROR\" }",
            "key file keys/foo.json: hsm: C_Decrypt: CKR_DEVICE_ERROR",
        ),
    ] {
        lab.key(faults, ROTATE).refused(1, why);
        assert_eq!(lab.foo(), before);
    }
    lab.configure("1111");
    lab.key("", ROTATE).refused(1, "key manager hsm: C_Login: CKR_PIN_INCORRECT");
}
