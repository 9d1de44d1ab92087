//! The TLS of a client of etcd and of peers.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::config::Fleet;
use crate::tls::{client, pem_file};

/// Of this configuration; `None` where nothing needs it.
///
/// # Errors
/// A sentence for the operator.
pub fn of(fleet: &Fleet) -> Result<Option<Arc<ClientConfig>>, String> {
    let Some(trust_anchors) = &fleet.trust_anchors else { return Ok(None) };
    let builder = client::trusting_file(trust_anchors)
        .map_err(|why| format!("fleet.trust_anchors: {why}"))?;
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
