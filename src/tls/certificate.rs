//! What log, status and metrics say of the certificates that the server shows.

use std::fmt;

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::chain::shown;

/// One certificate of the server's chain, as far as operators must distinguish it from
/// another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name; where it has none, the first DNS name, else the whole subject.
    pub subject: String,
    /// Serial number in hexadecimal, as `openssl x509 -serial` shows it.
    pub serial: String,
    /// The last moment at which it is valid.
    pub not_after: OffsetDateTime,
}

impl Certificate {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let common_name =
            certificate.subject().iter_common_name().find_map(|name| name.as_str().ok());
        let names = certificate.subject_alternative_name().ok().flatten();
        let dns_name =
            || names.iter().flat_map(|names| &names.value.general_names).find_map(dns_name);
        // DER puts a zero before a first byte that would make the number negative (X.690, 8.3.3).
        let serial = match certificate.raw_serial() {
            [0, rest @ ..] if !rest.is_empty() => rest,
            serial => serial,
        };
        Self {
            subject: common_name
                .or_else(dns_name)
                .map_or_else(|| certificate.subject().to_string(), ToOwned::to_owned),
            serial: serial.iter().map(|byte| format!("{byte:02X}")).collect(),
            not_after: certificate.validity().not_after.to_datetime(),
        }
    }

    /// The end of its validity for a person: `2027-01-31 23:59:59 UTC`.
    pub fn not_after_shown(&self) -> String {
        shown(self.not_after)
    }
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
