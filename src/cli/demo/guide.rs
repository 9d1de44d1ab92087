//! What the demo tells the person who started it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::files::Layout;
use crate::config::{Config, shell_word};

/// This program as it was called: a line to try must work where xksd is not in the PATH.
pub(super) fn program() -> String {
    std::env::args_os()
        .next()
        .map_or_else(|| "xksd".to_owned(), |name| shell_word(Path::new(&name)))
}

/// What was made, and the lines to try.
pub(super) fn guide(layout: &Layout, made: &[PathBuf], config: &Config) -> String {
    let mut text = String::new();
    if made.is_empty() {
        let _ = writeln!(text, "Using what is in {}.", layout.dir.display());
    } else {
        let made: Vec<String> = made.iter().map(|path| path.display().to_string()).collect();
        let _ = writeln!(text, "Made {}.", made.join(", "));
    }
    // The configuration may have been edited meanwhile; it is valid, so there is a first key store
    // with a credential.
    if let Some((store, credential)) =
        config.keystores.first().and_then(|s| Some((s, s.credentials.first()?)))
    {
        let listen = config.server.listen;
        let host = if listen.ip().is_unspecified() {
            format!("localhost:{}", listen.port())
        } else {
            listen.to_string()
        };
        let region = config.server.regions.first().map_or("us-east-1", String::as_str);
        let _ = write!(
            text,
            "\nTry all calls:\n  {program} probe --config {config_file}\n\n\
             Or one with curl (7.75 or later; the secret goes through a pipe, since every user can \
             read a command line):\n  \
             printf 'user = \"{id}:%s\"' \"$(cat {secret})\" | \
             curl --config - --cacert {ca} \\\n    \
             --aws-sigv4 \"aws:amz:{region}:kms-xks-proxy\" --header 'Content-Type: \
             application/json' \\\n    \
             --data '{{\"requestMetadata\":{{\"kmsRequestId\":\"try-1\",\
             \"kmsOperation\":\"KmsHealthCheck\"}}}}' \\\n    \
             https://{host}{path}/health\n",
            program = program(),
            config_file = shell_word(&layout.config),
            ca = shell_word(&layout.ca),
            id = credential.access_key_id,
            secret = shell_word(&layout.secret),
            path = store.uri_path(),
        );
    }
    text
}
