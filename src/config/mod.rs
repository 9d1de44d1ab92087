//! Configuration: TOML text → [`Config`], which is valid as a whole, or every problem at once.
//!
//! The document is walked by hand (`reader`) and not by serde, which stops at the first problem.
//! Each section has its own file with its types and its rules; `docs/configuration.md` tells the
//! same to the operator.

mod audit;
mod aws;
pub mod difference;
mod environment;
pub mod files;
mod fleet;
mod guess;
mod include;
mod key_manager;
mod key_version;
mod keys;
mod keystore;
mod log;
mod otlp;
mod policy;
mod problem;
mod quota;
mod reader;
mod relations;
mod secret;
mod server;
mod sources;
mod table;
mod tls;
mod url;
mod witness;
mod wrapped;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub(crate) use crate::file::shell_word;
pub use audit::{Audit, AuditWitness};
pub(crate) use aws::{AUTHORITIES_PUBLISHED, unknown_root};
pub use environment::Environment;
pub(crate) use environment::is_variable_name;
pub use fleet::{Etcd, Fleet, Shared};
pub use key_manager::{KeyManager, Kind, Pkcs11};
pub use key_version::KeyVersion;
pub use keystore::{API_PATH, Credential, ForeignCiphertext, Key, KeyStore};
pub(crate) use keystore::{PATH_PREFIX_FORM, is_path_prefix};
pub use log::{LogFormat, LogLevel, LogOutput};
pub use otlp::Otlp;
pub use policy::Policy;
pub use problem::{Invalid, Problem};
pub use secret::late_pin;
pub use server::{Admin, Server};
pub use sources::{Exposure, IncludedFile, Machine, Sources};
pub use tls::{ClientAuthentication, Tls, TlsClient};
pub use url::Url;
pub use witness::Witness;
pub use wrapped::Wrapped;

use files::Files;
use reader::{Reader, Section};
use table::names;

use crate::file::{self, Content, Kind as FileKind, Refused};
use crate::limits::CONFIG_BYTES_MAX;

/// A configuration that is right in itself: bounds kept, names unique, references resolved, secrets
/// read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `include`: files with further key stores.
    pub included: Vec<PathBuf>,
    /// `[server]`
    pub server: Server,
    /// `[tls]`
    pub tls: Tls,
    /// The admin listener; without `[admin]` there is none.
    pub admin: Option<Admin>,
    /// `[audit]`; without it there is no audit trail.
    pub audit: Option<Audit>,
    /// `[witness]`; without it no other trail is cosigned.
    pub witness: Option<Witness>,
    /// `[fleet]`; without it this instance knows of no other.
    pub fleet: Option<Fleet>,
    /// Every `[[key_manager]]`, at least one.
    pub key_managers: Vec<KeyManager>,
    /// Every `[[keystore]]`, at least one.
    pub keystores: Vec<KeyStore>,
    /// The files that it names, apart from folders and modules, and what they held.
    pub files: Files,
    /// The file itself and those that it includes, and what they held.
    pub texts: Files,
    /// SHA-256 of the file's text, hex: which configuration it was.
    pub sha256: String,
    /// What can be used and is probably not meant, for the operator to read.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// Reads the file and the secrets it refers to. Other files (certificates, modules) are left to
    /// who uses them, but for private keys that are open to every user.
    pub fn load(file: &Path) -> Result<Self, Invalid> {
        read(file, &Machine { check_files: false })
    }

    /// Like [`Config::load`], and looks at every file that is named.
    pub fn check(file: &Path) -> Result<Self, Invalid> {
        read(file, &Machine { check_files: true })
    }

    /// Reads `text` as the content of `file`, which need not exist: its directory is where relative
    /// paths begin.
    pub fn parse(text: &str, file: &Path, sources: &dyn Sources) -> Result<Self, Invalid> {
        parse(text, file, 0, sources)
    }

    /// Sets the variables that key managers ask for in the environment of this process. To be
    /// called on the main thread before it has started another one, and before a module is loaded.
    ///
    /// # Errors
    /// When this process has more than one thread, or its threads cannot be counted.
    pub fn set_environment(&self) -> Result<(), String> {
        let hsms = self.key_managers.iter().filter_map(KeyManager::pkcs11);
        environment::set(hsms.flat_map(|hsm| &hsm.environment))
    }
}

/// Where the process that runs on a file can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reachable {
    /// `server.control_socket`
    pub control_socket: PathBuf,
    /// `server.state_directory`
    pub state_directory: PathBuf,
    /// `admin.listen`, if there is one.
    pub admin: Option<SocketAddr>,
}

/// Where the process that runs on this file can be reached. The file may be wrong otherwise, and
/// its secrets need not be readable: who must cut AWS off cannot first mend it.
///
/// # Errors
/// When the file cannot be read.
pub fn reachable(file: &Path) -> Result<Reachable, Invalid> {
    let content = file::read(file, CONFIG_BYTES_MAX).map_err(|refused| Invalid {
        file: file.to_owned(),
        problems: vec![Problem::of_key("", refused.to_string())],
    })?;
    let text = String::from_utf8_lossy(&content.bytes);
    let (document, _) = DeTable::parse_recoverable(&text);
    let of = |section, key| document.get_ref().get(section)?.get_ref().get(key)?.get_ref().as_str();
    let named = |key| of("server", key);
    let beside = file.parent().unwrap_or(Path::new(""));
    let state_directory = beside.join(named("state_directory").unwrap_or(server::STATE_DIRECTORY));
    let control_socket = match named("control_socket") {
        Some(socket) => beside.join(socket),
        None => state_directory.join(server::CONTROL_SOCKET),
    };
    let admin = of("admin", "listen").and_then(|address: &str| address.parse().ok());
    Ok(Reachable { control_socket, state_directory, admin })
}

fn read(path: &Path, sources: &dyn Sources) -> Result<Config, Invalid> {
    let refuse = |message: String| {
        Err(Invalid { file: path.to_owned(), problems: vec![Problem::of_key("", message)] })
    };
    let Content { bytes: text, mode } = match file::read(path, CONFIG_BYTES_MAX) {
        Ok(content) => content,
        Err(refused @ Refused::NotRegular(FileKind::Directory)) => {
            return refuse(format!("{refused}: give the file that is in it"));
        }
        // `--config <(…)` in a shell.
        Err(refused @ Refused::NotRegular(_)) => {
            return refuse(format!(
                "{refused}: it could not be read again at a reload; give a file, where it holds \
                 secrets of mode 0600"
            ));
        }
        Err(refused) => return refuse(refused.to_string()),
    };
    if let Err(why) = file::refuse_changeable(path) {
        return refuse(why);
    }
    match std::str::from_utf8(&text) {
        Ok(text) => parse(text, path, mode, sources),
        Err(error) => {
            let line = text[..error.valid_up_to()].iter().filter(|&&b| b == b'\n').count() + 1;
            refuse(format!("line {line} holds bytes that are not UTF-8 text"))
        }
    }
}

/// `mode`: the file's, since who may read the file may read the secrets in it.
fn parse(text: &str, file: &Path, mode: u32, sources: &dyn Sources) -> Result<Config, Invalid> {
    let base = file.parent().unwrap_or(Path::new(""));
    let all_keys = keys::all().into_iter().map(|(path, _)| path).collect();
    let mut joined = include::join(text, base, sources);
    let mut texts = std::mem::take(&mut joined.held);
    texts.insert(file.to_owned(), files::digest_of(text.as_bytes()));
    let reader = Reader::new(&joined.text, base, sources, all_keys, &joined.begins);
    let (document, errors) = DeTable::parse_recoverable(&joined.text);
    for error in errors.iter().take(SYNTAX_ERRORS_TOLD_MAX) {
        reader.syntax(error);
    }
    // What a broken text means is a guess: nothing is said of it.
    let config =
        if errors.is_empty() { sections(&reader, document.get_ref(), &joined) } else { None };
    if let Some((key, span)) = reader.inline_secret.take()
        && let Err(why) = sources::refuse_open_mode(file, mode | joined.mode)
    {
        reader.problem(&key, &span, format!("a secret stands in this file, and the file {why}"));
    }
    let files = reader.files.take();
    let (problems, mut warnings) = reader.finish();
    problem::sort(&mut warnings);
    match config {
        Some(config) if problems.is_empty() => {
            let sha256 = crate::hex::sha256_hex(joined.text.as_bytes());
            Ok(Config { warnings, files, texts, sha256, ..config })
        }
        _ => Err(Invalid::new(file, problems)),
    }
}

/// Errors of syntax draw further ones after them; more than these help nobody.
const SYNTAX_ERRORS_TOLD_MAX: usize = 10;

fn sections(
    reader: &Reader<'_>,
    document: &DeTable<'_>,
    joined: &include::Joined,
) -> Option<Config> {
    let root = Section::root(reader, document, &names(keys::SECTIONS));
    let included = include::included(&root, joined);
    let server = server::server(&root);
    let tls = tls::tls(&root);
    let admin = server::admin(&root);
    let audit = audit::audit(&root);
    let witness = witness::witness(&root);
    let fleet = fleet::fleet(&root);
    let key_managers = key_manager::key_managers(&root);
    let keystores = keystore::keystores(&root, &key_manager_names(document));

    let listeners = [
        ("server", server.as_ref().map(|server| server.listen)),
        ("admin", admin.iter().flatten().map(|admin| admin.listen).next()),
        ("witness", witness.iter().flatten().map(|witness| witness.listen).next()),
    ];
    relations::refuse_collisions(&root, &listeners);
    if let (Some(managers), Some(stores)) = (&key_managers, &keystores) {
        relations::warn_of_missing_keys(&root, managers, stores);
        relations::warn_of_unused(&root, managers, stores);
        relations::refuse_mixed(&root, managers, stores);
        relations::refuse_wrong_unsealers(&root, managers);
    }
    warn_of_what_aws_refuses(&root, server.as_ref(), tls.as_ref(), keystores.as_deref());
    Some(Config {
        included: included?,
        server: server?,
        tls: tls?,
        admin: admin?,
        audit: audit?,
        witness: witness?,
        fleet: fleet?,
        key_managers: key_managers?,
        keystores: keystores?,
        files: Files::new(),
        texts: Files::new(),
        sha256: String::new(),
        warnings: Vec::new(),
    })
}

fn warn_of_what_aws_refuses(
    root: &Section<'_>,
    server: Option<&Server>,
    tls: Option<&Tls>,
    stores: Option<&[KeyStore]>,
) {
    if let (Some(server), Some(tls)) = (server, tls) {
        aws::warn_of_regions(root, server, tls);
    }
    if let Some(stores) = stores {
        aws::warn_of_key_stores(root, stores);
    }
    if let (Some(tls), Some(stores)) = (tls, stores) {
        let chain = root.reader.sources.certificates(&tls.certificate_chain);
        aws::warn_of_certificate(root, &chain, stores);
    }
}

/// Names of all key managers, also of those that are wrong otherwise: a reference to them is right.
fn key_manager_names<'a>(document: &'a DeTable<'_>) -> HashMap<&'a str, usize> {
    let managers = document
        .get("key_manager")
        .and_then(|v| v.get_ref().as_array())
        .into_iter()
        .flat_map(|a| a.iter());
    let named = managers
        .enumerate()
        .filter_map(|(i, m)| Some((m.get_ref().as_table()?.get("name")?.get_ref().as_str()?, i)));
    // Of two with the same name, which is another problem, any will do.
    named.collect()
}
