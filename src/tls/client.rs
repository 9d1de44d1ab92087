//! TLS as this process's requests to others use it: to etcd, to other instances, to a collector of
//! spans, and to the proxy that is probed.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

use super::pem_file;

/// A client that trusts the authorities in a PEM file, still without a certificate of its own.
///
/// # Errors
/// A sentence for the operator.
pub fn trusting_file(path: &Path) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    trusting(pem_file::certificates(path)?).map_err(|why| format!("{}: {why}", path.display()))
}

/// As [`trusting_file`], of what was read.
///
/// # Errors
/// A sentence for the operator.
pub fn trusting(
    authorities: Vec<CertificateDer<'static>>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let mut roots = RootCertStore::empty();
    // Bundles of public authorities hold some that cannot be used; the handshake tells when the
    // needed one is missing.
    let (usable, _) = roots.add_parsable_certificates(authorities);
    if usable == 0 {
        return Err("no certificate of an authority that can be used".to_owned());
    }
    with_roots(roots)
}

fn with_roots(
    roots: RootCertStore,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| error.to_string())?.with_root_certificates(roots))
}

/// Why a client's certificate cannot be used: a sentence for the operator.
#[derive(Debug)]
pub enum NotUsable {
    /// What is wrong with the file of the certificate.
    Chain(String),
    /// What is wrong with that of its private key.
    Key(String),
}

/// A client that shows the certificate in one PEM file, with the private key in another one.
///
/// # Errors
/// Which of them cannot be used.
pub fn with_certificate(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    (chain, key): (&Path, &Path),
) -> Result<ClientConfig, NotUsable> {
    let certificates = pem_file::certificates(chain).map_err(NotUsable::Chain)?;
    let content = pem_file::read(key).map_err(NotUsable::Key)?;
    let at = |why: &dyn std::fmt::Display| NotUsable::Key(format!("{}: {why}", key.display()));
    let private = PrivateKeyDer::from_pem_slice(&content.bytes);
    let private = private.map_err(|_| at(&"holds no private key"))?;
    builder.with_client_auth_cert(certificates, private).map_err(|error| at(&error))
}

/// Whether [`with_certificate`] can use these files.
///
/// # Errors
/// The same.
pub fn check_certificate(files: (&Path, &Path)) -> Result<(), NotUsable> {
    let builder = with_roots(RootCertStore::empty()).map_err(NotUsable::Chain)?;
    with_certificate(builder, files).map(drop)
}
