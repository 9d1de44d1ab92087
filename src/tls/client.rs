//! TLS as this process's requests to others use it: to etcd, to other instances, to a collector of
//! spans, and to the proxy that is probed.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
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
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| error.to_string())?.with_root_certificates(roots))
}
