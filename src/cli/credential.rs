//! `xksd credential`

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::{Failure, files, print, tell};
use crate::limits::{ACCESS_KEY_ID_CHARS, SECRET_ACCESS_KEY_CHARS};

/// Make credentials with which AWS KMS signs its requests
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    New(NewArgs),
}

/// Make a new credential and print it as a piece of configuration
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Put what is printed below a [[keystore]]. A key store may have several credentials, so that one \
can be
exchanged without a gap: add the new one, give it to AWS KMS (`xksd keystore export`), take the old
one away.

Examples:
  xksd credential new --write-secret /etc/xksd/secrets/key-store-1 >> /etc/xksd/xksd.toml
  xksd credential new        # prints the secret itself")]
pub struct NewArgs {
    /// Write the secret to this new file, mode 0600, instead of printing it; its directory is made,
    /// mode 0700, where it is missing
    #[arg(long, value_name = "FILE")]
    write_secret: Option<PathBuf>,
}

/// An access key id and its secret.
pub(super) struct Credential {
    pub(super) id: String,
    pub(super) secret: Zeroizing<String>,
}

const ID_CHARS: usize = 20;
/// 256 bits.
const SECRET_BYTES: usize = 32;
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

const _: () = {
    assert!(*ACCESS_KEY_ID_CHARS.start() <= ID_CHARS && ID_CHARS <= *ACCESS_KEY_ID_CHARS.end());
    let secret_chars = SECRET_BYTES.div_ceil(3) * 4;
    assert!(
        *SECRET_ACCESS_KEY_CHARS.start() <= secret_chars
            && secret_chars <= *SECRET_ACCESS_KEY_CHARS.end()
    );
};

impl Credential {
    /// A new one from the operating system's random numbers.
    pub(super) fn random() -> Result<Self, Failure> {
        let mut id = [0; ID_CHARS];
        random(&mut id)?;
        Ok(Self {
            id: id.iter().map(|b| char::from(BASE32[usize::from(b % 32)])).collect(),
            secret: random_base64()?,
        })
    }
}

/// 256 random bits in base64.
pub(super) fn random_base64() -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
    random(bytes.as_mut())?;
    Ok(Zeroizing::new(STANDARD.encode(bytes.as_ref())))
}

fn random(bytes: &mut [u8]) -> Result<(), Failure> {
    let failed = |_| Failure::Failed("the operating system gives no random numbers".to_owned());
    SystemRandom::new().fill(bytes).map_err(failed)
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let Command::New(args) = command;
    let Credential { id, secret } = Credential::random()?;
    let source = match &args.write_secret {
        Some(path) => {
            // Absolute: a relative path would be taken from the configuration's directory, not from
            // here.
            let path = std::path::absolute(path)
                .map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))?;
            let source = format!("file = {}", files::toml_path(&path)?);
            let made_parent = files::create_private_parent(&path)?;
            files::create(&path, files::PRIVATE, secret.as_bytes())?;
            tell(&format!(
                "{} is yours alone{}: a service of another user needs chown and chmod, as in chown \
                 root:xksd, chmod 0640{}.",
                path.display(),
                if made_parent { ", and so is its directory, which is new" } else { "" },
                if made_parent { " (0750 the directory)" } else { "" }
            ));
            source
        }
        None => {
            tell(
                "What follows on standard output is secret: keep it out of logs and shell history.",
            );
            format!("value = {}", files::toml_string(&secret))
        }
    };
    let text = format!(
        "[[keystore.credential]]\naccess_key_id = \"{id}\"\nsecret_access_key = {{ {source} }}\n"
    );
    print(&Zeroizing::new(text))
}
