//! Checks on the server's certificate chain: order, signatures, dates, names.
//!
//! rustls sends whatever it is given; a client that gets half a chain fails somewhere else, without
//! telling us why.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use time::macros::format_description;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::settings::{CERTIFICATE_CHAIN, Report};
use crate::limits::CERTIFICATE_EXPIRY_WARNING;

/// The certificates taken apart, or which of them cannot be.
pub(super) fn parse<'a>(
    certificates: &'a [CertificateDer<'_>],
) -> Result<Vec<X509Certificate<'a>>, String> {
    certificates
        .iter()
        .enumerate()
        .map(|(i, der)| match X509Certificate::from_der(der) {
            Ok(([], certificate)) => Ok(certificate),
            Ok(_) => {
                Err(format!("certificate {} is followed by stray bytes in its PEM section", i + 1))
            }
            Err(error) => {
                Err(format!("certificate {} is not a valid X.509 certificate: {error}", i + 1))
            }
        })
        .collect()
}

/// `chain` has at least one certificate.
pub(super) fn check(
    chain: &[X509Certificate<'_>],
    file: &Path,
    now: OffsetDateTime,
    report: &mut Report,
) {
    for (i, certificate) in chain.iter().enumerate() {
        check_dates(&name(chain, i, file), certificate, now, report);
    }
    for i in 0..chain.len() {
        check_link(chain, i, file, report);
    }
    if let Some(leaf) = chain.first() {
        check_leaf(&name(chain, 0, file), leaf, report);
    }
}

/// How a message calls the certificate at `i`: `certificate 2 of chain.pem (CN=Example CA)`.
fn name(chain: &[X509Certificate<'_>], i: usize, file: &Path) -> String {
    format!("certificate {} of {} ({})", i + 1, file.display(), chain[i].subject())
}

fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == certificate.subject().as_raw()
}

/// The certificate at `i` must have been issued by the one that follows it.
fn check_link(chain: &[X509Certificate<'_>], i: usize, file: &Path, report: &mut Report) {
    let certificate = &chain[i];
    let this = name(chain, i, file);
    let Some(next) = chain.get(i + 1) else {
        return check_last(certificate, i, &this, report);
    };
    if certificate.issuer().as_raw() != next.subject().as_raw() {
        return report.problem(CERTIFICATE_CHAIN, misplaced(chain, i, &this, next));
    }
    if !next.is_ca() {
        report.problem(
            CERTIFICATE_CHAIN,
            format!("{} is not a CA, so clients do not accept {this}", name(chain, i + 1, file)),
        );
    }
    match certificate.verify_signature(Some(next.public_key())) {
        Ok(()) => {}
        Err(X509Error::SignatureUnsupportedAlgorithm) => report.warning(
            CERTIFICATE_CHAIN,
            format!("the signature of {this} is of a kind that xksd cannot verify"),
        ),
        Err(_) => report.problem(
            CERTIFICATE_CHAIN,
            format!(
                "{this} was not signed with the key of certificate {}, though its issuer has that \
                 name: another generation of the CA?",
                i + 2
            ),
        ),
    }
}

/// None follows it.
fn check_last(certificate: &X509Certificate<'_>, i: usize, this: &str, report: &mut Report) {
    // Nothing shows whether the issuer of the last one is a root, which may be left out, but
    // for a leaf by itself it is unlikely: public CAs issue from intermediates. A private root
    // that issued it directly is legitimate.
    if i == 0 && is_self_issued(certificate) {
        report.warning(
            CERTIFICATE_CHAIN,
            format!("{this} is self-signed: AWS KMS accepts certificates of public CAs only"),
        );
    } else if i == 0 {
        report.warning(
            CERTIFICATE_CHAIN,
            format!(
                "{this} is the only one: unless its issuer ({}) is a root that the clients \
                 trust, the chain is incomplete; append the intermediate certificates, for AWS \
                 KMS demands all of them",
                certificate.issuer()
            ),
        );
    }
}

/// Why `next` is not what must follow it.
fn misplaced(
    chain: &[X509Certificate<'_>],
    i: usize,
    this: &str,
    next: &X509Certificate<'_>,
) -> String {
    let certificate = &chain[i];
    let issuer =
        chain.iter().position(|other| other.subject().as_raw() == certificate.issuer().as_raw());
    match issuer {
        Some(own) if own == i => {
            format!("out of order: {this} is self-signed, so it must stand last or be left out")
        }
        Some(issuer) => {
            format!(
                "out of order: {this} was issued by certificate {}, which must stand directly \
                 after it",
                issuer + 1
            )
        }
        None => format!(
            "incomplete: {this} was issued by {}, whose certificate is missing; {} follows \
             instead",
            certificate.issuer(),
            next.subject()
        ),
    }
}

fn check_dates(
    this: &str,
    certificate: &X509Certificate<'_>,
    now: OffsetDateTime,
    report: &mut Report,
) {
    let not_before = certificate.validity().not_before.to_datetime();
    let not_after = certificate.validity().not_after.to_datetime();
    // RFC 5280, 4.1.2.5: both ends are within the period.
    if now < not_before {
        report.problem(
            CERTIFICATE_CHAIN,
            format!("{this} is not valid before {}; it is now {}", shown(not_before), shown(now)),
        );
    } else if now > not_after {
        report.problem(
            CERTIFICATE_CHAIN,
            format!("{this} expired on {}; it is now {}", shown(not_after), shown(now)),
        );
    } else if not_after - now < CERTIFICATE_EXPIRY_WARNING {
        report.warning(
            CERTIFICATE_CHAIN,
            format!(
                "{this} expires on {}, in {} days",
                shown(not_after),
                (not_after - now).whole_days()
            ),
        );
    }
}

/// As it stands in messages.
pub(super) fn shown(instant: OffsetDateTime) -> String {
    // Formatting fails only where the description asks for a part the value lacks, which an
    // OffsetDateTime never does.
    instant
        .format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC"))
        .unwrap_or_else(|_| instant.to_string())
}

/// What clients look at in the server's own certificate.
fn check_leaf(this: &str, leaf: &X509Certificate<'_>, report: &mut Report) {
    match leaf.subject_alternative_name() {
        Ok(Some(names))
            if names
                .value
                .general_names
                .iter()
                .any(|name| matches!(name, GeneralName::DNSName(_))) => {}
        Ok(_) => report.warning(
            CERTIFICATE_CHAIN,
            format!(
                "{this} has no DNS name among its subject alternative names: most clients look \
                at nothing else"
            ),
        ),
        Err(error) => report.problem(
            CERTIFICATE_CHAIN,
            format!(
                "{this} has unreadable subject \
            alternative names: {error}"
            ),
        ),
    }
    match leaf.extended_key_usage() {
        Ok(Some(usage)) if !usage.value.server_auth && !usage.value.any => report.problem(
            CERTIFICATE_CHAIN,
            format!(
                "{this} is not for servers: its extended key usage does not include \
                serverAuth, so clients refuse it"
            ),
        ),
        Ok(_) => {}
        Err(error) => report.problem(
            CERTIFICATE_CHAIN,
            format!(
                "{this} has an unreadable extended \
            key usage: {error}"
            ),
        ),
    }
}
