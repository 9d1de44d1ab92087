//! A CA of the demo's own and a server certificate from it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, Error, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

const CA_DAYS: i64 = 3650;
/// The longest life that common clients accept of a server certificate.
const SERVER_DAYS: i64 = 398;

/// PEM texts.
pub(super) struct Certificates {
    pub(super) ca: String,
    pub(super) chain: String,
    /// PKCS#8.
    pub(super) key: Zeroizing<String>,
}

/// Makes both. The CA's key is not kept: whoever trusts this CA trusts this one certificate and no
/// other.
pub(super) fn make(listen: IpAddr) -> Result<Certificates, Error> {
    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut ca = parameters("xksd demo CA", CA_DAYS);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let server_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut server = parameters("localhost", SERVER_DAYS);
    server.subject_alt_names = vec![
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
        SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
    ];
    if !listen.is_unspecified() && listen != Ipv4Addr::LOCALHOST && listen != Ipv6Addr::LOCALHOST {
        server.subject_alt_names.push(SanType::IpAddress(listen));
    }
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let chain = server.signed_by(&server_key, &issuer)?;

    Ok(Certificates {
        ca: ca_certificate.pem(),
        chain: chain.pem() + &ca_certificate.pem(),
        key: Zeroizing::new(server_key.serialize_pem()),
    })
}

fn parameters(common_name: &str, days: i64) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = name;
    // An hour back, for clients whose clock is behind; counted as part of its life.
    parameters.not_before = now - Duration::hours(1);
    parameters.not_after = parameters.not_before + Duration::days(days);
    parameters
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::*;

    /// Whether a client that trusts the CA alone accepts the certificate for this name.
    fn accepted(certificates: &Certificates, name: &str) -> bool {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = CertificateDer::pem_slice_iter(certificates.chain.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap();
        let key = PrivateKeyDer::from_pem_slice(certificates.key.as_bytes()).unwrap();
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let server = server.with_no_client_auth().with_single_cert(chain, key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificates.ca.as_bytes()).unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();

        let mut client =
            ClientConnection::new(client.into(), ServerName::try_from(name.to_owned()).unwrap())
                .unwrap();
        let mut server = ServerConnection::new(server.into()).unwrap();
        let mut bytes = Vec::new();
        for _ in 0..4 {
            bytes.clear();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            if client.process_new_packets().is_err() {
                return false;
            }
        }
        assert!(!client.is_handshaking());
        true
    }

    #[test]
    fn a_client_that_trusts_the_ca_connects_by_each_local_name() {
        let certificates = make("10.1.2.3".parse().unwrap()).unwrap();
        for name in ["localhost", "127.0.0.1", "::1", "10.1.2.3"] {
            assert!(accepted(&certificates, name), "{name}");
        }
        for name in ["example.com", "10.1.2.4"] {
            assert!(!accepted(&certificates, name), "{name}");
        }
    }

    #[test]
    fn another_ca_of_the_same_name_is_not_enough() {
        let listen = Ipv4Addr::LOCALHOST.into();
        let mixed = Certificates { ca: make(listen).unwrap().ca, ..make(listen).unwrap() };
        assert!(!accepted(&mixed, "localhost"));
    }
}
