//! How etcd or peers are reached. A reload may bring another way.

use std::sync::Arc;

use rustls::ClientConfig;

use crate::config::{Fleet, Shared, Url};
use crate::secret::SecretString;
use crate::tls::client::{self, NotUsable};

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
    let config = match fleet.etcd().and_then(|etcd| etcd.client.as_ref()) {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            client::with_certificate(builder, (chain, key)).map_err(|why| match why {
                NotUsable::Chain(why) => format!("fleet.etcd.client_certificate: {why}"),
                NotUsable::Key(why) => format!("fleet.etcd.client_private_key: {why}"),
            })?
        }
    };
    Ok(Some(Arc::new(config)))
}
