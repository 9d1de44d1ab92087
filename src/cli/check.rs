//! `xksd check`

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

use super::probe::aws::Options;
use super::{Failure, key, print, tell};
use crate::config::{Config, KeyManager, Kind, Pkcs11, Problem};
use crate::control::build::{Opened, open};
use crate::key_manager::{Answer, InProcess, Job, KeyRef, ProbeKey, Task};
use crate::limits::HUNG_OPEN_TIME;
use crate::sched::sessions_opened;
use crate::tls::chain_of;

/// Check a configuration and every file it names, and change nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reports all problems at once on standard error, each with line and key path:
  xksd.toml:12: keystore[0].credential[1].secret_access_key: missing: make one with: xksd \
    credential new

A local key file is read as the server reads it; configured keys that are not in it are warned of.
The HSM is not touched, unless --open is given: then each key manager is opened and must encrypt and
decrypt a text. `xksd keys` shows whether the keys can be used.

With --aws it looks at the running server over the network, as AWS KMS will before it takes the key
store, and names the error of KMS's CreateCustomKeyStore where a check fails. Best from a machine
outside your network:
  xksd check --config xksd.toml --aws --url https://xks.example.com

Exit codes: 0 the configuration can be used, 1 it can, but a key manager does not serve (with
--open) or AWS KMS would not take a key store (with --aws), 2 it cannot.

Example:
  runuser -u xksd -- xksd check --config /etc/xksd/xksd.toml && systemctl reload xksd
  (as the service's user: root can read files that the service cannot)")]
pub struct Args {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Open each key manager, too: logs in to its token, so a wrong PIN counts as one try
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    aws: Options,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = Config::check(&args.config)?;
    if args.open {
        // While this is the only thread.
        config.set_environment().map_err(Failure::Failed)?;
    }
    for warning in config.warnings.iter().chain(&open_admin(&config)) {
        tell(&format!("{} warning: {warning}", warning.place(&args.config)));
    }
    print(&format!("{} can be used.\n{}", args.config.display(), summary(&config)))?;
    if args.open {
        open_all(&config)?;
    }
    if args.aws.is_wanted() {
        let chain = chain_of(&config.tls.certificate_chain);
        args.aws.run(args.config.clone(), &chain)?;
    }
    Ok(())
}

/// Whether each key manager serves.
fn open_all(config: &Config) -> Result<(), Failure> {
    let mut failed = Vec::new();
    for manager in &config.key_managers {
        let name = &manager.name;
        match serves(config, manager) {
            Ok(how) => print(&format!("  key manager {name} serves{how}\n"))?,
            Err(why) => failed.push(format!("key manager {name} does not serve: {why}")),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::Failed(failed.join("\n"))) }
}

/// What there is to be said of a key manager that serves; or why it does not.
fn serves(config: &Config, manager: &KeyManager) -> Result<&'static str, String> {
    let (key, task) = (KeyRef::first(""), Task::Probe);
    let job = Job { key, task, deadline: Instant::now() + HUNG_OPEN_TIME };
    let outcome = match open(manager)? {
        Opened::InProcess(keys) => keys.execute(job),
        Opened::Wrapped(keys) => {
            if let Some(wrapped) = manager.wrapped() {
                let wrong = key::open_all(config, wrapped, &keys)?;
                if !wrong.is_empty() {
                    return Err(wrong.join("\n"));
                }
            }
            keys.execute(job)
        }
        Opened::Sessions(engine, _) => {
            let session = engine.open();
            session.and_then(|mut session| session.execute(job))
        }
    };
    match outcome.map_err(|fault| fault.to_string())? {
        Answer::Probed(ProbeKey::Own) => Ok(""),
        _ => Ok(": its sessions open. It makes no key to be tried with: look at `xksd keys`"),
    }
}

/// Said here and not at each start: load balancers may have to reach it (`docs/installation.md`).
fn open_admin(config: &Config) -> Option<Problem> {
    let admin = config.admin.as_ref()?.listen;
    if admin.ip().to_canonical().is_loopback() {
        return None;
    }
    let message = format!(
        "{admin} is not loopback, and the admin listener has no TLS and no authentication: let \
         only operators and load balancers reach it"
    );
    Some(Problem::of_key("admin.listen", message))
}

/// What the configuration says, in a few lines.
fn summary(config: &Config) -> String {
    let mut text = format!("  listens on {}", config.server.listen);
    if let Some(admin) = &config.admin {
        let _ = write!(text, ", admin on {}", admin.listen);
    }
    text.push('\n');
    let _ = match &config.tls.client {
        None => writeln!(text, "  client certificates: not asked for"),
        Some(client) => writeln!(
            text,
            "  client certificates: asked for, with the subject CN {}, from the authorities in {}",
            client
                .subject_common_names
                .iter()
                .map(|name| format!("{name:?}"))
                .collect::<Vec<_>>()
                .join(" or "),
            client.trust_anchors.display()
        ),
    };
    for manager in &config.key_managers {
        let kind = match &manager.kind {
            Kind::Local { .. } => "local, for trying out".to_owned(),
            Kind::Pkcs11(hsm) => format!("pkcs11, {}", sessions(hsm)),
            Kind::Wrapped(wrapped) => format!(
                "wrapped, keys in {} opened by {}",
                wrapped.folder.display(),
                wrapped.unseal_with.join(" or ")
            ),
        };
        let _ = writeln!(text, "  key manager {}: {kind}", manager.name);
    }
    for store in &config.keystores {
        let managers: Vec<&str> = store
            .key_managers
            .iter()
            .filter_map(|&i| config.key_managers.get(i))
            .map(|m| m.name.as_str())
            .collect();
        let _ = writeln!(
            text,
            "  key store {}: {}, {}, on {}{}{}",
            store.uri_path(),
            count(store.keys.len(), "key"),
            count(store.credentials.len(), "credential"),
            managers.join(", "),
            store
                .policy
                .as_ref()
                .map_or(String::new(), |p| format!(", policies: {}", p.mode_name())),
            if store.enabled { "" } else { " (disabled)" }
        );
    }
    text
}

/// What the server opens, which may be less than what it is allowed.
fn sessions(hsm: &Pkcs11) -> String {
    let opened = sessions_opened(hsm.sessions, hsm.profile.concurrency());
    let told = count(opened, "session");
    if opened == hsm.sessions {
        return told;
    }
    format!(
        "{told} of the {} that it may have: more do no good, because the module computes in this \
         process",
        hsm.sessions
    )
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
