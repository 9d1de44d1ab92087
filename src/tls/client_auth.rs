//! Client certificates: a chain to the configured anchors, and exactly one subject common name out
//! of the list.
//!
//! spec: "The XKS proxy MUST terminate the TLS handshake if the client presents a certificate
//! containing a different subject name or chained to a different certificate authority." It is the
//! subject's CN that the specification names; subject alternative names are not looked at.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext, VerifiedPath,
};
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::certificate::Certificate;
use super::name_constraints::DnsConstraints;
use super::settings::{ClientSettings, Report, SUBJECT_COMMON_NAMES, TRUST_ANCHORS};
use super::signature_budget::SignatureBudget;
use super::{pem_file, provider};
use crate::limits::CLIENT_CHAIN_CERTIFICATES_MAX;

/// Why a client certificate that chains to a trust anchor was refused all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectRefused {
    /// The subject has no common name.
    NoCommonName,
    /// The subject has more than one common name: which of them is meant would be anyone's guess.
    SeveralCommonNames,
    /// The common name is neither a UTF8String nor a PrintableString, or not valid as one.
    NotText,
    /// The common name is not in `tls.client.subject_common_names`.
    NotListed,
}

impl std::fmt::Display for SubjectRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoCommonName => {
                f.write_str("the client certificate's subject has no common name")
            }
            Self::SeveralCommonNames => {
                f.write_str("the client certificate's subject has several common names")
            }
            Self::NotText => f.write_str(
                "the client certificate's common name is neither UTF8String nor PrintableString",
            ),
            Self::NotListed => f.write_str(
                "the client certificate's common name is not in tls.client.subject_common_names",
            ),
        }
    }
}

impl std::error::Error for SubjectRefused {}

/// Why a client's certificates were not looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainRefused {
    /// It sent so many.
    TooManyCertificates(usize),
    /// They can be put together to chains in more ways than are tried.
    TooManySignatures,
}

impl std::fmt::Display for ChainRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooManyCertificates(sent) => write!(
                f,
                "the client sent {sent} certificates, and at most \
                 {CLIENT_CHAIN_CERTIFICATES_MAX} are looked at: its own and those of the \
                 authorities above it"
            ),
            Self::TooManySignatures => f.write_str(
                "the client's certificates have names that are alike, and can be put together in \
                 more ways than are tried",
            ),
        }
    }
}

impl std::error::Error for ChainRefused {}

/// None only with a problem in the report.
pub(super) fn load(settings: &ClientSettings, report: &mut Report) -> Option<Arc<ClientVerifier>> {
    if settings.subject_common_names.is_empty() {
        report.problem(
            SUBJECT_COMMON_NAMES,
            "no name: list the one AWS KMS presents, `cks.kms.REGION.amazonaws.com`",
        );
    }
    for name in &settings.subject_common_names {
        if name.is_empty() || name.trim() != name {
            report.problem(
                SUBJECT_COMMON_NAMES,
                format!(
                    "{name:?} is empty or has white space at an end, and names are compared \
                    byte for byte"
                ),
            );
        }
    }
    let anchors = match pem_file::certificates(&settings.trust_anchors) {
        Ok(anchors) => anchors,
        Err(message) => {
            report.problem(TRUST_ANCHORS, message);
            return None;
        }
    };
    let mut roots = RootCertStore::empty();
    let mut anchor_constraints = Vec::new();
    let mut trust_anchors = Vec::new();
    for (i, anchor) in anchors.into_iter().enumerate() {
        if let Ok((_, parsed)) = X509Certificate::from_der(&anchor) {
            trust_anchors.push(Certificate::of(&parsed, &anchor));
        }
        let constraints = DnsConstraints::of(&anchor).map_err(|error| error.to_string());
        let added = roots.add(anchor).map_err(|error| error.to_string());
        match added.and(constraints) {
            Ok(constraints) => anchor_constraints.push(constraints),
            Err(error) => report.problem(
                TRUST_ANCHORS,
                format!("certificate {} of {}: {error}", i + 1, settings.trust_anchors.display()),
            ),
        }
    }
    Some(Arc::new(ClientVerifier {
        root_hint_subjects: roots.subjects(),
        roots,
        anchor_constraints,
        trust_anchors,
        subject_common_names: settings.subject_common_names.clone(),
        purpose: if settings.require_client_auth_eku {
            Purpose::Client
        } else {
            Purpose::ClientOrServer
        },
        algorithms: provider::crypto_provider().signature_verification_algorithms,
    }))
}

/// rustls' own `WebPkiClientVerifier`, with three differences: the subject is checked, serverAuth
/// may do for clientAuth, and the work that a client can ask for is bounded.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    roots: RootCertStore,
    /// Of `roots`, one for each.
    anchor_constraints: Vec<DnsConstraints>,
    /// For log and status.
    pub(super) trust_anchors: Vec<Certificate>,
    root_hint_subjects: Vec<DistinguishedName>,
    subject_common_names: Vec<String>,
    purpose: Purpose,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    /// Whether the other one admits the same clients.
    pub(super) fn admits_the_same_as(&self, other: &ClientVerifier) -> bool {
        self.roots.roots == other.roots.roots
            && self.subject_common_names == other.subject_common_names
            && self.purpose == other.purpose
    }

    /// The whole judgement on a client's certificate; `now` decides on dates. The name of a refused
    /// one is left in [`refused_name`].
    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.judge(end_entity, intermediates, now).inspect_err(|_| refused_name::put(end_entity))
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let sent = 1 + intermediates.len();
        if sent > CLIENT_CHAIN_CERTIFICATES_MAX {
            return Err(other(ChainRefused::TooManyCertificates(sent)));
        }
        let budget = SignatureBudget::default();
        self.check_chain(end_entity, intermediates, now, &budget).map_err(|error| {
            if budget.is_exceeded() {
                other(ChainRefused::TooManySignatures)
            } else {
                rustls_error(error)
            }
        })?;
        // Only now: a subject that nobody vouches for is not worth taking apart.
        self.check_subject(end_entity).map_err(other)
    }

    fn check_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        budget: &SignatureBudget,
    ) -> Result<(), webpki::Error> {
        let limited = budget.limit(self.algorithms.all);
        let algorithms: Vec<&dyn SignatureVerificationAlgorithm> =
            limited.iter().map(|algorithm| algorithm as _).collect();
        EndEntityCert::try_from(end_entity)?
            .verify_for_usage(
                &algorithms,
                &self.roots.roots,
                intermediates,
                now,
                self.purpose,
                None,
                Some(&|path| self.check_name(end_entity, path)),
            )
            .map(|_path| ())
    }

    /// Whether the authorities of a path may vouch for the common name.
    fn check_name(
        &self,
        end_entity: &CertificateDer<'_>,
        path: &VerifiedPath<'_>,
    ) -> Result<(), webpki::Error> {
        // Without one name the client is refused by `check_subject`, which says why.
        let Ok((_, certificate)) = X509Certificate::from_der(end_entity) else { return Ok(()) };
        let Ok(name) = common_name(&certificate) else { return Ok(()) };
        let anchors = self.roots.roots.iter().zip(&self.anchor_constraints);
        let mut allowed = anchors
            .filter(|(anchor, _)| *anchor == path.anchor())
            .all(|(_, constraints)| constraints.allow(name));
        for authority in path.intermediate_certificates() {
            allowed &= DnsConstraints::of(&authority.der())?.allow(name);
        }
        if allowed { Ok(()) } else { Err(webpki::Error::NameConstraintViolation) }
    }

    fn check_subject(&self, end_entity: &CertificateDer<'_>) -> Result<(), SubjectRefused> {
        let Ok(([], certificate)) = X509Certificate::from_der(end_entity) else {
            return Err(SubjectRefused::NotText);
        };
        let name = common_name(&certificate)?;
        match self.subject_common_names.iter().any(|listed| listed == name) {
            true => Ok(()),
            false => Err(SubjectRefused::NotListed),
        }
    }
}

/// The common name of the client of a session, which its certificate was admitted by.
pub fn client_common_name(session: &rustls::ServerConnection) -> Option<String> {
    let certificate = session.peer_certificates()?.first()?;
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    common_name(&certificate).ok().map(str::to_owned)
}

/// The one common name of a certificate's subject.
fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, SubjectRefused> {
    let mut names = certificate.subject().iter_common_name();
    let name = names.next().ok_or(SubjectRefused::NoCommonName)?.attr_value();
    if names.next().is_some() {
        return Err(SubjectRefused::SeveralCommonNames);
    }
    // TeletexString, BMPString and UniversalString would need a conversion before the comparison,
    // and two readers of one certificate could disagree on it.
    if !matches!(name.tag(), Tag::Utf8String | Tag::PrintableString) {
        return Err(SubjectRefused::NotText);
    }
    std::str::from_utf8(name.data).map_err(|_| SubjectRefused::NotText)
}

/// A reason of ours in an error of rustls'.
fn other(why: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(why))).into()
}

/// The subject common name of the client certificate that was refused last on this thread, on its
/// way to the log.
///
/// A connection that rustls has failed is gone with the certificate, and its errors have no room
/// for a name, but for the one that becomes the alert certificate_unknown, and the client is to
/// get the fitting one. Whoever drives the handshake takes the name out in the same poll.
pub(super) mod refused_name {
    use std::cell::RefCell;

    use super::{CertificateDer, FromDer, X509Certificate};
    use crate::limits::COMMON_NAME_CHARS_MAX;

    thread_local! {
        static NAME: RefCell<Option<String>> = const { RefCell::new(None) };
    }

    /// Nothing checked this certificate: what it says is only what the client says of itself.
    pub(super) fn put(certificate: &CertificateDer<'_>) {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return };
        let names = certificate
            .subject()
            .iter_common_name()
            .map(|name| String::from_utf8_lossy(name.attr_value().data));
        let name = names.collect::<Vec<_>>().join(", ");
        // One character more than is shown, so that it is seen to be cut.
        NAME.set(Some(name.chars().take(COMMON_NAME_CHARS_MAX + 1).collect()));
    }

    pub(in crate::tls) fn take() -> Option<String> {
        NAME.take()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.root_hint_subjects
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What a certificate's extended key usage, if there is one, must include. Holds for the CAs
/// between leaf and anchor too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Client,
    ClientOrServer,
}

impl ExtendedKeyUsageValidator for Purpose {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut present = Vec::new();
        for purpose in purposes {
            let oid = purpose?.to_decoded_oid();
            if oid == KeyUsage::CLIENT_AUTH_REPR
                || (*self == Self::ClientOrServer && oid == KeyUsage::SERVER_AUTH_REPR)
            {
                return Ok(());
            }
            present.push(oid);
        }
        match present.is_empty() {
            true => Ok(()),
            false => {
                let required = KeyUsage::client_auth();
                Err(webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext {
                    required,
                    present,
                }))
            }
        }
    }
}

/// The variants rustls turns into the fitting TLS alert; the rest keeps its text.
fn rustls_error(error: webpki::Error) -> Error {
    match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            CertificateError::BadEncoding
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        unnamed => return other(unnamed),
    }
    .into()
}
