//! PEM files: read within bounds, and what is wrong with one said in words.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use zeroize::Zeroizing;

use crate::limits::PEM_FILE_BYTES_MAX;

/// A file's bytes, zeroed when dropped: it may hold a private key.
pub(super) struct PemFile {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Permission bits (`0o600`) of the file that was read.
    pub(super) mode: u32,
}

/// Reads a regular file, or the one a symbolic link leads to.
pub(super) fn read(path: &Path) -> Result<PemFile, String> {
    let shown = path.display();
    let failed = |error: std::io::Error| format!("cannot read {shown}: {error}");
    // Asked before opening: opening a FIFO would block for ever.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(format!("cannot read {shown}: not a regular file"));
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let too_large = || format!("{shown} is larger than {PEM_FILE_BYTES_MAX} bytes: not a PEM file of certificates or a key");
    if metadata.len() > PEM_FILE_BYTES_MAX {
        return Err(too_large());
    }
    // The full capacity at once: a growing vector would leave copies of the key behind.
    let mut bytes = Zeroizing::new(vec![0; PEM_FILE_BYTES_MAX as usize + 1]);
    let mut length = 0;
    let mut file = file.take(PEM_FILE_BYTES_MAX + 1);
    loop {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if length > PEM_FILE_BYTES_MAX as usize {
        return Err(too_large());
    }
    bytes.truncate(length);
    Ok(PemFile { bytes, mode: metadata.mode() & 0o7777 })
}

/// All certificates of a file, in its order; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let file = read(path)?;
    let shown = path.display();
    let certificates = CertificateDer::pem_slice_iter(&file.bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{shown}: {}", describe(&error)))?;
    if certificates.is_empty() {
        return Err(match starts_like_der(&file.bytes) {
            true => format!("{shown} looks like DER, not PEM: convert it with `openssl x509 -inform DER -in {shown} -out CHAIN.pem`"),
            false => format!("{shown} holds no certificate (no line `-----BEGIN CERTIFICATE-----`)"),
        });
    }
    Ok(certificates)
}

/// Whether bytes without any PEM section may be DER: a SEQUENCE with a two-byte length.
pub(super) fn starts_like_der(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x30, 0x82])
}

/// A PEM error in words. Never the bytes at fault: the file may hold a key.
pub(super) fn describe(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a PEM section has no `-----END …-----` line: is the file cut off?",
        pem::Error::IllegalSectionStart { .. } => "a `-----BEGIN …` line does not end in five hyphens",
        pem::Error::Base64Decode(_) => "a PEM section is not valid base64",
        pem::Error::SectionTooLarge => "a PEM section is too large",
        _ => "not a valid PEM file",
    }
}
