//! One generation of TLS: checked, built, and asked whether a connection may stay.

use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CommonState, HandshakeKind, ServerConfig};
use time::OffsetDateTime;

use super::certificate::Certificate;
use super::client_auth::{self, ClientVerifier};
use super::identity::{self, Identity};
use super::provider;
use super::settings::{Problem, Report, Settings};

/// Reads the files and returns every problem and warning at once. Changes nothing.
pub fn check(settings: &Settings) -> Report {
    load(settings, OffsetDateTime::now_utc()).0
}

/// A new generation of TLS: checks as [`check`] does, then builds; [`Server::warnings`] has the
/// rest. Call once for all shards, and again for a reload.
pub fn server(settings: &Settings) -> Result<Server, Vec<Problem>> {
    let (report, material) = load(settings, OffsetDateTime::now_utc());
    let Some(material) = material else { return Err(report.problems) };
    let Identity { certified_key, certificates } = material.identity;
    let verifier = material.client.clone().map(|client| client as Arc<dyn ClientCertVerifier>);
    provider::server_config(certified_key, verifier)
        .map(|config| Server {
            config,
            client: material.client,
            certificates,
            warnings: report.warnings,
        })
        .map_err(|error| vec![Problem { key: "tls", message: error.to_string() }])
}

/// What the files hold, once they have passed every check.
pub(super) struct Material {
    identity: Identity,
    client: Option<Arc<ClientVerifier>>,
}

/// `Material` exactly when the report has no problems.
pub(super) fn load(settings: &Settings, now: OffsetDateTime) -> (Report, Option<Material>) {
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

    /// The authorities that clients' certificates must come from; none where any client may
    /// connect.
    pub fn trust_anchors(&self) -> &[Certificate] {
        self.client.as_ref().map_or(&[], |client| &client.trust_anchors)
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

    /// Whether a client that `former` admitted is admitted by this generation as well. A reload may
    /// have taken its name off the list, or its authority out of the anchors.
    pub(super) fn still_admits(
        &self,
        former: &Server,
        connection: &CommonState,
    ) -> Result<(), rustls::Error> {
        let Some(client) = &self.client else { return Ok(()) };
        if former.client.as_ref().is_some_and(|before| before.admits_the_same_as(client)) {
            return Ok(());
        }
        match connection.peer_certificates() {
            Some([end_entity, intermediates @ ..]) => {
                client.verify(end_entity, intermediates, UnixTime::now())
            }
            _ => Err(rustls::Error::NoCertificatesPresented),
        }
    }

    pub(super) fn confirm_at(
        &self,
        connection: &CommonState,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
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
