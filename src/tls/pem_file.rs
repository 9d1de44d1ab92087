//! PEM files: read within bounds, and what is wrong with one said in words.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};

use crate::file::{self, Content, Refused};
use crate::limits::PEM_FILE_BYTES_MAX;

/// Reads a PEM file.
///
/// # Errors
/// Why it cannot be read, in words that begin with its name.
pub fn read(path: &Path) -> Result<Content, String> {
    file::read(path, PEM_FILE_BYTES_MAX).map_err(|refused| match refused {
        file::Refused::TooLong(_) => {
            format!("{} {refused}: not a PEM file of certificates or a key", path.display())
        }
        _ => format!("{} {refused}", path.display()),
    })
}

/// All certificates of a file, in its order; at least one.
///
/// # Errors
/// As [`read`], and where it holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates_in(path, &read(path)?.bytes)
}

/// As [`certificates`], for a command that reads it once: it may be a pipe.
///
/// # Errors
/// The same.
pub fn certificates_once(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let content = std::fs::read(path).map_err(Refused::from);
    certificates_in(path, &content.map_err(|refused| format!("{} {refused}", path.display()))?)
}

fn certificates_in(path: &Path, content: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let certificates = CertificateDer::pem_slice_iter(content)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{shown}: {}", describe(&error)))?;
    if certificates.is_empty() {
        return Err(match starts_like_der(content) {
            true => format!(
                "{shown} looks like DER, not PEM: convert it with `openssl x509 -inform DER -in \
                 {shown} -out CHAIN.pem`"
            ),
            false => {
                format!("{shown} holds no certificate (no line `-----BEGIN CERTIFICATE-----`)")
            }
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
        pem::Error::MissingSectionEnd { .. } => {
            "a PEM section has no `-----END …-----` line: is the file cut off?"
        }
        pem::Error::IllegalSectionStart { .. } => {
            "a `-----BEGIN …` line does not end in five hyphens"
        }
        pem::Error::Base64Decode(_) => "a PEM section is not valid base64",
        pem::Error::SectionTooLarge => "a PEM section is too large",
        _ => "not a valid PEM file",
    }
}
