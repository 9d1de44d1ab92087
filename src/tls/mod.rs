//! TLS: the server's certificate and key, the four cipher suites of the specification, client
//! certificates.
//!
//! [`check`] reads what [`Settings`] names and tells everything that is wrong with it. [`server`]
//! does the same and makes a [`Server`], one generation of TLS for all shards. A reload makes a new
//! generation, never changes one.
//!
//! Resumption: a resumed handshake does not run the client verifier, so two fences stand around it.
//! Each generation has a ticketer of its own: a ticket given under another CA or another list of
//! names opens to nothing and the handshake is a full one. Within a generation, [`Server::confirm`]
//! verifies the certificate that came out of a ticket anew, so that one which has expired meanwhile
//! is refused as it would be in a full handshake.

mod accept;
mod certificate;
mod chain;
mod client_auth;
mod failure;
mod identity;
mod pem_file;
mod provider;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::{CommonState, HandshakeKind, ServerConfig};
use time::OffsetDateTime;

pub use accept::HandshakeFailure;
pub use certificate::Certificate;
pub use client_auth::SubjectRefused;
pub use failure::{handshake_failure_label, tls_failure_label};

use client_auth::ClientVerifier;
use identity::Identity;

/// `[tls]` of the configuration; paths are absolute or relative to the working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// PEM: the server's certificate first, then its issuer, and so on; the root may be left out.
    pub certificate_chain: PathBuf,
    /// PEM, not encrypted: PKCS#8, PKCS#1 or SEC1; RSA of 2048 to 4096 bits, ECDSA P-256 or P-384.
    pub private_key: PathBuf,
    /// `[tls.client]`: mutual TLS. Without it no client certificate is asked for.
    pub client: Option<ClientSettings>,
}

/// `[tls.client]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// PEM: the CAs to which client certificates must chain.
    pub trust_anchors: PathBuf,
    /// The subject common names accepted, compared byte for byte: upper and lower case differ.
    pub subject_common_names: Vec<String>,
    /// Whether an extended key usage, where the certificate has one, must include clientAuth.
    /// Public CAs no longer issue that: without this requirement serverAuth is as good. A
    /// certificate without the extension is good for both (RFC 5280, 4.2.1.12).
    pub require_client_auth_eku: bool,
}

/// Something an operator must put right ([`Report::problems`]) or should know
/// ([`Report::warnings`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Key path in the configuration: `tls.private_key`.
    pub key: &'static str,
    /// What is wrong and what to do about it, without anything secret.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// All that [`check`] has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// With any of these [`server`] fails.
    pub problems: Vec<Problem>,
    /// With these it serves, but perhaps not KMS, or not for long.
    pub warnings: Vec<Problem>,
}

impl Report {
    fn problem(&mut self, key: &'static str, message: impl Into<String>) {
        self.problems.push(Problem { key, message: message.into() });
    }

    fn warning(&mut self, key: &'static str, message: impl Into<String>) {
        self.warnings.push(Problem { key, message: message.into() });
    }
}

const CERTIFICATE_CHAIN: &str = "tls.certificate_chain";
const PRIVATE_KEY: &str = "tls.private_key";
const TRUST_ANCHORS: &str = "tls.client.trust_anchors";
const SUBJECT_COMMON_NAMES: &str = "tls.client.subject_common_names";

/// Reads the files and tells every problem and warning at once. Changes nothing.
pub fn check(settings: &Settings) -> Report {
    load(settings, OffsetDateTime::now_utc()).0
}

/// A new generation of TLS: checks as [`check`] does, then builds; [`Server::warnings`] tells the
/// rest. Call once for all shards, and again for a reload.
pub fn server(settings: &Settings) -> Result<Server, Vec<Problem>> {
    let (report, material) = load(settings, OffsetDateTime::now_utc());
    let Some(material) = material else { return Err(report.problems) };
    let Identity { certified_key, certificates } = material.identity;
    provider::server_config(certified_key, material.client.clone())
        .map(|config| Server {
            config,
            client: material.client,
            certificates,
            warnings: report.warnings,
        })
        .map_err(|error| vec![Problem { key: "tls", message: error.to_string() }])
}

/// What the files hold, once they have passed every check.
struct Material {
    identity: Identity,
    client: Option<Arc<ClientVerifier>>,
}

/// `Material` exactly when the report has no problems.
fn load(settings: &Settings, now: OffsetDateTime) -> (Report, Option<Material>) {
    let mut report = Report::default();
    let identity = identity::load(settings, now, &mut report);
    let client = settings.client.as_ref().map(|client| client_auth::load(client, &mut report));
    let material = match (identity, client) {
        (Some(identity), None) => Some(Material { identity, client: None }),
        (Some(identity), Some(Some(client))) => Some(Material { identity, client: Some(client) }),
        _ => None,
    };
    let material = material.filter(|_| report.problems.is_empty());
    (report, material)
}

/// One generation of TLS, shared by all shards: configuration, ticket keys and client verifier
/// belong together.
#[derive(Clone, Debug)]
pub struct Server {
    config: Arc<ServerConfig>,
    client: Option<Arc<ClientVerifier>>,
    certificates: Vec<Certificate>,
    warnings: Vec<Problem>,
}

impl Server {
    /// What [`check`] warned of when the files were read.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// The certificates that clients are shown: the server's own, then those above it.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// What a connection is accepted with.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// To be called when a handshake is complete and before any of its application data is used; on
    /// an error the connection must be closed. Costs nothing after a full handshake; after a
    /// resumed one with mutual TLS, the client's certificate is verified as it stands now.
    pub fn confirm(&self, connection: &CommonState) -> Result<(), rustls::Error> {
        self.confirm_at(connection, UnixTime::now())
    }

    fn confirm_at(&self, connection: &CommonState, now: UnixTime) -> Result<(), rustls::Error> {
        let Some(client) = &self.client else { return Ok(()) };
        match connection.handshake_kind() {
            Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) => Ok(()),
            Some(HandshakeKind::Resumed) => match connection.peer_certificates() {
                Some([end_entity, intermediates @ ..]) => {
                    client.verify(end_entity, intermediates, now)
                }
                _ => Err(rustls::Error::NoCertificatesPresented),
            },
            None => Err(rustls::Error::HandshakeNotComplete),
        }
    }
}
