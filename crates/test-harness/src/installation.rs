//! A directory with everything a server needs: certificates, secrets, keys, configuration.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;

use crate::config::{A, B, C, Config, FOO, OTHER};
use crate::hsm_sim::SimulatedHsm;
use crate::pki::{Ca, Leaf, write};
use crate::{Server, programs, softhsm, wire};

/// The directory.
pub struct Installation {
    dir: tempfile::TempDir,
}

impl Default for Installation {
    fn default() -> Self {
        Self::new(&Config::default())
    }
}

impl Installation {
    pub fn new(config: &Config) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for sub in ["tls", "secrets"] {
            std::fs::create_dir(dir.path().join(sub)).expect("made");
        }
        let installation = Self { dir };
        installation.new_certificate();
        for credential in [&A, &B, &C] {
            installation.write(&format!("secrets/{}", credential.id), credential.secret);
        }
        let keys = [("foo", FOO), ("other", OTHER)]
            .map(|(label, key)| json!({"label": label, "key": STANDARD.encode(key)}));
        installation.write("keys.json", &json!({"keys": keys}).to_string());
        installation.configure(config);
        installation
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn config_file(&self) -> PathBuf {
        self.path().join("xksd.toml")
    }

    /// Writes a file of mode 0600 below the directory.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        write(self.path(), name, text)
    }

    pub fn configure(&self, config: &Config) {
        self.write("xksd.toml", &config.text());
    }

    /// A new CA in `ca.pem`, and a new server certificate from it.
    pub fn new_certificate(&self) {
        let (ca, key) = (Ca::root("Test Root"), KeyPair::generate().expect("a key"));
        let leaf = Leaf {
            dns_names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            ..Leaf::server()
        };
        self.write("tls/chain.pem", &[ca.issue(&leaf, &key).pem(), ca.pem()].concat());
        self.write("tls/key.pem", &key.serialize_pem());
        self.write("ca.pem", &ca.pem());
    }

    /// Trust in the CA that is in `ca.pem` now.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.path().join("ca.pem")).expect("a CA"))
            .expect("a CA");
        roots
    }

    /// A client without a certificate.
    pub fn client(&self) -> Arc<ClientConfig> {
        let builder = wire::client_builder().with_root_certificates(self.roots());
        Arc::new(builder.with_no_client_auth())
    }

    /// A simulated HSM with SoftHSM behind it; `config` is added to its configuration.
    pub fn hsm(&self, name: &str, config: &str) -> SimulatedHsm {
        if self.softhsm_configuration().is_none() {
            softhsm::configure(self.path());
        }
        SimulatedHsm::new(self.path(), name, config)
    }

    /// What SOFTHSM2_CONF must name for its server, if it has an HSM.
    pub fn softhsm_configuration(&self) -> Option<PathBuf> {
        Some(self.path().join("softhsm2.conf")).filter(|path| path.exists())
    }

    /// The exit code of `xksd reload` with these options, and what it says.
    pub fn reload(&self, options: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(programs::xksd());
        command.arg("reload").args(options).arg("--config").arg(self.config_file());
        let output = command.output().expect("runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Starts the server and waits until it is ready.
    pub fn start(&self) -> Server {
        Server::start(self, &[], |_| ())
    }
}
