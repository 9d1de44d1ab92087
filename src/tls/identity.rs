//! The server's identity: certificate chain and private key, loaded and held against each other.

use std::path::Path;
use std::sync::Arc;

use ring::signature::RsaKeyPair;
use rustls::SignatureAlgorithm;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use zeroize::Zeroizing;

use super::certificate::Certificate;
use super::settings::{CERTIFICATE_CHAIN, PRIVATE_KEY, Report, Settings};
use super::{ecdsa_key, pem_file, server_chain};

/// What the server shows and signs with.
pub(super) struct Identity {
    pub(super) certified_key: Arc<CertifiedKey>,
    /// Those of `certified_key`, for log and status.
    pub(super) certificates: Vec<Certificate>,
}

/// None only with a problem in the report.
pub(super) fn load(
    settings: &Settings,
    now: OffsetDateTime,
    report: &mut Report,
) -> Option<Identity> {
    let key = load_key(&settings.private_key, report);
    let certificates = match pem_file::certificates(&settings.certificate_chain) {
        Ok(certificates) => certificates,
        Err(message) => {
            report.problem(CERTIFICATE_CHAIN, message);
            return None;
        }
    };
    let told = match server_chain::parse(&certificates) {
        Ok(parsed) => {
            server_chain::check(&parsed, &settings.certificate_chain, now, report);
            check_match(key.as_deref()?, &parsed, settings, report);
            described(&parsed, &certificates)
        }
        Err(message) => {
            report.problem(
                CERTIFICATE_CHAIN,
                format!("{}: {message}", settings.certificate_chain.display()),
            );
            return None;
        }
    };
    Some(Identity {
        certified_key: Arc::new(CertifiedKey::new(certificates, key?)),
        certificates: told,
    })
}

/// The certificates of a chain's file, for log and status; none where they cannot be read.
pub fn chain_of(file: &Path) -> Vec<Certificate> {
    describe_chain(&pem_file::certificates(file).unwrap_or_default())
}

/// The same of certificates that a server has shown.
pub fn describe_chain(certificates: &[CertificateDer<'_>]) -> Vec<Certificate> {
    server_chain::parse(certificates).map_or_else(|_| Vec::new(), |p| described(&p, certificates))
}

fn described(
    parsed: &[X509Certificate<'_>],
    certificates: &[CertificateDer<'_>],
) -> Vec<Certificate> {
    parsed.iter().zip(certificates).map(|(parsed, der)| Certificate::of(parsed, der)).collect()
}

/// The key's public half must be the one in the first certificate.
fn check_match(
    key: &dyn SigningKey,
    chain: &[X509Certificate<'_>],
    settings: &Settings,
    report: &mut Report,
) {
    let Some(public_key) = key.public_key() else {
        report.problem(
            PRIVATE_KEY,
            format!("the public key of {} cannot be computed", settings.private_key.display()),
        );
        return;
    };
    let (key_file, chain_file) =
        (settings.private_key.display(), settings.certificate_chain.display());
    match chain.iter().position(|certificate| certificate.public_key().raw == public_key.as_ref()) {
        Some(0) => {}
        Some(position) => report.problem(
            CERTIFICATE_CHAIN,
            format!(
                "{key_file} belongs to certificate {} of {chain_file}: the server's own \
                 certificate must stand first, then its issuer",
                position + 1
            ),
        ),
        None => report.problem(
            PRIVATE_KEY,
            format!(
                "{key_file} does not match {chain_file}: its public key is not that of the \
                certificate for {}",
                chain[0].subject()
            ),
        ),
    }
}

fn load_key(path: &Path, report: &mut Report) -> Option<Arc<dyn SigningKey>> {
    let file = match pem_file::read(path) {
        Ok(file) => file,
        Err(message) => {
            report.problem(PRIVATE_KEY, message);
            return None;
        }
    };
    let shown = path.display();
    // As ssh holds it, but a group may read: that is how a key is given to a service that does not
    // own it.
    if file.mode & 0o007 != 0 {
        report.problem(
            PRIVATE_KEY,
            format!(
                "{shown} is open to every user (mode {:04o}): `chmod o-rwx {shown}`",
                file.mode
            ),
        );
    }
    match parse_key(&file.bytes) {
        Ok(key) => Some(key),
        Err(KeyError::Encrypted) => {
            report.problem(
                PRIVATE_KEY,
                format!(
                    "{shown} is encrypted, and xksd has no pass phrase for it: decrypt it with \
                     `(umask 077; openssl pkey -in {shown} -out KEY.pem)`"
                ),
            );
            None
        }
        Err(KeyError::Other(message)) => {
            report.problem(PRIVATE_KEY, format!("{shown}: {message}"));
            None
        }
    }
}

enum KeyError {
    Encrypted,
    Other(String),
}

fn parse_key(pem: &[u8]) -> Result<Arc<dyn SigningKey>, KeyError> {
    // PKCS#8, and the header OpenSSL writes into PKCS#1 and SEC1 sections (RFC 1421, 4.6.1.1).
    if contains(pem, b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        || contains(pem, b"Proc-Type: 4,ENCRYPTED")
    {
        return Err(KeyError::Encrypted);
    }
    let other = |message: &str| KeyError::Other(message.to_owned());
    let mut keys = Vec::new();
    for key in PrivateKeyDer::pem_slice_iter(pem) {
        keys.push(Zeroizing::new(key.map_err(|error| other(pem_file::describe(&error)))?));
    }
    match keys.as_slice() {
        [key] => signing_key(key).map_err(KeyError::Other),
        [] if pem_file::starts_like_der(pem) => {
            Err(other("looks like DER, not PEM: convert it with `openssl pkey -inform DER`"))
        }
        [] => Err(other(
            "holds no private key (`-----BEGIN PRIVATE KEY-----`, `RSA PRIVATE KEY` or `EC PRIVATE \
             KEY`)",
        )),
        _ => Err(other("holds more than one private key: leave the one of the first certificate")),
    }
}

fn signing_key(der: &PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, String> {
    // Whatever keeps it out of memory for secrets, rustls has the last word on whether it is one.
    if let Ok(key) = ecdsa_key::load(der) {
        return Ok(key);
    }
    match any_supported_type(der) {
        // Nothing documents that KMS verifies Ed25519, and no public CA certifies it: such a key
        // would only fail later.
        Ok(key) if key.algorithm() == SignatureAlgorithm::ED25519 => {
            Err("an Ed25519 key; AWS KMS needs RSA or ECDSA P-256 or P-384".to_owned())
        }
        Ok(key) => Ok(key),
        Err(_) => Err(why_unusable(der)),
    }
}

/// rustls tries one kind after the other and keeps no reason: ask ring why it is no RSA key.
fn why_unusable(der: &PrivateKeyDer<'_>) -> String {
    let rejected = match der {
        PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()).err(),
        PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).err(),
        _ => None,
    };
    let reason = match rejected.map(|error| error.to_string()).as_deref() {
        Some("TooSmall") => "an RSA key of fewer than 2048 bits",
        Some("TooLarge") => "an RSA key of more than 4096 bits",
        Some("InconsistentComponents") => "an RSA key whose parts do not fit together",
        _ => "not a key this server can use, or damaged",
    };
    format!(
        "{reason}; RSA of 2048 to 4096 bits and ECDSA P-256 or P-384 (with its public key in the \
         file) are accepted"
    )
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
