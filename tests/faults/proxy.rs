//! `xksd serve` over simulated HSMs, and clients of it.

use std::ops::{Deref, DerefMut};
use std::process::{Command, Stdio};

use test_harness::config::{A, key, key_store as store};
use test_harness::hsm_sim::KEY;
use test_harness::{Config, Installation, Server};

use crate::budget;
use crate::client::{Client, Load};

/// A `[[keystore]]` with the key that every HSM has.
pub fn key_store(prefix: &str, key_managers: &[&str]) -> String {
    store(prefix, &format!("key_manager = {key_managers:?}"), &[&A], &key(KEY, ""))
}

fn configure(installation: &Installation, server: &str, sections: &[String]) {
    installation.configure(&Config {
        server: format!(
            "listen = \"127.0.0.1:0\"\nshards = 2\nregions = [\"us-east-1\"]\nlog = \"json\"\n\
             shutdown_delay_ms = 0\n{server}"
        ),
        key_managers: sections.concat(),
        key_stores: String::new(),
        ..Config::default()
    });
}

/// A running server, and the directory it stands in.
pub struct Proxy {
    server: Server,
    installation: Installation,
}

impl Deref for Proxy {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Proxy {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl Proxy {
    /// With these key managers and key stores.
    pub fn start(installation: Installation, sections: &[String]) -> Self {
        Self::start_with(installation, "", sections)
    }

    /// As [`Proxy::start`]; `server` is added to `[server]`.
    pub fn start_with(installation: Installation, server: &str, sections: &[String]) -> Self {
        budget::watch_noise();
        configure(&installation, server, sections);
        let server = Server::spawn(&installation, &[], |_| ());
        Self { server, installation }
    }

    /// Another configuration, for a reload.
    pub fn reconfigure(&self, sections: &[String]) {
        configure(&self.installation, "", sections);
    }

    /// A connection to the key store with this prefix.
    pub fn client(&self, prefix: &'static str) -> Client {
        Client::connect(&self.installation, self, prefix)
    }

    /// So many clients at work.
    pub fn load(&self, prefix: &'static str, clients: usize) -> Load {
        Load::start((0..clients).map(|_| self.client(prefix)).collect())
    }

    /// Another xksd with this configuration: exit code, and what it said.
    pub fn xksd(&self, words: &[&str]) -> (i32, String) {
        let installation = &self.installation;
        let mut command = Command::new(env!("CARGO_BIN_EXE_xksd"));
        command.args(words).args(["--config", "xksd.toml"]).current_dir(installation.path());
        if let Some(configuration) = installation.softhsm_configuration() {
            command.env("SOFTHSM2_CONF", configuration);
        }
        let output = command.stdin(Stdio::null()).output().expect("runs");
        let told = [output.stdout, output.stderr].concat();
        (output.status.code().expect("ended by itself"), String::from_utf8(told).expect("UTF-8"))
    }

    /// Fails where an answer of it was late. Gives the latest.
    pub fn kept_the_budget(&self) -> std::time::Duration {
        budget::kept(self)
    }
}
