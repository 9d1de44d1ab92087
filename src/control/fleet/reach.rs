//! How etcd or peers are reached. A reload may bring another way.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::config::{Fleet, Shared, Url};
use crate::secret::SecretString;
use crate::tls::{client, pem_file};

/// Where they are, and who asks.
pub struct Reach {
    /// The members of etcd, or the peers.
    pub(super) urls: Vec<Url>,
    /// `None` where nothing needs it.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Of etcd.
    pub(super) user: Option<(String, SecretString)>,
}

impl Reach {
    /// Of this configuration. Reads its certificates.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn of(fleet: &Fleet) -> Result<Reach, String> {
        let (urls, user) = match &fleet.shared {
            Shared::Peers(peers) => (peers.clone(), None),
            Shared::Etcd(etcd) => (etcd.endpoints.clone(), etcd.user.clone()),
        };
        Ok(Reach { urls, tls: tls(fleet)?, user })
    }
}

fn tls(fleet: &Fleet) -> Result<Option<Arc<ClientConfig>>, String> {
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
