//! The configuration of a test's server, and the credentials and keys in it.

use crate::Credential;

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
            server: "listen = \"127.0.0.1:0\"\nwatch_files = false\nshards = 1\n\
                regions = [\"us-east-1\", \"eu-west-3\"]\nshutdown_delay_ms = 0"
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
