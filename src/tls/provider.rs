//! The rustls configuration: suites, versions, ALPN, tickets.

use std::sync::Arc;

use rustls::crypto::ring::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedCipherSuite};

use crate::limits::TLS13_TICKETS;

/// spec: "at least one of these cipher suites"; all of them, and no other.
const CIPHER_SUITES: [SupportedCipherSuite; 4] = [
    TLS13_AES_256_GCM_SHA384,
    TLS13_CHACHA20_POLY1305_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

/// ring with the four suites of the specification.
pub(super) fn crypto_provider() -> CryptoProvider {
    CryptoProvider { cipher_suites: CIPHER_SUITES.to_vec(), ..ring::default_provider() }
}

/// A configuration with its own ticketer: no ticket of an earlier configuration resumes under
/// this one.
pub(super) fn server_config(
    identity: Arc<CertifiedKey>,
    client: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(crypto_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?;
    let builder = match client {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    // spec: "The XKS proxy MUST be able to fall back to HTTP 1.1." A client that offers h2 first
    // gets http/1.1; one that offers no ALPN at all is served; one that offers only h2 ends with
    // no_application_protocol.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Only tickets: their key is shared by all shards, so a client may resume on whichever shard
    // accepts it.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = ring::Ticketer::new()?;
    config.send_tls13_tickets = TLS13_TICKETS;
    // Early data could be replayed: an attacker would have a recorded Decrypt done again.
    config.max_early_data_size = 0;
    // Nothing is sent before the client's Finished, and with it the client's certificate, is
    // verified.
    config.send_half_rtt_data = false;
    Ok(Arc::new(config))
}
