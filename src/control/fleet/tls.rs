//! The TLS of a client of etcd and of peers.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::Fleet;
use crate::file;
use crate::limits::PEM_FILE_BYTES_MAX;

/// Of this configuration; `None` where nothing needs it.
///
/// # Errors
/// A sentence for the operator.
pub fn of(fleet: &Fleet) -> Result<Option<Arc<ClientConfig>>, String> {
    let Some(trust_anchors) = &fleet.trust_anchors else { return Ok(None) };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("fleet.trust_anchors", trust_anchors)? {
        roots.add(certificate).map_err(|e| format!("fleet.trust_anchors: {e}"))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let client = fleet.etcd().and_then(|etcd| etcd.client.as_ref());
    let config = match client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = certificates("fleet.etcd.client_certificate", chain)?;
            let at = |why: String| format!("fleet.etcd.client_private_key: {why}");
            let content = read(key).map_err(at)?;
            let key = PrivateKeyDer::from_pem_slice(&content.bytes)
                .map_err(|_| at(format!("{} holds no private key", key.display())))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| at(e.to_string()))?
        }
    };
    Ok(Some(Arc::new(config)))
}

fn read(path: &Path) -> Result<file::Content, String> {
    file::read(path, PEM_FILE_BYTES_MAX).map_err(|why| format!("{} {why}", path.display()))
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let content = read(path).map_err(|why| format!("{key}: {why}"))?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&content.bytes)
        .collect::<Result<_, _>>()
        .map_err(|_| format!("{key}: {} is no PEM file", path.display()))?;
    if all.is_empty() {
        return Err(format!("{key}: {} holds no certificate", path.display()));
    }
    Ok(all)
}
