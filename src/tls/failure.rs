//! Why a handshake failed, in labels for metrics and the log.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::client_auth::SubjectRefused;

/// The label of what a handshake over a socket ended with: rustls' errors arrive wrapped in [`io::Error`].
pub fn handshake_failure_label(error: &io::Error) -> &'static str {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return tls_failure_label(error);
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            "closed"
        }
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "timeout",
        _ => "other",
    }
}

/// The label of a rustls error.
pub fn tls_failure_label(error: &Error) -> &'static str {
    match error {
        // The first byte is no TLS record's: plain HTTP, a PROXY protocol header, a port scan.
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "not_tls",
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => "malformed",
        Error::PeerMisbehaved(_) | Error::PeerSentOversizedRecord | Error::DecryptError => "malformed",
        Error::PeerIncompatible(why) => incompatible(why),
        Error::NoApplicationProtocol => "no_shared_protocol",
        Error::NoCertificatesPresented => "no_certificate",
        Error::InvalidCertificate(why) => client_certificate(why),
        Error::AlertReceived(alert) => alert_received(*alert),
        _ => "other",
    }
}

fn incompatible(why: &PeerIncompatible) -> &'static str {
    match why {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        // TLS 1.2 brought this extension, and rustls looks for it first: who lacks it speaks something older.
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => "unsupported_version",
        PeerIncompatible::NoCipherSuitesInCommon
        | PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NamedGroupsExtensionRequired
        | PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => "no_shared_cipher",
        _ => "malformed",
    }
}

fn client_certificate(why: &CertificateError) -> &'static str {
    match why {
        CertificateError::UnknownIssuer => "unknown_issuer",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not_yet_valid",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => "wrong_purpose",
        CertificateError::BadSignature => "bad_signature",
        CertificateError::Other(other) if other.0.downcast_ref::<SubjectRefused>().is_some() => "wrong_subject",
        _ => "bad_certificate",
    }
}

/// What the client said when it gave up.
fn alert_received(alert: AlertDescription) -> &'static str {
    match alert {
        // The client does not accept our certificate: what the on-call must hear when KMS does not trust the chain.
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA => "certificate_refused",
        AlertDescription::CloseNotify | AlertDescription::UserCanceled => "closed",
        _ => "alert",
    }
}
