//! `xksd keystore`

use std::path::PathBuf;

use serde::Serialize;
use zeroize::Zeroizing;

use super::{Failure, print, tell};
use crate::config::Config;

/// What AWS must know of a key store
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Export(ExportArgs),
}

/// Print the file that AWS's console takes for a key store: its path and a credential
#[derive(Debug, clap::Args)]
#[command(after_help = "\
In the AWS KMS console: Custom key stores, External key stores, Create, \"Upload configuration \
file\".
The file holds the secret access key: delete it afterwards.

Example:
  (umask 077; xksd keystore export --config xksd.toml --prefix /example > example.json)")]
pub struct ExportArgs {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// path_prefix of the key store, as it stands in the configuration
    #[arg(long, value_name = "PREFIX")]
    prefix: String,
    /// Which of the key store's credentials [default: its first]
    #[arg(long, value_name = "ID")]
    access_key_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Export<'a> {
    xks_proxy_uri_path: &'a str,
    xks_proxy_authentication_credential: ExportCredential<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ExportCredential<'a> {
    access_key_id: &'a str,
    raw_secret_access_key: &'a str,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let Command::Export(args) = command;
    let config = Config::load(&args.config)?;
    let Some(store) = config.keystores.iter().find(|s| s.path_prefix == args.prefix) else {
        let known: Vec<String> =
            config.keystores.iter().map(|s| format!("{:?}", s.path_prefix)).collect();
        let message = format!(
            "no key store has the path_prefix {:?}; there is: {}",
            args.prefix,
            known.join(", ")
        );
        return Err(Failure::Usage(message));
    };
    let wanted = args.access_key_id.as_deref();
    let Some(credential) =
        store.credentials.iter().find(|c| wanted.is_none_or(|id| c.access_key_id == id))
    else {
        let known: Vec<&str> = store.credentials.iter().map(|c| c.access_key_id.as_str()).collect();
        let message = format!(
            "this key store has no access key id {:?}; it has: {}",
            wanted.unwrap_or_default(),
            known.join(", ")
        );
        return Err(Failure::Usage(message));
    };
    let export = Export {
        xks_proxy_uri_path: &store.uri_path(),
        xks_proxy_authentication_credential: ExportCredential {
            access_key_id: &credential.access_key_id,
            raw_secret_access_key: credential.secret_access_key.expose(),
        },
    };
    let text = serde_json::to_string_pretty(&export)
        .map(Zeroizing::new)
        .map_err(|e| Failure::Failed(e.to_string()))?;
    tell(&format!(
        "What follows on standard output holds the secret access key of {}.",
        credential.access_key_id
    ));
    print(&text)?;
    print("\n")
}
