//! The demo's files. What is there is kept, whatever it is.

use std::fs::DirBuilder;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{Args, KEY, PREFIX, REGION, certificates};
use crate::cli::Failure;
use crate::cli::credential::Credential;
use crate::cli::files::{PRIVATE, PUBLIC, create, toml_path, toml_string};
use crate::config::{Config, Machine};
use crate::key_manager::local::Local;

pub(super) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8443);
pub(super) const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);

/// Where what is.
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    /// For clients to trust.
    pub(super) ca: PathBuf,
    pub(super) chain: PathBuf,
    pub(super) tls_key: PathBuf,
    pub(super) secret: PathBuf,
    pub(super) keys: PathBuf,
    pub(super) config: PathBuf,
}

impl Layout {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            ca: dir.join("ca.pem"),
            chain: dir.join("tls/chain.pem"),
            tls_key: dir.join("tls/key.pem"),
            secret: dir.join("secrets/key-store-1"),
            keys: dir.join("keys.json"),
            config: dir.join("xksd.toml"),
        }
    }
}

/// Makes what is missing and gives the list of it. The configuration comes last: where it is, all
/// it names is.
pub(super) fn make(args: &Args, layout: &Layout) -> Result<Vec<PathBuf>, Failure> {
    // Who made it first could put his module into it, or take the keys out.
    crate::file::refuse_changeable(&layout.dir)
        .map_err(|why| Failure::Failed(format!("{} {why}", layout.dir.display())))?;
    // A directory that is set up, perhaps with other file names by now, is left alone.
    if exists(&layout.config)? {
        return Ok(Vec::new());
    }
    let mut made = Vec::new();
    // The first makes the directory above as well, so that the second's mode is that of `secrets`
    // alone.
    for (name, mode) in [("tls", 0o755), ("secrets", 0o700)] {
        let dir = layout.dir.join(name);
        let made = DirBuilder::new().recursive(true).mode(mode).create(&dir);
        made.map_err(|e| Failure::Failed(format!("cannot make {}: {e}", dir.display())))?;
    }
    make_certificates(args.listen.unwrap_or(LISTEN).ip(), layout, &mut made)?;
    let credential = Credential::random()?;
    if !exists(&layout.secret)? {
        create(&layout.secret, PRIVATE, credential.secret.as_bytes())?;
        made.push(layout.secret.clone());
    }
    if args.hsm.module.is_none() && !exists(&layout.keys)? {
        Local::create(&layout.keys, &[KEY]).map_err(Failure::Failed)?;
        made.push(layout.keys.clone());
    }
    let text = configuration(args, &credential.id)?;
    // A wrong module or PIN file is refused now, and leaves no configuration behind that fails for
    // ever after.
    Config::parse(&text, &layout.config, &Machine { check_files: true })?;
    create(&layout.config, PUBLIC, text.as_bytes())?;
    made.push(layout.config.clone());
    Ok(made)
}

fn make_certificates(
    listen: IpAddr,
    layout: &Layout,
    made: &mut Vec<PathBuf>,
) -> Result<(), Failure> {
    let files = [&layout.ca, &layout.chain, &layout.tls_key];
    let mut missing = Vec::new();
    for file in files {
        if !exists(file)? {
            missing.push(file.display().to_string());
        }
    }
    match missing.len() {
        0 => return Ok(()),
        3 => {}
        _ => {
            let all = files.map(|f| f.display().to_string()).join(" ");
            let message = format!(
                "missing: {}; these belong together and are made together, and none is \
                 overwritten: \
                 put it back, or let all be made again, after: rm {all}",
                missing.join(", ")
            );
            return Err(Failure::Failed(message));
        }
    }
    let certificates = certificates::make(listen)
        .map_err(|e| Failure::Failed(format!("cannot make the demo's certificates: {e}")))?;
    create(&layout.tls_key, PRIVATE, certificates.key.as_bytes())?;
    create(&layout.chain, PUBLIC, certificates.chain.as_bytes())?;
    create(&layout.ca, PUBLIC, certificates.ca.as_bytes())?;
    made.extend(files.map(Clone::clone));
    Ok(())
}

pub(super) fn exists(path: &Path) -> Result<bool, Failure> {
    path.try_exists()
        .map_err(|e| Failure::Failed(format!("cannot look at {}: {e}", path.display())))
}

fn configuration(args: &Args, access_key_id: &str) -> Result<String, Failure> {
    let listen = args.listen.unwrap_or(LISTEN);
    let admin = args.admin.unwrap_or(ADMIN);
    let key_manager = match (&args.hsm.module, &args.hsm.token, &args.hsm.pin_file) {
        (Some(module), Some(token), Some(pin)) => format!(
            "kind = \"pkcs11\"\nmodule = {}\ntoken = {}\npin = {{ file = {} }}\nprofile = {}\n{}",
            absolute(module)?,
            toml_string(token),
            absolute(pin)?,
            toml_string(args.hsm.profile.as_deref().unwrap_or("generic")),
            environment(&args.hsm.env),
        ),
        _ => "kind = \"local\"            # keys in a file: for trying out, not for \
            production\nkey_file = \"keys.json\"\n"
            .to_owned(),
    };
    Ok(format!(
        r#"# Made by `xksd demo`. Paths are relative to this file.

[server]
listen = "{listen}"
regions = ["{REGION}"]

[tls]
certificate_chain = "tls/chain.pem"
private_key = "tls/key.pem"

[admin]
listen = "{admin}"

[[key_manager]]
name = "demo"
{key_manager}
[[keystore]]
path_prefix = "{PREFIX}"
key_manager = ["demo"]

[[keystore.credential]]
access_key_id = "{access_key_id}"
secret_access_key = {{ file = "secrets/key-store-1" }}

[[keystore.key]]
id = "{KEY}"
"#
    ))
}

/// A line of the key manager, where there is anything to set.
fn environment(variables: &[(String, String)]) -> String {
    if variables.is_empty() {
        return String::new();
    }
    let set: Vec<String> =
        variables.iter().map(|(name, value)| format!("{name} = {}", toml_string(value))).collect();
    format!("environment = {{ {} }}\n", set.join(", "))
}

/// The path as seen from anywhere, as a TOML string: on the command line it is relative to the
/// working directory.
fn absolute(path: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(path)
        .map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))?;
    toml_path(&path)
}
