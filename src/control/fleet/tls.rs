//! The TLS of a client of etcd and of peers.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::config::Fleet;
use crate::tls::pem_file;

/// Of this configuration; `None` where nothing needs it.
///
/// # Errors
/// A sentence for the operator.
pub fn of(fleet: &Fleet) -> Result<Option<Arc<ClientConfig>>, String> {
    let Some(trust_anchors) = &fleet.trust_anchors else { return Ok(None) };
    let mut roots = RootCertStore::empty();
    let anchors = pem_file::certificates(trust_anchors);
    for certificate in anchors.map_err(|why| format!("fleet.trust_anchors: {why}"))? {
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
            let chain = pem_file::certificates(chain)
                .map_err(|why| format!("fleet.etcd.client_certificate: {why}"))?;
            let at = |why: String| format!("fleet.etcd.client_private_key: {why}");
            let content = pem_file::read(key).map_err(at)?;
            let key = PrivateKeyDer::from_pem_slice(&content.bytes)
                .map_err(|_| at(format!("{} holds no private key", key.display())))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| at(e.to_string()))?
        }
    };
    Ok(Some(Arc::new(config)))
}
