//! Keys that an HSM has wrapped: the real server, the real command line, and an HSM that can be
//! steered.

mod files;
mod lease;
mod life;
mod memory;
mod odd;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use test_harness::config::{key, key_store};
use test_harness::hsm_sim::{KEY as MASTER, SimulatedHsm};
use test_harness::{A, Api, Config, Installation, Server, eventually, programs};

/// How often the HSM is asked, seconds.
const RECHECK_S: u64 = 1;

/// A folder of keys, and the HSM that opens them.
struct Place {
    installation: Installation,
    hsm: SimulatedHsm,
}

impl Place {
    /// One without keys. `more`: lines of the wrapped key manager.
    fn new(more: &str) -> Place {
        let installation = Installation::default();
        let hsm = installation.hsm("hsm", "");
        let place = Place { installation, hsm };
        place.configure(&["foo", "bar"], more);
        std::fs::create_dir(place.path("keys")).expect("made");
        place
    }

    /// One with the key `foo`.
    fn with_foo(more: &str) -> Place {
        let place = Place::new(more);
        place.key("create", "foo", &[]);
        place
    }

    fn configure(&self, keys: &[&str], more: &str) {
        let near = format!(
            "[[key_manager]]\nname = \"near\"\nkind = \"wrapped\"\nfolder = \"keys\"\n\
             unseal_with = [\"hsm\"]\nmaster = \"{MASTER}\"\nrecheck_s = {RECHECK_S}\n{more}\n"
        );
        let keys: String = keys.iter().map(|id| key(id, "")).collect();
        self.installation.configure(&Config {
            key_managers: format!("{}{near}", self.hsm.key_manager(1)),
            key_stores: key_store("/one", "key_manager = [\"near\"]", &[&A], &keys),
            ..Config::default()
        });
    }

    fn path(&self, name: &str) -> PathBuf {
        self.installation.path().join(name)
    }

    fn file(&self, label: &str) -> PathBuf {
        self.path(&format!("keys/{label}.json"))
    }

    /// The command line, run beside the configuration.
    fn xksd(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(programs::xksd());
        command.args(arguments).args(["--config", "xksd.toml"]);
        command.current_dir(self.installation.path()).stdin(Stdio::null());
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        command.output().expect("runs")
    }

    /// `xksd key COMMAND`, of a key.
    fn try_key(&self, command: &str, label: &str, more: &[&str]) -> Result<String, String> {
        let of = ["key", command, "--key-manager", "near", "--label", label];
        let output = self.xksd(&[&of[..], more].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn key(&self, command: &str, label: &str, more: &[&str]) -> String {
        let done = self.try_key(command, label, more);
        done.unwrap_or_else(|why| panic!("xksd key {command}: {why}"))
    }

    /// `xksd key-manager seal` or `unseal`.
    fn seal(&self, command: &str) -> Output {
        self.xksd(&["key-manager", command, "near"])
    }

    fn start(&self) -> Server {
        self.installation.start()
    }

    /// Also one that is not ready.
    fn spawn(&self) -> Server {
        Server::spawn(&self.installation, &[], |_| ())
    }

    fn api(&self, server: &Server) -> Api {
        Api::new(&self.installation, server)
    }
}

/// What `/status` says of the wrapped key manager.
fn near(server: &Server) -> Value {
    server.status()["wrapped_key_managers"][0].clone()
}

fn wait_for_state(server: &Server, state: &str) {
    eventually(state, || near(server)["state"] == state);
}

/// Key stores know of it, too, once the log says it.
fn wait_for_epoch(server: &Server, label: &str, epoch: u64) {
    let key = format!("key {label:?}");
    server.wait_event(&[&key, &format!("epoch {epoch} is in use")]);
}

/// Why the file of a key is refused.
fn refused(server: &Server, label: &str) -> Option<String> {
    let files = near(server)["refused_files"].clone();
    let file = files.as_array()?.iter().find(|file| file["label"] == label).cloned();
    Some(file?["why"].as_str()?.to_owned())
}

fn wait_for_refusal(server: &Server, label: &str, words: &str) {
    let mut last = None;
    eventually(words, || {
        last = refused(server, label);
        last.as_ref().is_some_and(|why| why.contains(words))
    });
}
