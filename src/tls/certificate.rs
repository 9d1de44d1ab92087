//! What there is to say of a certificate: the server's own, those above it, clients' authorities.

use std::fmt;

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::x509::X509Name;

use super::server_chain::shown;

/// A certificate, as far as who operates the server must tell it from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name; if it has none, the first DNS name, else the whole subject.
    pub subject: String,
    /// Serial number in hexadecimal, as `openssl x509 -serial` shows it.
    pub serial: String,
    /// The last moment at which it is valid.
    pub not_after: OffsetDateTime,
    /// Its whole subject and issuer.
    pub subject_name: Name,
    /// See `subject_name`.
    pub issuer_name: Name,
    /// The subject's common names.
    pub common_names: Vec<String>,
    /// DNS names among the subject's alternative names.
    pub dns_names: Vec<String>,
    /// SHA-256 of the whole certificate, as `openssl x509 -fingerprint -sha256` shows it.
    pub fingerprint: String,
}

/// A distinguished name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// For a person: `C=US, O=Amazon, CN=Amazon Root CA 1`.
    pub shown: String,
    /// Its common names, organizations and organizational units, in lower case and sorted: the same
    /// for the same authority, in whatever order and with whatever types of string it was written.
    pub parts: Vec<String>,
}

impl Name {
    fn of(name: &X509Name<'_>) -> Self {
        let organization = name.iter_organization();
        let unit = name.iter_organizational_unit();
        let mut parts: Vec<String> = name
            .iter_common_name()
            .chain(organization)
            .chain(unit)
            .filter_map(|part| part.as_str().ok())
            .map(str::to_lowercase)
            .collect();
        parts.sort_unstable();
        Self { shown: name.to_string(), parts }
    }
}

impl Certificate {
    /// `der` is what `certificate` was parsed from.
    pub(super) fn of(certificate: &X509Certificate<'_>, der: &CertificateDer<'_>) -> Self {
        let owned = |text: &str| text.to_owned();
        let common_names: Vec<String> = certificate
            .subject()
            .iter_common_name()
            .filter_map(|name| name.as_str().ok().map(owned))
            .collect();
        let names = certificate.subject_alternative_name().ok().flatten();
        let dns_names: Vec<String> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| dns_name(name).map(owned))
            .collect();
        // DER puts a zero before a first byte that would make the number negative (X.690, 8.3.3).
        let serial = match certificate.raw_serial() {
            [0, rest @ ..] if !rest.is_empty() => rest,
            serial => serial,
        };
        let subject_name = Name::of(certificate.subject());
        Self {
            subject: common_names
                .first()
                .or(dns_names.first())
                .unwrap_or(&subject_name.shown)
                .to_owned(),
            serial: hex(serial).concat(),
            not_after: certificate.validity().not_after.to_datetime(),
            subject_name,
            issuer_name: Name::of(certificate.issuer()),
            common_names,
            dns_names,
            fingerprint: hex(digest(&SHA256, der).as_ref()).join(":"),
        }
    }

    /// The end of its validity for a person: `2027-01-31 23:59:59 UTC`.
    pub fn not_after_shown(&self) -> String {
        shown(self.not_after)
    }
}

fn hex(bytes: &[u8]) -> Vec<String> {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn dns_name<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    if let GeneralName::DNSName(name) = name { Some(name) } else { None }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}, serial {}, valid until {}",
            self.subject,
            self.serial,
            self.not_after_shown()
        )
    }
}
