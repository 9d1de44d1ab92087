//! What xksd can do and AWS KMS refuses, or does not show: warnings, since another client than KMS
//! may be meant.

use std::collections::HashMap;

use super::guess::nearest;
use super::keystore::{API_PATH, KeyStore};
use super::problem::quoted;
use super::reader::Section;
use super::server::Server;
use super::tls::Tls;
use crate::limits::URI_CHARS_MAX;
use crate::tls::Certificate;

/// Regions that AWS has or has announced (November 2026).
const REGIONS: &[&str] = &[
    "af-south-1",
    "ap-east-1",
    "ap-east-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "ap-southeast-6",
    "ap-southeast-7",
    "ca-central-1",
    "ca-west-1",
    "cn-north-1",
    "cn-northwest-1",
    "eu-central-1",
    "eu-central-2",
    "eu-isoe-west-1",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "eusc-de-east-1",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "me-west-1",
    "mx-central-1",
    "sa-east-1",
    "sa-west-1",
    "us-east-1",
    "us-east-2",
    "us-gov-east-1",
    "us-gov-west-1",
    "us-iso-east-1",
    "us-iso-west-1",
    "us-isob-east-1",
    "us-isof-east-1",
    "us-isof-south-1",
    "us-west-1",
    "us-west-2",
];

/// When that was.
pub(crate) const AUTHORITIES_PUBLISHED: &str = "10 November 2022";

/// The root certificates that KMS accepts, as far as AWS has published them.
const AUTHORITIES: &str = include_str!("aws_authorities.txt");

/// What KMS's client certificates have before the region in their subject CN.
const KMS_NAME: &str = "cks.kms.";

/// Of the regions, and who may connect from them.
pub(super) fn warn_of_regions(root: &Section<'_>, server: &Server, tls: &Tls) {
    for (i, region) in server.regions.iter().enumerate() {
        if !REGIONS.contains(&region.as_str()) {
            let meant = nearest(region, REGIONS.iter().copied())
                .map_or(".".to_owned(), |meant| format!("; did you mean {meant:?}?"));
            let message = format!(
                "{} is no region that this version knows{meant} Requests signed for it are \
                 accepted all the same",
                quoted(region)
            );
            root.warn_at(&format!("server.regions[{i}]"), &message);
        }
    }
    let Some(client) = &tls.client else { return };
    let names = &client.subject_common_names;
    for (i, region) in server.regions.iter().enumerate() {
        let prefix = format!("{KMS_NAME}{region}.");
        if !names.iter().any(|name| name.starts_with(&prefix)) {
            let message = format!(
                "AWS KMS of {region} cannot connect: [tls.client] has no subject common name \
                 \"{prefix}amazonaws.com\""
            );
            root.warn_at(&format!("server.regions[{i}]"), &message);
        }
    }
    for (i, name) in names.iter().enumerate() {
        let region = name.strip_prefix(KMS_NAME).and_then(|rest| rest.split('.').next());
        if let Some(region) = region.filter(|region| !server.regions.iter().any(|r| r == region)) {
            let message = format!(
                "AWS KMS of {region} may connect, and each of its requests is refused: \
                 server.regions has no {region:?}"
            );
            root.warn_at(&format!("tls.client.subject_common_names[{i}]"), &message);
        }
    }
}

/// Of each key store, and between them.
pub(super) fn warn_of_key_stores(root: &Section<'_>, stores: &[KeyStore]) {
    for (s, store) in stores.iter().enumerate() {
        let path = format!("keystore[{s}]");
        if store.path_prefix.ends_with(API_PATH) {
            let message = format!(
                "{API_PATH} comes after the prefix by itself: AWS KMS must be given {} as \
                 XksProxyUriPath",
                store.uri_path()
            );
            root.warn_at(&format!("{path}.path_prefix"), &message);
        }
        warn_of_shared_labels(root, &path, store);
    }
    warn_of_shared_credentials(root, stores);
}

fn warn_of_shared_labels(root: &Section<'_>, store_path: &str, store: &KeyStore) {
    let mut labels: HashMap<&str, usize> = HashMap::new();
    for (k, key) in store.keys.iter().enumerate() {
        for (v, version) in key.versions.iter().enumerate() {
            let first = *labels.entry(&version.label).or_insert(k);
            if first == k {
                continue;
            }
            let message = format!(
                "{} is the label of {store_path}.key[{first}] as well: two KMS keys would be one \
                 key in the HSM, and who may decrypt with one could decrypt what the other \
                 encrypted",
                quoted(&version.label)
            );
            let place =
                if key.versions_are_stated { format!(".version[{v}]") } else { String::new() };
            root.warn_at(&format!("{store_path}.key[{k}]{place}.label"), &message);
        }
    }
}

/// A credential is what keeps one key store's caller out of another.
fn warn_of_shared_credentials(root: &Section<'_>, stores: &[KeyStore]) {
    let mut ids: HashMap<&str, (usize, usize)> = HashMap::new();
    let mut secrets: HashMap<&str, (usize, usize)> = HashMap::new();
    for (s, store) in stores.iter().enumerate() {
        for (c, credential) in store.credentials.iter().enumerate() {
            let id = *ids.entry(&credential.access_key_id).or_insert((s, c));
            let secret = *secrets.entry(credential.secret_access_key.expose()).or_insert((s, c));
            let Some((key, (other, place))) =
                [("access_key_id", id), ("secret_access_key", secret)]
                    .into_iter()
                    .find(|(_, (other, _))| *other != s)
            else {
                continue;
            };
            let message = format!(
                "the same as of keystore[{other}].credential[{place}]: whoever has it can use both \
                 key stores. Make one for each: xksd credential new"
            );
            root.warn_at(&format!("keystore[{s}].credential[{c}].{key}"), &message);
        }
    }
}

/// What the certificate and the URIs under its name are to KMS. `chain` is empty where files are
/// not looked into.
pub(super) fn warn_of_certificate(root: &Section<'_>, chain: &[Certificate], stores: &[KeyStore]) {
    let Some(own) = chain.first() else { return };
    let warn = |message: &str| root.warn_at("tls.certificate_chain", message);
    let is_wildcard = |name: &&String| name.contains('*');
    if own.common_names.is_empty() {
        warn(
            "the server's certificate has no subject CN: AWS KMS demands one, the name in \
             XksProxyUriEndpoint",
        );
    } else if let Some(name) = own.common_names.iter().find(is_wildcard) {
        warn(&format!(
            "the subject CN {} of the server's certificate has a wildcard: AWS's metric \
             XksProxyCertificateDaysToExpire shows nothing then. Take the exact name",
            quoted(name)
        ));
    }
    if let Some(root_name) = unknown_root(chain) {
        warn(&format!(
            "{} is not among the {} root certificates that AWS KMS accepted when AWS published \
             them last, in November 2022. Look at today's list, TrustedCertificateAuthorities of \
             github.com/aws/aws-kms-xksproxy-api-spec",
            quoted(root_name),
            authorities().count()
        ));
    }
    let names = own.common_names.iter().chain(&own.dns_names).filter(|name| !is_wildcard(name));
    // KMS uses one of them: a URI that is too long with the shortest is too long in any case.
    if let Some(host) = names.min_by_key(|name| name.len()) {
        warn_of_long_uris(root, host, stores);
    }
}

/// spec: "the total URI length MUST NOT exceed 256 characters".
fn warn_of_long_uris(root: &Section<'_>, host: &str, stores: &[KeyStore]) {
    for (s, store) in stores.iter().enumerate() {
        for (k, key) in store.keys.iter().enumerate() {
            // The longest of the operations.
            let uri = format!("https://{host}{}/keys/{}/metadata", store.uri_path(), key.id);
            if uri.len() > URI_CHARS_MAX {
                let message = format!(
                    "AWS KMS refuses this key: its URI has {} characters with the name {host:?} \
                     of the certificate, and {URI_CHARS_MAX} are the most. Take a shorter id, \
                     prefix or name",
                    uri.len()
                );
                root.warn_at(&format!("keystore[{s}].key[{k}].id"), &message);
            }
        }
    }
}

/// SHA-256 of each authority's certificate, and the parts of its name.
fn authorities() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    AUTHORITIES.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (fingerprint, name) = line.split_once('\t')?;
        Some((fingerprint, name.split('\t').collect()))
    })
}

/// The name above the chain, where none of AWS's authorities is in it or above it. The root itself
/// is seldom in the file: then its name is all there is to go by.
pub(crate) fn unknown_root(chain: &[Certificate]) -> Option<&str> {
    let last = chain.last()?;
    let is_known = |certificate: &Certificate| {
        let fingerprint = certificate.fingerprint.replace(':', "");
        let is_root = certificate.issuer_name == certificate.subject_name;
        authorities().any(|(of, name)| {
            if is_root { of == fingerprint } else { name == certificate.issuer_name.parts }
        })
    };
    (!chain.iter().any(is_known)).then_some(&last.issuer_name.shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_authorities_is_whole() {
        assert_eq!(authorities().count(), 130);
        for (fingerprint, name) in authorities() {
            assert!(fingerprint.len() == 64 && !name.is_empty(), "{fingerprint}");
            assert!(name.is_sorted() && name.iter().all(|part| part.to_lowercase() == *part));
        }
        assert!(authorities().any(|(_, name)| name == ["amazon", "amazon root ca 1"]));
    }
}
