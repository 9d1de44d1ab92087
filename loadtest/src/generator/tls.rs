//! TLS as the client.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore, SupportedProtocolVersion,
};

use crate::target::Target;

/// Versions to offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Versions {
    /// Both; the proxy chooses.
    #[default]
    Any,
    /// TLS 1.2 only.
    #[value(name = "1.2")]
    Tls12,
    /// TLS 1.3 only.
    #[value(name = "1.3")]
    Tls13,
}

impl Versions {
    fn list(self) -> Vec<&'static SupportedProtocolVersion> {
        let (tls12, tls13) = (&rustls::version::TLS12, &rustls::version::TLS13);
        match self {
            Versions::Any => vec![tls13, tls12],
            Versions::Tls12 => vec![tls12],
            Versions::Tls13 => vec![tls13],
        }
    }
}

/// Configuration and name for the connections of one worker.
///
/// # Errors
/// A sentence with the file that cannot be used.
pub fn client(
    target: &Target,
    versions: Versions,
    resume: bool,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let file = |path: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(&target.ca).map_err(|e| file(&target.ca, &e))?
    {
        // Bundles of public authorities hold some that cannot be used; the handshake tells when the
        // needed one is missing.
        let _ = roots.add(certificate.map_err(|e| file(&target.ca, &e))?);
    }
    if roots.is_empty() {
        return Err(format!("{}: no certificate that can be trusted", target.ca.display()));
    }
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&versions.list())
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots);
    let mut config = match &target.client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let certificates = CertificateDer::pem_file_iter(chain)
                .and_then(|c| c.collect::<Result<Vec<_>, _>>())
                .map_err(|e| file(chain, &e))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| file(key, &e))?;
            builder.with_client_auth_cert(certificates, key).map_err(|e| file(chain, &e))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if !resume {
        config.resumption = Resumption::disabled();
    }
    let name =
        ServerName::try_from(target.name.clone()).map_err(|e| format!("{}: {e}", target.name))?;
    Ok((Arc::new(config), name))
}

/// What is reported with an error of TLS: which option would help, if the error says so.
pub struct Hints {
    ca: PathBuf,
    has_certificate: bool,
}

impl Hints {
    /// Those for a target.
    pub fn of(target: &Target) -> Hints {
        Hints { ca: target.ca.clone(), has_certificate: target.client.is_some() }
    }

    /// The error, with a hint behind it. In TLS 1.3 a refused client certificate is heard of only
    /// after the handshake.
    pub fn explain(&self, error: &std::io::Error) -> String {
        match tls_error(error).and_then(|tls| self.hint(tls)) {
            Some(hint) => format!("{error}; {hint}"),
            None => error.to_string(),
        }
    }

    fn hint(&self, error: &rustls::Error) -> Option<String> {
        use AlertDescription::{
            AccessDenied, BadCertificate, CertificateExpired, CertificateRequired,
            CertificateRevoked, CertificateUnknown, DecryptError, HandshakeFailure, UnknownCA,
            UnsupportedCertificate,
        };
        use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage};
        match error {
            // BadSignature: an authority of the same name, but another key.
            InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => Some(format!(
                "no authority in {} has issued the proxy's certificate: give --ca FILE, or have \
                 the proxy send its intermediate certificates",
                self.ca.display()
            )),
            InvalidMessage(rustls::InvalidMessage::InvalidContentType) => Some(
                "no TLS there: is \
                this the port of the XKS API?"
                    .to_owned(),
            ),
            AlertReceived(CertificateRequired | BadCertificate | UnknownCA | HandshakeFailure)
                if !self.has_certificate =>
            {
                Some(
                    "does the proxy want a client certificate? give --client-certificate and \
                    --client-key"
                        .to_owned(),
                )
            }
            AlertReceived(
                AccessDenied
                | BadCertificate
                | CertificateExpired
                | CertificateRevoked
                | CertificateUnknown
                | DecryptError
                | UnknownCA
                | UnsupportedCertificate,
            ) if self.has_certificate => Some(
                "the proxy refuses the certificate of --client-certificate: its issuer, subject \
                 common name, purpose or dates"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// The error of TLS in one of a connection; `None` where TLS has none of its own.
pub fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}
