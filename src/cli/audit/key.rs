//! `xksd audit key`

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::audit::checkpoint::{Signer, is_origin};
use crate::audit::cosignature::Cosigner;
use crate::cli::credential::random_base64;
use crate::cli::{Failure, files, print, tell};
use crate::limits::AUDIT_ORIGIN_BYTES_MAX;

/// Make keys that sign checkpoints
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    New(NewArgs),
}

/// Make a signing key, and print the verifier key that belongs to it
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("whose").required(true).args(["origin", "witness"])))]
#[command(after_help = "\
Give the verifier key to whoever checks the trail: it is not secret. Keep the file secret: who has \
it can sign a trail that never was.

Examples:
  xksd audit key new --write-secret secrets/audit-key --origin xks.bank.example/site-a
  xksd audit key new --write-secret secrets/witness-key --witness xks.bank.example/witness-b

To exchange a key: make a new one, set audit.signing_key to it, add the old verifier key to
audit.previous_verifier_keys, restart.")]
pub struct NewArgs {
    /// Write the secret key to this new file, mode 0600; its directory is made, mode 0700, where it
    /// is missing
    #[arg(long, value_name = "FILE")]
    write_secret: PathBuf,
    /// Name of the trail: audit.origin of the configuration
    #[arg(long, value_name = "NAME")]
    origin: Option<String>,
    /// Make a key for a witness of this name, to cosign the checkpoints of other trails:
    /// witness.name of the configuration
    #[arg(long, value_name = "NAME")]
    witness: Option<String>,
}

pub(super) fn new(args: &NewArgs) -> Result<(), Failure> {
    let name = args.origin.as_ref().or(args.witness.as_ref()).map_or("", String::as_str);
    if !is_origin(name) {
        return Err(Failure::Usage(format!(
            "--origin and --witness take 1 to {AUDIT_ORIGIN_BYTES_MAX} bytes without spaces and +"
        )));
    }
    let secret = random_base64()?;
    let seed = STANDARD.decode(secret.as_bytes()).map(Zeroizing::new).ok();
    let key = seed.and_then(|seed| match args.witness {
        Some(_) => Cosigner::new(&seed, name).map(|cosigner| cosigner.key().to_string()),
        None => Signer::new(&seed, name).map(|signer| signer.verifier().to_string()),
    });
    let Some(verifier_key) = key else {
        return Err(Failure::Failed("no key could be made".to_owned()));
    };
    files::create_private_parent(&args.write_secret)?;
    files::create(&args.write_secret, files::PRIVATE, secret.as_bytes())?;
    tell(&format!(
        "The secret key is in {}, mode 0600. If the service runs as another user: chown root:xksd, \
         chmod 0640. The verifier key on standard output is not secret.",
        args.write_secret.display()
    ));
    print(&format!("{verifier_key}\n"))
}
