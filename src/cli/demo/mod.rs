//! `xksd demo`: everything that is needed to try xksd, made where it is missing.

mod certificates;
mod files;
mod guide;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Failure, print, probe, serve};
use crate::config::{Config, Kind, is_variable_name, shell_word};

/// Make CA, certificate, credential, key and configuration in a directory, and serve from it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is in the directory already is used as it is: the second run serves the same keys.

Examples:
  xksd demo                                     # no HSM: the keys stand in a file
  xksd demo --dir /tmp/xks --listen 127.0.0.1:9443
  xksd demo --dir hsm --module /usr/lib/softhsm/libsofthsm2.so \
    --profile softhsm --token xks --pin-file pin

With --module the token must hold an AES-256 key with the label \"demo\".")]
pub struct Args {
    /// Where the files are
    #[arg(long, value_name = "DIR", default_value = "demo")]
    dir: PathBuf,
    /// Address and port of the XKS API [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address and port of the admin listener [default: 127.0.0.1:9180]
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Make the files and do not serve
    #[arg(long)]
    files_only: bool,
    #[command(flatten)]
    hsm: HsmArgs,
}

/// A key manager other than the embedded one.
#[derive(Debug, clap::Args)]
struct HsmArgs {
    /// Use an HSM through this PKCS#11 module
    #[arg(long, value_name = "FILE", requires_all = ["token", "pin_file"])]
    module: Option<PathBuf>,
    /// Label of the module's token
    #[arg(long, value_name = "LABEL", requires = "module")]
    token: Option<String>,
    /// File that holds the user PIN
    #[arg(long, value_name = "FILE", requires = "module")]
    pin_file: Option<PathBuf>,
    /// Profile of the module: generic, softhsm, nss, kryoptic, luna, nshield or cloudhsm [default:
    /// generic]
    #[arg(long, value_name = "NAME", requires = "module")]
    profile: Option<String>,
    /// Environment variable that the module reads, for example SOFTHSM2_CONF=/etc/softhsm2.conf;
    /// may be given several times
    #[arg(long, value_name = "NAME=VALUE", requires = "module", value_parser = variable)]
    env: Vec<(String, String)>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if is_variable_name(name) => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE is meant, the name of letters, digits and _".to_owned()),
    }
}

/// The external key id, and the key's label.
const KEY: &str = "demo";
const PREFIX: &str = "/demo";
const REGION: &str = "us-east-1";

/// Of a process that was killed, the kernel closes the listeners some time after it has gone.
const PORT_PATIENCE: Duration = Duration::from_secs(1);
/// A key manager that does not serve by then is shown by the probe.
const OPENING_TIME: Duration = Duration::from_secs(10);

/// The log's lines of a moment are written by then.
const LOG_TIME: Duration = Duration::from_secs(1);

const REFUSED_ON_PURPOSE: &str = "The log's three warnings above are right: the probe sends an \
    altered tag, a wrong signature and a GET to see that they are refused.";

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let Some(config) = prepare(args)? else { return Ok(()) };
    // Once it serves, it proves itself the way a stranger would: over the network.
    serve::serve(&config, |service| {
        let (config, service) = (config.clone(), service.clone());
        let _ = std::thread::Builder::new().name("xksd-demo-probe".into()).spawn(move || {
            // An HSM is opened while requests are answered already, and before it is open the probe
            // would rightly fail.
            let deadline = Instant::now() + OPENING_TIME;
            while !service.is_ready() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            let log = service.log.clone();
            drop(service);
            // On a terminal the log comes between: all of it before and after, not within.
            log.flush(LOG_TIME);
            let _ =
                print(&format!("\n{} probe --config {}\n", guide::program(), shell_word(&config)));
            let probed = probe::probe_own(&config);
            log.flush(LOG_TIME);
            let _ = match probed {
                Ok(()) => print(&format!("\n{REFUSED_ON_PURPOSE}\nServing; Ctrl-C stops.\n")),
                Err(Failure::Failed(why) | Failure::Usage(why)) => {
                    print(&format!("{why}\n\nServing all the same; Ctrl-C stops.\n"))
                }
            };
        });
    })
}

/// Makes what is missing and tells how to try it. Gives the configuration to serve, unless only the
/// files were asked for.
fn prepare(args: &Args) -> Result<Option<PathBuf>, Failure> {
    let layout = files::Layout::new(&args.dir);
    if !args.files_only && !files::exists(&layout.config)? {
        refuse_taken_ports(args)?;
    }
    let made = files::make(args, &layout)?;
    let config = Config::load(&layout.config)?;
    refuse_contradiction(args, &config, &layout.config)?;
    print(&guide::guide(&layout, &made, &config))?;
    Ok((!args.files_only).then_some(layout.config))
}

/// Before anything is made: a configuration with a port that cannot be had would have to be edited.
/// Of one that is there already, the server tells it.
fn refuse_taken_ports(args: &Args) -> Result<(), Failure> {
    // Both at once: they may be the same.
    let mut listeners = Vec::new();
    for (option, address) in [
        ("--listen", args.listen.unwrap_or(files::LISTEN)),
        ("--admin", args.admin.unwrap_or(files::ADMIN)),
    ] {
        let deadline = Instant::now() + PORT_PATIENCE;
        loop {
            match TcpListener::bind(address) {
                Ok(listener) => break listeners.push(listener),
                Err(e) if e.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(e) => {
                    return Err(Failure::Failed(format!(
                        "cannot listen on {address}: {e}; give another address with {option}"
                    )));
                }
            }
        }
    }
    Ok(())
}

/// A configuration that was there before is not changed: what the command line says must not differ
/// from it.
fn refuse_contradiction(args: &Args, config: &Config, file: &Path) -> Result<(), Failure> {
    let refuse = |option: &str, key: &str, value: String| {
        let message = format!(
            "{option} differs from {key} in {}, which is {value}: edit that file, or take another \
             --dir",
            file.display()
        );
        Err(Failure::Usage(message))
    };
    if args.listen.is_some_and(|listen| listen != config.server.listen) {
        return refuse("--listen", "server.listen", config.server.listen.to_string());
    }
    let admin = config.admin.as_ref().map(|admin| admin.listen);
    if args.admin.is_some() && args.admin != admin {
        return refuse(
            "--admin",
            "admin.listen",
            admin.map_or("not there".to_owned(), |a| a.to_string()),
        );
    }
    if let (Some(module), Some(manager)) = (&args.hsm.module, config.key_managers.first()) {
        match &manager.kind {
            Kind::Pkcs11(hsm)
                if std::path::absolute(module).is_ok_and(|module| module == hsm.module) =>
            {
                let other =
                    |(name, value): &&(String, String)| hsm.environment.get(name) != Some(value);
                if let Some((name, _)) = args.hsm.env.iter().find(other) {
                    let key = format!("key_manager[0].environment.{name}");
                    let value = hsm.environment.get(name).map_or("not there", String::as_str);
                    return refuse("--env", &key, value.to_owned());
                }
            }
            Kind::Pkcs11(hsm) => {
                return refuse(
                    "--module",
                    "key_manager[0].module",
                    hsm.module.display().to_string(),
                );
            }
            other => {
                return refuse("--module", "key_manager[0].kind", format!("{:?}", other.name()));
            }
        }
    }
    Ok(())
}
