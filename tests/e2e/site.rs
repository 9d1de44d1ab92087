//! A directory with everything a server needs: certificates, secrets, keys, configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;

use super::pki::{Ca, Leaf, write};
use super::{Credential, Server};

/// First credential of key store `/one`.
pub const A: Credential = Credential {
    id: "AAAAAAAAAAAAAAAAAAAA",
    secret: "first/secret+of+key+store+one+0123456789ABCDEF",
};
/// Second credential of key store `/one`.
pub const B: Credential = Credential {
    id: "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBB",
    secret: "second+secret+of+key+store+one/0123456789ABC",
};
/// The credential of key store `/two`.
pub const C: Credential = Credential {
    id: "CCCCCCCCCCCCCCCCCCCC27",
    secret: "secret=of=key=store=two=0123456789abcdefghijklmnopqrstuvwxyz4567",
};

/// The local key `foo`.
pub const FOO: [u8; 32] = *b"\x00\x01 local key foo of the tests \xfe\xff";
/// The local key `other`.
pub const OTHER: [u8; 32] = [0xa7; 32];

/// What a configuration is made of; fields are TOML to be put in their places.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: String,
    pub tls: String,
    pub admin: String,
    pub key_managers: String,
    pub key_stores: String,
}

/// A `[[keystore]]` with keys and credentials.
pub fn key_store(prefix: &str, more: &str, credentials: &[&Credential], keys: &str) -> String {
    let credentials: String = credentials
        .iter()
        .map(|c| {
            format!(
                "[[keystore.credential]]\naccess_key_id = \"{0}\"\nsecret_access_key = {{ \
            file = \"secrets/{0}\" }}\n",
                c.id
            )
        })
        .collect();
    format!("[[keystore]]\npath_prefix = \"{prefix}\"\n{more}\n{credentials}{keys}\n")
}

/// A `[[keystore.key]]`.
pub fn key(id: &str, more: &str) -> String {
    format!("[[keystore.key]]\nid = \"{id}\"\n{more}\n")
}

impl Default for Config {
    /// Key store `/one` (credentials [`A`] and [`B`], keys `foo`, and `off` which is disabled), key
    /// store `/two` (credential [`C`], key `foo` which is `other` in the key file), the disabled
    /// key store `/off`, all over a local key manager.
    fn default() -> Self {
        let managers = "key_manager = [\"local\"]";
        let keys =
            [key("foo", ""), key("off", "label = \"other\"\nenabled = false"), key("absent", "")]
                .concat();
        let key_stores = [
            key_store("/one", managers, &[&A, &B], &keys),
            key_store("/two", managers, &[&C], &key("foo", "label = \"other\"")),
            key_store("/off", &format!("{managers}\nenabled = false"), &[&A], &key("foo", "")),
        ];
        Self {
            server: "listen = \"127.0.0.1:0\"\nshards = 1\nregions = [\"us-east-1\", \
                \"eu-west-3\"]\nshutdown_delay_ms = 0"
                .to_owned(),
            tls: "certificate_chain = \"tls/chain.pem\"\nprivate_key = \"tls/key.pem\"".to_owned(),
            admin: "[admin]\nlisten = \"127.0.0.1:0\"".to_owned(),
            key_managers: "[[key_manager]]\nname = \"local\"\nkind = \"local\"\nkey_file = \
                \"keys.json\""
                .to_owned(),
            key_stores: key_stores.concat(),
        }
    }
}

impl Config {
    pub fn text(&self) -> String {
        let Self { server, tls, admin, key_managers, key_stores } = self;
        format!("[server]\n{server}\n\n[tls]\n{tls}\n\n{admin}\n\n{key_managers}\n\n{key_stores}\n")
    }

    /// With one more line in `[server]`.
    pub fn server(mut self, line: &str) -> Self {
        self.server = format!("{}\n{line}", self.server);
        self
    }

    /// One PKCS#11 key manager `hsm` behind the single key store `/one` with credential [`A`] and
    /// these keys.
    pub fn hsm(manager: &str, keys: &[&str]) -> Self {
        let keys: String = keys.iter().map(|id| key(id, "")).collect();
        Self {
            key_managers: format!("[[key_manager]]\nname = \"hsm\"\nkind = \"pkcs11\"\n{manager}"),
            key_stores: key_store("/one", "key_manager = [\"hsm\"]", &[&A], &keys),
            ..Self::default()
        }
    }
}

/// The directory.
pub struct Site {
    dir: tempfile::TempDir,
}

impl Default for Site {
    fn default() -> Self {
        Self::new(&Config::default())
    }
}

impl Site {
    pub fn new(config: &Config) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for sub in ["tls", "secrets"] {
            std::fs::create_dir(dir.path().join(sub)).expect("made");
        }
        let site = Self { dir };
        site.new_certificate();
        for credential in [&A, &B, &C] {
            site.write(&format!("secrets/{}", credential.id), credential.secret);
        }
        let keys = [("foo", FOO), ("other", OTHER)]
            .map(|(label, key)| json!({"label": label, "key": STANDARD.encode(key)}));
        site.write("keys.json", &json!({"keys": keys}).to_string());
        site.configure(config);
        site
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

    /// A client without a certificate of its own.
    pub fn client(&self) -> Arc<ClientConfig> {
        let builder = super::wire::client_builder().with_root_certificates(self.roots());
        Arc::new(builder.with_no_client_auth())
    }

    /// Starts the server and waits until it is ready.
    pub fn start(&self) -> Server {
        Server::start(self, &[], |_| ())
    }
}
