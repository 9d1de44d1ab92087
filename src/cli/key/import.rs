//! `xksd key import`

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::super::Failure;
use super::{OfKey, change};
use crate::file;
use crate::key_manager::Cipher;
use crate::key_manager::wrapped::edit::RawKey;
use crate::key_manager::wrapped::key_file::KEY_BYTES;
use crate::limits::SECRET_FILE_BYTES_MAX;

/// Make a key with given bytes, for example those of a key that another proxy used
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The key encrypts as other proxies do (cipher 1), so that what was encrypted with it opens. Where \
its bytes
came from they may still be: `xksd key rotate` replaces it by one that only the HSM has ever seen \
in clear.
Delete FILE afterwards.")]
pub struct Args {
    #[command(flatten)]
    key: OfKey,
    /// 32 bytes in Base64, in a file that only its owner can read
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let key = read(args)?;
    change::create_with(&args.key, Cipher::Direct, |_| Ok(key))
}

/// No error shows anything of what is in the file.
fn read(args: &Args) -> Result<RawKey, Failure> {
    let at = |why: &dyn std::fmt::Display| {
        Failure::Failed(format!("--file: {} {why}", args.file.display()))
    };
    let content = file::read(&args.file, SECRET_FILE_BYTES_MAX).map_err(|why| at(&why))?;
    if content.mode & 0o077 != 0 {
        return Err(at(&"can be read by others than its owner; run: chmod 600 on it"));
    }
    file::refuse_changeable(&args.file).map_err(|why| at(&why))?;
    let text = content.bytes.trim_ascii();
    let mut bytes = Zeroizing::new([0; KEY_BYTES + 2]);
    match STANDARD.decode_slice(text, &mut *bytes) {
        Ok(KEY_BYTES) => {
            let mut key = Zeroizing::new([0; KEY_BYTES]);
            key.copy_from_slice(&bytes[..KEY_BYTES]);
            Ok(key)
        }
        _ => Err(at(&"does not hold 32 bytes in Base64")),
    }
}
