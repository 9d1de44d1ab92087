//! Why a handshake failed: in labels for metrics and the log, and in words for the log.

use std::io;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use time::OffsetDateTime;

use super::client_auth::{ChainRefused, SubjectRefused};
use super::server_chain;

/// The label of what a handshake over a socket ended with: rustls' errors arrive wrapped in
/// [`io::Error`].
pub fn handshake_failure_label(error: &io::Error) -> &'static str {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return tls_failure_label(error);
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => "closed",
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "timeout",
        _ => "other",
    }
}

/// The label of a rustls error.
pub fn tls_failure_label(error: &Error) -> &'static str {
    match error {
        // The first byte is no TLS record's: plain HTTP, a PROXY protocol header, a port scan.
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "not_tls",
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => "malformed",
        Error::PeerMisbehaved(_) | Error::PeerSentOversizedRecord | Error::DecryptError => {
            "malformed"
        }
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
        // TLS 1.2 brought this extension, and rustls looks for it first: who lacks it speaks
        // something older.
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
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "not_yet_valid"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "wrong_purpose"
        }
        CertificateError::BadSignature => "bad_signature",
        CertificateError::Other(other) if other.0.downcast_ref::<SubjectRefused>().is_some() => {
            "wrong_subject"
        }
        CertificateError::Other(other) if other.0.downcast_ref::<ChainRefused>().is_some() => {
            "chain_too_long"
        }
        _ => "bad_certificate",
    }
}

/// What the client said when it gave up.
fn alert_received(alert: AlertDescription) -> &'static str {
    match alert {
        // The client does not accept our certificate: what the on-call must see when KMS does not
        // trust the chain.
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

/// A rustls error in words. Those on client certificates have a sentence each, since rustls shows
/// most of them, and webpki all, as the names of their variants.
pub(super) fn tls_failure_words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(why) => client_certificate_words(why),
        _ => error.to_string(),
    }
}

/// "The chain" is the client's certificate and what it sent along: neither rustls nor webpki
/// says which of them failed.
fn client_certificate_words(why: &CertificateError) -> String {
    use CertificateError as E;
    let words = match why {
        E::BadEncoding => "a certificate of the chain cannot be read: it is not X.509 in DER",
        E::Expired => "a certificate of the chain has expired",
        E::ExpiredContext { not_after, .. } => {
            return format!("a certificate of the chain expired on {}", date(*not_after));
        }
        E::NotValidYet => "a certificate of the chain is not valid yet",
        E::NotValidYetContext { not_before, .. } => {
            return format!("a certificate of the chain is not valid before {}", date(*not_before));
        }
        E::UnknownIssuer => {
            "the chain does not end in an authority of tls.client.trust_anchors; perhaps the \
             client leaves out an intermediate certificate"
        }
        E::BadSignature => {
            "a signature is wrong: an authority in the chain has the name of its issuer and \
             another key, or the client has not the private key of its certificate"
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "the extended key usage of a certificate of the chain does not allow TLS clients; see \
             tls.client.require_client_auth_eku"
        }
        E::UnhandledCriticalExtension => UNKNOWN_EXTENSION,
        #[allow(deprecated, reason = "older code may still make it")]
        E::UnsupportedSignatureAlgorithm => UNKNOWN_ALGORITHM,
        E::UnsupportedSignatureAlgorithmContext { .. } => UNKNOWN_ALGORITHM,
        E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => WRONG_ALGORITHM,
        E::Other(other) => {
            let why = &other.0;
            return match why.downcast_ref::<webpki::Error>() {
                Some(why) => chain_words(why),
                None if why.is::<SubjectRefused>() || why.is::<ChainRefused>() => why.to_string(),
                None => format!("the client's certificate was refused: {why}"),
            };
        }
        // Of names, revocation lists and OCSP answers, none of which is looked at in a client's
        // certificate.
        other => return format!("the client's certificate was refused: {other}"),
    };
    words.to_owned()
}

const UNKNOWN_EXTENSION: &str =
    "a certificate of the chain has a critical extension that is not known here";
const UNKNOWN_ALGORITHM: &str =
    "a certificate of the chain is signed with an algorithm that is not supported";
const WRONG_ALGORITHM: &str = "a signature was made with another algorithm than the key is for, or \
    the key is of a kind that is not supported";

/// What webpki found in a chain and `rustls_error` of `client_auth` has no rustls error for.
fn chain_words(why: &webpki::Error) -> String {
    use webpki::Error as E;
    let words = match why {
        E::CaUsedAsEndEntity => {
            "the client's certificate is that of an authority (basic constraints: CA), which is \
             not accepted as a client's own"
        }
        E::EndEntityUsedAsCa => {
            "a certificate of the chain has issued the one before it and is not that of an \
             authority (basic constraints: no CA)"
        }
        E::EmptyEkuExtension => {
            "a certificate of the chain has an extended key usage that allows nothing"
        }
        E::ExtensionValueInvalid
        | E::MalformedExtensions
        | E::MalformedNameConstraint
        | E::InvalidNetworkMaskConstraint => {
            "a certificate of the chain has an extension that cannot be read"
        }
        E::InvalidCertValidity => {
            "a certificate of the chain has a validity that ends before it begins"
        }
        E::InvalidSerialNumber => {
            "a certificate of the chain has a serial number that is negative, zero or too long"
        }
        E::MalformedDnsIdentifier | E::UnsupportedNameType => {
            "a certificate of the chain has a name that cannot be read"
        }
        E::MaximumNameConstraintComparisonsExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumSignatureChecksExceeded => {
            "the chain is too long, or of too many certificates, to be followed"
        }
        E::NameConstraintViolation => {
            "an authority in the chain may not issue certificates for such a name (name \
             constraints)"
        }
        E::PathLenConstraintViolated => {
            "an authority in the chain may not have so many authorities below it (path length \
             constraint)"
        }
        E::SignatureAlgorithmMismatch => {
            "a certificate of the chain names two different algorithms for its signature"
        }
        E::UnsupportedCertVersion => "a certificate of the chain is not of X.509 version 3",
        E::UnsupportedCriticalExtension => UNKNOWN_EXTENSION,
        #[allow(deprecated, reason = "older code may still make it")]
        E::UnsupportedSignatureAlgorithm => UNKNOWN_ALGORITHM,
        E::UnsupportedSignatureAlgorithmContext(_) => UNKNOWN_ALGORITHM,
        #[allow(deprecated, reason = "older code may still make it")]
        E::UnsupportedSignatureAlgorithmForPublicKey => WRONG_ALGORITHM,
        E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => WRONG_ALGORITHM,
        // Of revocation lists, which are not used.
        other => return format!("the client's certificate was refused: {other}"),
    };
    words.to_owned()
}

fn date(time: UnixTime) -> String {
    let instant = i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    instant.map_or_else(|| format!("second {} of Unix time", time.as_secs()), server_chain::shown)
}
