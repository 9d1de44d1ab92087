//! The little that is needed of xksd's configuration. What is wrong with the rest is for `xksd
//! check` to tell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::file::read_text;
use super::key_store::KeyStore;

/// What a configuration says of its first key store.
pub(super) struct Found {
    /// Address to connect to.
    pub(super) listen: SocketAddr,
    pub(super) region: String,
    pub(super) admin: Option<SocketAddr>,
    pub(super) keystore: KeyStore,
    pub(super) key: String,
    /// `ca.pem` beside the file, where it is: `xksd demo` puts it there.
    pub(super) ca: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Config {
    server: Server,
    admin: Option<Admin>,
    #[serde(default)]
    keystore: Vec<Store>,
}

#[derive(Deserialize)]
struct Server {
    listen: SocketAddr,
    regions: Vec<String>,
}

#[derive(Deserialize)]
struct Admin {
    listen: SocketAddr,
}

#[derive(Deserialize)]
struct Store {
    path_prefix: String,
    #[serde(default)]
    credential: Vec<Credential>,
    #[serde(default)]
    key: Vec<Key>,
}

#[derive(Deserialize)]
struct Credential {
    access_key_id: String,
    secret_access_key: Secret,
}

#[derive(Deserialize)]
struct Secret {
    file: Option<PathBuf>,
    env: Option<String>,
    value: Option<String>,
}

#[derive(Deserialize)]
struct Key {
    id: String,
}

pub(super) fn read(path: &Path) -> Result<Found, String> {
    let text = Zeroizing::new(read_text(path)?);
    // The message alone: the error's own text shows the line, and a secret may stand there.
    let config: Config =
        toml::from_str(&text).map_err(|e| format!("{}: {}", path.display(), e.message()))?;
    let missing = |what: &str| format!("{}: no {what}", path.display());
    let store = config.keystore.into_iter().next().ok_or_else(|| missing("[[keystore]]"))?;
    let credential =
        store.credential.into_iter().next().ok_or_else(|| missing("[[keystore.credential]]"))?;
    let key = store.key.into_iter().next().ok_or_else(|| missing("[[keystore.key]]"))?.id;
    let dir = path.parent().unwrap_or(Path::new(""));
    let secret = match credential.secret_access_key {
        Secret { file: Some(file), .. } => Zeroizing::new(read_text(&dir.join(file))?),
        Secret { env: Some(name), .. } => {
            Zeroizing::new(std::env::var(&name).map_err(|e| format!("{name}: {e}"))?)
        }
        Secret { value: Some(value), .. } => Zeroizing::new(value),
        _ => return Err(missing("secret_access_key")),
    };
    let secret = Zeroizing::new(secret.trim_end_matches(['\r', '\n']).to_owned());
    let ca = Some(dir.join("ca.pem")).filter(|ca| ca.exists());
    Ok(Found {
        listen: reachable(config.server.listen),
        region: config
            .server
            .regions
            .into_iter()
            .next()
            .ok_or_else(|| missing("server.regions"))?,
        admin: config.admin.map(|a| reachable(a.listen)),
        keystore: KeyStore {
            prefix: store.path_prefix,
            access_key_id: credential.access_key_id,
            secret,
        },
        key,
        ca,
    })
}

/// What listens everywhere is reached over loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
[server]
listen = "0.0.0.0:8443"
regions = ["eu-west-1"]
[tls]
private_key = "k"
[admin]
listen = "127.0.0.1:9180"
[[keystore]]
path_prefix = "/a"
key_manager = ["x"]
[[keystore.credential]]
access_key_id = "ABCDEFGHIJKLMNOPQR27"
secret_access_key = { file = "secret" }
[[keystore.key]]
id = "foo"
[[keystore]]
path_prefix = "/b"
"#;

    #[test]
    fn the_first_of_everything() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "s3cret\n").unwrap();
        std::fs::write(dir.path().join("x.toml"), CONFIG).unwrap();
        let found = read(&dir.path().join("x.toml")).unwrap();
        assert_eq!(found.listen.to_string(), "127.0.0.1:8443");
        assert_eq!(found.admin.unwrap().to_string(), "127.0.0.1:9180");
        assert_eq!(
            (found.keystore.prefix.as_str(), found.keystore.secret.as_str()),
            ("/a", "s3cret")
        );
        assert_eq!((found.key.as_str(), found.region.as_str()), ("foo", "eu-west-1"));
        assert_eq!(found.ca, None);
        std::fs::write(dir.path().join("ca.pem"), "").unwrap();
        assert!(read(&dir.path().join("x.toml")).unwrap().ca.is_some());
    }

    #[test]
    fn an_error_shows_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.toml");
        std::fs::write(&file, CONFIG.replace("{ file = \"secret\" }", "{ value = 'hunter2' "))
            .unwrap();
        let error = read(&file).err().unwrap();
        assert!(!error.contains("hunter2"), "{error}");
        std::fs::write(&file, CONFIG.replace("[[keystore.key]]", "[[keystore.other]]")).unwrap();
        assert!(read(&file).err().unwrap().contains("[[keystore.key]]"));
    }
}
