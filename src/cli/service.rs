//! `xksd reload`, `xksd status`, and the way to the running process that others use, too.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::process::geteuid;

use serde_json::Value;

use super::table::{elements, word};
use super::{Failure, print};
use crate::config::{self, Reachable};
use crate::control::commands::{Reply, Request};
use crate::control::socket;
use crate::policy::budget::THRESHOLDS_PERCENT;

/// Which process is meant, and how its answer is shown.
#[derive(Debug, clap::Args)]
pub struct Service {
    /// Configuration file (TOML) of the running xksd: its control socket is found there
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Control socket of the running xksd, where it is not the one that FILE names
    #[arg(long, value_name = "PATH")]
    control_socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Have the running xksd read its configuration again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints what changed. If anything is wrong with the configuration, nothing changes and the exit \
code is 1.
The same as SIGHUP, with an answer.")]
pub struct ReloadArgs {
    #[command(flatten)]
    service: Service,
    /// Reload also a configuration without [tls.client] where clients had to show a certificate:
    /// from then on any client may connect
    #[arg(long)]
    accept_loss_of_client_auth: bool,
    /// Reload also a configuration without [audit] where an audit trail is kept: the next start
    /// keeps none
    #[arg(long)]
    accept_loss_of_audit: bool,
    /// Reload also if policies that forbid are missing from the files of a key store
    #[arg(long)]
    accept_loss_of_forbids: bool,
}

/// Show the state of the running xksd
#[derive(Debug, clap::Args)]
#[command(after_help = "--json prints all of it, as /status of the admin listener does.")]
pub struct StatusArgs {
    #[command(flatten)]
    service: Service,
    /// Exit with 1 unless it is ready: for the health check of a container
    #[arg(long)]
    ready: bool,
}

pub(super) fn reload(args: &ReloadArgs) -> Result<(), Failure> {
    let &ReloadArgs {
        ref service,
        accept_loss_of_client_auth,
        accept_loss_of_audit,
        accept_loss_of_forbids,
    } = args;
    service.ask(&Request::Reload {
        accept_loss_of_client_auth,
        accept_loss_of_audit,
        accept_loss_of_forbids,
    })
}

pub(super) fn status(args: &StatusArgs) -> Result<(), Failure> {
    let Reply { data, .. } = args.service.reply(&Request::Status {})?;
    if args.service.json { print_json(&data) } else { print(&summary(&data)) }?;
    match data["unready_reason"].as_str() {
        Some(why) if args.ready => Err(Failure::Failed(format!("not ready: {why}"))),
        _ => Ok(()),
    }
}

impl Service {
    /// Asks, and prints the answer.
    pub(super) fn ask(&self, request: &Request) -> Result<(), Failure> {
        let Reply { ok, message, data } = self.reply(request)?;
        if !ok {
            return Err(Failure::Failed(message));
        }
        if self.json {
            return print_json(&data);
        }
        print(&format!("{}\n", message.trim_end()))
    }

    /// Asks, and gives the answer.
    pub(super) fn reply(&self, request: &Request) -> Result<Reply, Failure> {
        let Reachable { control_socket, state_directory, .. } = config::reachable(&self.config)?;
        let path = self.control_socket.clone().unwrap_or(control_socket);
        let failed = |error: std::io::Error| {
            let why = match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                    "nobody listens here. If an xksd runs all the same, only stopping it cuts AWS \
                     off"
                    .to_owned()
                }
                ErrorKind::PermissionDenied => {
                    "run this as root or as the user that xksd runs as".to_owned()
                }
                _ => error.to_string(),
            };
            Failure::Failed(format!("control socket {}: {why}", path.display()))
        };
        let (mut stream, user) = socket::connect(&path).map_err(failed)?;
        // Else anybody who can put a socket there could say that a key is blocked.
        let owner = std::fs::metadata(&state_directory).map(|state| state.uid()).ok();
        if user != 0 && user != geteuid().as_raw() && Some(user) != owner {
            return Err(Failure::Failed(format!(
                "control socket {}: uid {user} listens here, which is neither root nor the owner \
                 of {}: this is not the xksd that is meant",
                path.display(),
                state_directory.display()
            )));
        }
        let mut line = serde_json::to_vec(request).map_err(|e| Failure::Failed(e.to_string()))?;
        line.push(b'\n');
        // Who is refused may have its answer before all is written.
        let _ = stream.write_all(&line);
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).map_err(failed)?;
        serde_json::from_str(&reply).map_err(|_| {
            let at = path.display();
            Failure::Failed(format!(
                "control socket {at}: the process ended without an answer, or is no xksd"
            ))
        })
    }
}

pub(super) fn print_json(value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    print(&format!("{text}\n"))
}

/// What a person in a hurry wants to see.
fn summary(status: &Value) -> String {
    let mut text = String::new();
    let ready = match status["unready_reason"].as_str() {
        None => "ready".to_owned(),
        Some("stopping") => "stopping".to_owned(),
        Some(why) => format!("not ready: {why}"),
    };
    let (version, uptime) = (word(&status["version"]), word(&status["uptime_seconds"]));
    let _ =
        writeln!(text, "xksd {version}, {ready}, up {uptime} s, on {}", word(&status["listen"]));
    if let Some(why) = status["config_last_reload"]["refused"].as_str() {
        let _ = writeln!(text, "THE LAST RELOAD WAS REFUSED: {why}");
    }
    for failed in elements(&status["config_last_reload"]["failed"]) {
        let _ = writeln!(text, "FAILED: {}", word(failed));
    }
    for waiting in elements(&status["config_last_reload"]["waiting_for_restart"]) {
        let _ = writeln!(text, "waits for a restart: {}", word(waiting));
    }
    if status["audit"]["writable"] == false {
        let why = word(&status["audit"]["unwritable_reason"]);
        let _ = writeln!(text, "THE AUDIT TRAIL CANNOT BE WRITTEN: {why}");
    }
    for manager in elements(&status["key_managers"]) {
        let (name, health) = (word(&manager["name"]), word(&manager["health"]));
        let _ = write!(text, "key manager {name}: {health}");
        if let Some(why) = manager["health_reason"].as_str() {
            let _ = write!(text, ", {why}");
        }
        let sessions = &manager["sessions"];
        if sessions.is_object() {
            let (open, of) = (word(&sessions["open"]), word(&sessions["configured"]));
            let _ = write!(text, ", {open} of {of} sessions open");
        }
        text.push('\n');
    }
    for store in elements(&status["key_stores"]) {
        let (prefix, keys) = (word(&store["path_prefix"]), word(&store["keys"]));
        let enabled = if store["enabled"] == false { ", disabled" } else { "" };
        let s = if store["keys"] == 1 { "" } else { "s" };
        let _ = writeln!(text, "key store {prefix:?}: {keys} key{s}{enabled}");
        budgets(store, &mut text);
    }
    for block in elements(&status["blocks"]) {
        let key = block["key"].as_str().map_or(String::new(), |key| format!("key {key:?} of "));
        let (store, since) = (word(&block["key_store"]), word(&block["since"]));
        let reason = word(&block["reason"]);
        let _ = writeln!(text, "BLOCKED: {key}key store {store:?} since {since}: {reason:?}");
    }
    for certificate in elements(&status["tls"]["certificates"]) {
        let (subject, end) = (word(&certificate["subject"]), word(&certificate["not_after"]));
        let _ = writeln!(text, "certificate {subject:?} is valid until {end}");
    }
    text
}

/// The primary versions of a key store that have used half of what they may encrypt, and more.
fn budgets(store: &Value, text: &mut String) {
    for key in elements(&store["key_versions"]) {
        for version in elements(&key["versions"]) {
            let percent = version["budget"]["percent"].as_f64().unwrap_or(0.0);
            if version["state"] == "primary" && percent >= f64::from(THRESHOLDS_PERCENT[0]) {
                let (key, number) = (&key["key"], &version["number"]);
                let _ = writeln!(
                    text,
                    "key {key}: version {number} has used {percent:.1} % of its invocation budget"
                );
            }
        }
    }
}
