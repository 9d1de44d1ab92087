//! What `[tls]` of the configuration says, and what is said of it.

use std::path::PathBuf;

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

/// All that [`check`](super::check) has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// With any of these [`server`](super::server) fails.
    pub problems: Vec<Problem>,
    /// With these it serves, but perhaps not KMS, or not for long.
    pub warnings: Vec<Problem>,
}

impl Report {
    pub(super) fn problem(&mut self, key: &'static str, message: impl Into<String>) {
        self.problems.push(Problem { key, message: message.into() });
    }

    pub(super) fn warning(&mut self, key: &'static str, message: impl Into<String>) {
        self.warnings.push(Problem { key, message: message.into() });
    }
}

pub(super) const CERTIFICATE_CHAIN: &str = "tls.certificate_chain";
pub(super) const PRIVATE_KEY: &str = "tls.private_key";
pub(super) const TRUST_ANCHORS: &str = "tls.client.trust_anchors";
pub(super) const SUBJECT_COMMON_NAMES: &str = "tls.client.subject_common_names";
