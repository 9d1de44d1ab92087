//! Name constraints of authorities, held against a common name.
//!
//! webpki checks the names of the SAN. A client is known by the common name of its subject, which
//! RFC 5280 leaves out of the constraints on DNS names: an authority that may issue for one domain
//! only could vouch for AWS KMS.

use rustls::pki_types::CertificateDer;
use webpki::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, GeneralSubtree, NameConstraints};
use x509_parser::prelude::FromDer;

/// What an authority may issue certificates for, of the names of the DNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DnsConstraints {
    /// Where there is one, a name must be below one of them.
    permitted: Vec<String>,
    excluded: Vec<String>,
}

impl DnsConstraints {
    /// Those in the certificate of an authority.
    ///
    /// # Errors
    /// What webpki would say.
    pub(super) fn of(authority: &CertificateDer<'_>) -> Result<Self, Error> {
        let (_, certificate) = X509Certificate::from_der(authority).map_err(|_| Error::BadDer)?;
        let constraints =
            certificate.name_constraints().map_err(|_| Error::MalformedNameConstraint)?;
        Ok(constraints.map_or_else(Self::default, |constraints| Self::read(constraints.value)))
    }

    fn read(constraints: &NameConstraints<'_>) -> Self {
        let names = |subtrees: &Option<Vec<GeneralSubtree<'_>>>| {
            let bases = subtrees.iter().flatten().map(|subtree| &subtree.base);
            bases
                .filter_map(|base| match base {
                    GeneralName::DNSName(name) => Some((*name).to_owned()),
                    _ => None,
                })
                .collect()
        };
        Self {
            permitted: names(&constraints.permitted_subtrees),
            excluded: names(&constraints.excluded_subtrees),
        }
    }

    /// Whether the authority may issue for this common name. One that is no name of the DNS is not
    /// what they are about.
    pub(super) fn allow(&self, common_name: &str) -> bool {
        let name = common_name.strip_suffix('.').unwrap_or(common_name);
        let covers = |base: &String| is_below(name, base);
        !is_dns_name(name)
            || (self.permitted.is_empty() || self.permitted.iter().any(covers))
                && !self.excluded.iter().any(covers)
    }
}

/// Of two labels at least: one word is a name that someone gave to a client.
fn is_dns_name(name: &str) -> bool {
    let in_label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '*');
    name.contains('.')
        && name.split('.').all(|label| !label.is_empty() && label.chars().all(in_label))
}

/// RFC 5280, 4.2.1.10: "Any DNS name that can be constructed by simply adding zero or more labels
/// to the left-hand side of the name satisfies the name constraint." With a dot in front one label
/// at least is added, as other implementations have it.
fn is_below(name: &str, base: &str) -> bool {
    let Some(split) = name.len().checked_sub(base.len()) else { return false };
    let (added, rest) = name.as_bytes().split_at(split);
    rest.eq_ignore_ascii_case(base.as_bytes())
        && (added.is_empty() || base.is_empty() || base.starts_with('.') || added.ends_with(b"."))
}
