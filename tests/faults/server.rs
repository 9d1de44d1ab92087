//! `xksd serve` as a child process, with its configuration, its log and its admin listener.

use std::ops::Deref;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use xksd::cli::probe::client::Target;

use super::client::{Client, Load};
use super::hsm::{Hsm, KEY, PIN};
use super::noise;
use test_harness::pki::{self, Ca, Leaf};

pub const ACCESS_KEY_ID: &str = "AAAAAAAAAAAAAAAAAAAA";
pub const SECRET_ACCESS_KEY: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJ";
pub const REGION: &str = "us-east-1";
/// Nothing here takes that long: a test that waits for it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// `request_budget_ms`, the default.
pub const BUDGET: Duration = Duration::from_millis(200);

/// Waits until `condition` holds.
pub fn eventually(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

/// A directory with what a server needs.
pub struct Place {
    directory: TempDir,
}

/// A `[[key_manager]]`.
pub fn key_manager(hsm: &Hsm, sessions: usize) -> String {
    key_manager_with_pin(hsm, sessions, PIN)
}

pub fn key_manager_with_pin(hsm: &Hsm, sessions: usize, pin: &str) -> String {
    // The generic profile: the stand-in is a network HSM, so that all the sessions are wanted,
    // whatever the cores.
    format!(
        "[[key_manager]]\nname = {0:?}\nkind = \"pkcs11\"\nmodule = {1:?}\ntoken = {0:?}\npin = {{ \
         value = {pin:?} }}\nsessions = {sessions}\n",
        hsm.name, hsm.module
    )
}

/// A `[[keystore]]` with the key that every HSM has.
pub fn key_store(prefix: &str, key_managers: &[&str]) -> String {
    format!(
        "[[keystore]]\npath_prefix = {prefix:?}\nkey_manager = {key_managers:?}\n\
         [[keystore.credential]]\naccess_key_id = {ACCESS_KEY_ID:?}\nsecret_access_key = {{ value \
         = {SECRET_ACCESS_KEY:?} }}\n\
         [[keystore.key]]\nid = {KEY:?}\n"
    )
}

impl Place {
    pub fn new() -> Place {
        noise::watch();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::create_dir(path.join("tokens")).unwrap();
        let softhsm = format!(
            "directories.tokendir = {}\nlog.level = ERROR\n",
            path.join("tokens").display()
        );
        std::fs::write(path.join("softhsm2.conf"), softhsm).unwrap();
        let (ca, key) = (Ca::root("test CA"), rcgen::KeyPair::generate().unwrap());
        let certificate =
            ca.issue(&Leaf { dns_names: vec!["127.0.0.1".to_owned()], ..Leaf::server() }, &key);
        pki::write(path, "ca.pem", &ca.pem());
        pki::write(path, "chain.pem", &(certificate.pem() + &ca.pem()));
        pki::write(path, "key.pem", &key.serialize_pem());
        Place { directory }
    }

    /// An HSM; `config` is added to the stand-in's configuration.
    pub fn hsm(&self, name: &str, config: &str) -> Hsm {
        Hsm::new(self.directory.path(), name, config)
    }

    /// A server with these key managers and key stores.
    pub fn serve(self, sections: &[String]) -> Server {
        self.serve_with("", sections)
    }

    /// As [`Place::serve`]; `server` is added to `[server]`.
    pub fn serve_with(self, server: &str, sections: &[String]) -> Server {
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nshards = 2\nregions = [{REGION:?}]\nlog = \
             \"json\"\nshutdown_delay_ms = 0\n{server}\n\
             [tls]\ncertificate_chain = \"chain.pem\"\nprivate_key = \"key.pem\"\n[admin]\nlisten \
             = \"127.0.0.1:0\"\n{}",
            sections.concat()
        );
        pki::write(self.directory.path(), "xksd.toml", &config);
        Server::start(self)
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// A running server.
pub struct Server {
    child: test_harness::Server,
    place: Place,
}

impl Deref for Server {
    type Target = test_harness::Server;

    fn deref(&self) -> &test_harness::Server {
        &self.child
    }
}

impl Server {
    fn start(place: Place) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xksd"));
        command
            .arg("serve")
            .arg("--config")
            .arg(place.path().join("xksd.toml"))
            .env("SOFTHSM2_CONF", place.path().join("softhsm2.conf"));
        Server { child: test_harness::Server::run(&mut command), place }
    }

    fn target(&self) -> Target {
        Target {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            ca: self.place.path().join("ca.pem"),
            client: None,
        }
    }

    /// A connection to the key store with this prefix.
    pub fn client(&self, prefix: &str) -> Client {
        Client::connect(&self.target(), prefix)
    }

    /// So many clients at work.
    pub fn load(&self, prefix: &str, clients: usize) -> Load {
        Load::start((0..clients).map(|_| self.client(prefix)).collect())
    }

    pub fn is_ready(&self) -> bool {
        self.get("/readyz").0 == 200
    }

    pub fn wait_until_ready(&self) -> Duration {
        eventually("ready", PATIENCE, || self.is_ready())
    }

    /// What `/status` says of a key manager.
    pub fn key_manager(&self, name: &str) -> Value {
        self.status()["key_managers"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == name)
            .unwrap()
            .clone()
    }

    /// Sessions of a key manager: open and hung.
    pub fn sessions(&self, name: &str) -> (u64, u64) {
        let sessions = &self.key_manager(name)["sessions"];
        (sessions["open"].as_u64().unwrap(), sessions["hung"].as_u64().unwrap())
    }

    pub fn wait_for_sessions(&self, name: &str, open: u64) -> Duration {
        eventually(&format!("{open} sessions of {name} open, none hung"), PATIENCE, || {
            self.sessions(name) == (open, 0)
        })
    }

    fn json_log(&self) -> impl Iterator<Item = Value> {
        // What a module writes to standard error is no line of the log.
        self.log().into_iter().filter_map(|line| serde_json::from_str(&line).ok())
    }

    /// Events in the log.
    pub fn messages(&self) -> Vec<String> {
        self.json_log().filter_map(|line| Some(line["message"].as_str()?.to_owned())).collect()
    }

    /// Lines of requests.
    pub fn requests(&self) -> Vec<Value> {
        self.json_log().filter(|line: &Value| line["event"] == "request").collect()
    }

    /// The promise, by the server's own clock: everything that was read is answered within the
    /// budget. Gives the latest.
    pub fn kept_the_budget(&self) -> Duration {
        // The log is written behind the answers.
        std::thread::sleep(Duration::from_millis(100));
        let mut times: Vec<u64> =
            self.requests().iter().map(|line| line["total_us"].as_u64().unwrap()).collect();
        times.sort_unstable();
        let latest = Duration::from_micros(*times.last().expect("requests"));
        let noise = noise::worst();
        let allowed = BUDGET + Duration::from_millis(50) + 2 * noise;
        let late: Vec<_> = self
            .requests()
            .into_iter()
            .filter(|line| line["total_us"].as_u64() > Some(allowed.as_micros() as u64))
            .collect();
        assert!(
            late.is_empty(),
            "with up to {noise:?} of noise, late among {} answers: {late:#?}",
            times.len()
        );
        latest
    }

    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGTERM; how it ended and how long that took.
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        self.terminate();
        let ended = self.wait_for_end();
        // The rest of its log is read.
        std::thread::sleep(Duration::from_millis(50));
        ended
    }

    pub fn wait_for_end(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        (self.child.wait(), start.elapsed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut others = self.log();
            others.retain(|line| !line.contains("\"event\":\"request\""));
            eprintln!("the server's log, without requests:\n{}", others.join("\n"));
        }
    }
}
