//! TLS as the client.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore, SupportedProtocolVersion};

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
pub fn client(target: &Target, versions: Versions, resume: bool) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let file = |path: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&target.ca).map_err(|e| file(&target.ca, &e))? {
        // Bundles of public authorities hold some that cannot be used; the handshake tells when the needed one is missing.
        let _ = roots.add(certificate.map_err(|e| file(&target.ca, &e))?);
    }
    if roots.is_empty() {
        return Err(format!("{}: no certificate that can be trusted", target.ca.display()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&versions.list())
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let mut config = match &target.client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let certificates =
                CertificateDer::pem_file_iter(chain).and_then(|c| c.collect::<Result<Vec<_>, _>>()).map_err(|e| file(chain, &e))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| file(key, &e))?;
            builder.with_client_auth_cert(certificates, key).map_err(|e| file(chain, &e))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if !resume {
        config.resumption = Resumption::disabled();
    }
    let name = ServerName::try_from(target.name.clone()).map_err(|e| format!("{}: {e}", target.name))?;
    Ok((Arc::new(config), name))
}

/// A failed handshake, and which option would help where the failure says so.
pub fn explain(error: &std::io::Error, ca: &Path) -> String {
    use rustls::Error::{InvalidCertificate, InvalidMessage};
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        // BadSignature: an authority of the same name, but another key.
        Some(InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => format!(
            "{error}; no authority in {} has issued the proxy's certificate: give --ca FILE, or have the proxy send its intermediate certificates",
            ca.display()
        ),
        Some(InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            format!("{error}; no TLS there: is this the port of the XKS API?")
        }
        _ => error.to_string(),
    }
}
