//! What the public functions cannot be asked: chosen instants, and handshakes in memory.

mod chains;
mod hellos;
mod words;

use std::io::{self, Cursor};
use std::path::Path;
use std::time::Duration;

use rcgen::string::{BmpString, Ia5String, PrintableString, TeletexString};
use rcgen::{DnValue, ExtendedKeyUsagePurpose, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConnection, SupportedProtocolVersion,
};
use test_harness::pki::{Ca, KMS_NAME, Leaf, SERVER_NAME, write};

use std::sync::Arc;

use rustls::HandshakeKind;
use rustls::pki_types::UnixTime;
use time::OffsetDateTime;

use super::server::load;
use super::*;
use crate::limits::CERTIFICATE_EXPIRY_WARNING;

fn unix_time(instant: OffsetDateTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(instant.unix_timestamp().unsigned_abs()))
}

/// Files of a server with a leaf, and of mutual TLS with `Client CA`.
struct World {
    directory: tempfile::TempDir,
    server_ca: Ca,
    client_ca: Ca,
    settings: Settings,
}

impl World {
    fn new(leaf: &Leaf) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (server_ca, client_ca) = (Ca::root("Server CA"), Ca::root("Client CA"));
        let key = KeyPair::generate().unwrap();
        let settings = Settings {
            certificate_chain: write(
                directory.path(),
                "chain.pem",
                &[server_ca.issue(leaf, &key).pem(), server_ca.pem()].concat(),
            ),
            private_key: write(directory.path(), "key.pem", &key.serialize_pem()),
            client: Some(ClientSettings {
                trust_anchors: write(directory.path(), "anchors.pem", &client_ca.pem()),
                subject_common_names: vec![KMS_NAME.to_owned()],
                require_client_auth_eku: true,
            }),
        };
        Self { directory, server_ca, client_ca, settings }
    }

    /// A client that keeps its tickets, with a certificate of `leaf`.
    fn client(&self, leaf: &Leaf, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.server_ca.pem().as_bytes()).unwrap())
            .unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = self.client_ca.issue(leaf, &key).der().clone();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![certificate],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        Arc::new(config)
    }

    fn verify(&self, leaf: &Leaf) -> Result<(), &'static str> {
        self.verify_der(self.client_ca.issue(leaf, &KeyPair::generate().unwrap()).der(), &[])
    }

    fn verify_der(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), &'static str> {
        self.judge(end_entity, intermediates).map_err(|error| tls_failure_label(&error))
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        let mut report = Report::default();
        let verifier =
            client_auth::load(self.settings.client.as_ref().unwrap(), &mut report).unwrap();
        assert_eq!(report, Report::default());
        verifier.verify(end_entity, intermediates, UnixTime::now())
    }
}

/// Runs a handshake in memory to its end, tickets included.
fn handshake(
    server: &Server,
    client: &Arc<ClientConfig>,
) -> Result<ServerConnection, rustls::Error> {
    let mut client =
        ClientConnection::new(client.clone(), SERVER_NAME.try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(server.config().clone()).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut sent = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sent).unwrap();
        }
        feed(&sent, |bytes| server.read_tls(bytes));
        server.process_new_packets()?;
        let mut sent = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut sent).unwrap();
        }
        feed(&sent, |bytes| client.read_tls(bytes));
        client.process_new_packets().unwrap();
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    Ok(server)
}

fn feed(bytes: &[u8], mut read: impl FnMut(&mut dyn io::Read) -> io::Result<usize>) {
    let mut cursor = Cursor::new(bytes);
    while (cursor.position() as usize) < bytes.len() {
        read(&mut cursor).unwrap();
    }
}

#[test]
fn resumption_does_not_outlive_the_client_certificate() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let world = World::new(&Leaf::server());
        let server = server(&world.settings).unwrap();
        let leaf = Leaf::client(KMS_NAME);
        let client = world.client(&leaf, version);
        let (last, expired) =
            (unix_time(leaf.not_after), unix_time(leaf.not_after + Duration::from_secs(1)));

        let full = handshake(&server, &client).unwrap();
        assert_eq!(full.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(server.confirm(&full), Ok(()));

        let resumed = handshake(&server, &client).unwrap();
        assert_eq!(resumed.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(server.confirm(&resumed), Ok(()));
        assert_eq!(server.confirm_at(&resumed, last), Ok(()));
        assert_eq!(
            tls_failure_label(&server.confirm_at(&resumed, expired).unwrap_err()),
            "expired"
        );
    }
}

#[test]
fn each_generation_has_tickets_of_its_own() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let world = World::new(&Leaf::server());
        let client = world.client(&Leaf::client(KMS_NAME), version);
        let first = server(&world.settings).unwrap();
        handshake(&first, &client).unwrap();
        let second = server(&world.settings).unwrap();
        assert_eq!(
            handshake(&second, &client).unwrap().handshake_kind(),
            Some(HandshakeKind::Full)
        );
        assert_eq!(
            handshake(&second, &client).unwrap().handshake_kind(),
            Some(HandshakeKind::Resumed)
        );

        // The name is taken off the list: the ticket of the second generation opens nothing in the
        // third.
        let mut settings = world.settings.clone();
        settings.client.as_mut().unwrap().subject_common_names = vec!["another.name".to_owned()];
        let third = server(&settings).unwrap();
        let error = handshake(&third, &client).map(|_| ()).unwrap_err();
        assert_eq!(tls_failure_label(&error), "wrong_subject");
    }
}

#[test]
fn unfinished_handshakes_are_not_confirmed() {
    let world = World::new(&Leaf::server());
    let server = server(&world.settings).unwrap();
    let connection = ServerConnection::new(server.config().clone()).unwrap();
    assert_eq!(server.confirm(&connection), Err(rustls::Error::HandshakeNotComplete));
}

#[test]
fn subject_common_names() {
    let world = World::new(&Leaf::server());
    assert_eq!(world.verify(&Leaf::client(KMS_NAME)), Ok(()));
    let with =
        |names: Vec<DnValue>| world.verify(&Leaf { common_names: names, ..Leaf::client("") });
    assert_eq!(
        with(vec![DnValue::PrintableString(PrintableString::try_from(KMS_NAME).unwrap())]),
        Ok(())
    );
    for names in [
        vec![],
        vec!["".into()],
        vec!["another.name".into()],
        vec![KMS_NAME.to_uppercase().into()],
        vec![format!("{KMS_NAME}.").into()],
        vec![format!("{KMS_NAME}\0").into()],
        vec![format!("x{KMS_NAME}").into()],
        vec![KMS_NAME[1..].into()],
        vec![KMS_NAME.into(), "another.name".into()],
        vec!["another.name".into(), KMS_NAME.into()],
        vec![KMS_NAME.into(), KMS_NAME.into()],
        vec![DnValue::Ia5String(Ia5String::try_from(KMS_NAME).unwrap())],
        vec![DnValue::TeletexString(TeletexString::try_from(KMS_NAME).unwrap())],
        vec![DnValue::BmpString(BmpString::try_from(KMS_NAME).unwrap())],
    ] {
        assert_eq!(with(names.clone()), Err("wrong_subject"), "{names:?}");
    }
    let in_san =
        Leaf { common_names: vec![], dns_names: vec![KMS_NAME.to_owned()], ..Leaf::client("") };
    assert_eq!(world.verify(&in_san), Err("wrong_subject"));
}

#[test]
fn purposes_of_client_certificates() {
    use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
    let mut world = World::new(&Leaf::server());
    for (purposes, required, not_required) in [
        (vec![ClientAuth], Ok(()), Ok(())),
        (vec![ServerAuth, ClientAuth], Ok(()), Ok(())),
        (vec![], Ok(()), Ok(())),
        (vec![ServerAuth], Err("wrong_purpose"), Ok(())),
        (vec![CodeSigning], Err("wrong_purpose"), Err("wrong_purpose")),
    ] {
        let leaf = Leaf { purposes, ..Leaf::client(KMS_NAME) };
        world.settings.client.as_mut().unwrap().require_client_auth_eku = true;
        assert_eq!(world.verify(&leaf), required, "{:?}", leaf.purposes);
        world.settings.client.as_mut().unwrap().require_client_auth_eku = false;
        assert_eq!(world.verify(&leaf), not_required, "{:?}", leaf.purposes);
    }
}

#[test]
fn chains_of_client_certificates() {
    let world = World::new(&Leaf::server());
    let key = KeyPair::generate().unwrap();
    let leaf = Leaf::client(KMS_NAME);
    let intermediate = world.client_ca.intermediate("Client Intermediate");
    let intermediate_der = CertificateDer::from_pem_slice(intermediate.pem().as_bytes()).unwrap();
    let certificate = intermediate.issue(&leaf, &key);
    assert_eq!(world.verify_der(certificate.der(), &[intermediate_der]), Ok(()));
    assert_eq!(world.verify_der(certificate.der(), &[]), Err("unknown_issuer"));

    // A certificate that signs without being a CA must not extend a chain.
    let impostor = world.client_ca.impostor("Impostor");
    let impostor_der = CertificateDer::from_pem_slice(impostor.pem().as_bytes()).unwrap();
    assert_ne!(world.verify_der(impostor.issue(&leaf, &key).der(), &[impostor_der]), Ok(()));

    let namesake = Ca::root("Client CA");
    assert_ne!(world.verify_der(namesake.issue(&leaf, &key).der(), &[]), Ok(()));
    assert_eq!(
        world.verify_der(world.server_ca.issue(&leaf, &key).der(), &[]),
        Err("unknown_issuer")
    );
    assert_eq!(
        world.verify_der(leaf.params().self_signed(&key).unwrap().der(), &[]),
        Err("unknown_issuer")
    );
    assert_eq!(
        world.verify_der(&CertificateDer::from_slice(b"\x30\x03abc"), &[]),
        Err("bad_certificate")
    );
}

#[test]
fn dates_hold_on_both_sides_of_their_bounds() {
    // X.509 has whole seconds.
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
    let leaf = Leaf {
        not_before: now - Duration::from_secs(1000),
        not_after: now + 2 * CERTIFICATE_EXPIRY_WARNING,
        ..Leaf::server()
    };
    let world = World::new(&leaf);
    let at = |instant| {
        let (report, _) = load(&world.settings, instant);
        let first = |list: &[Problem]| {
            list.iter().find(|p| p.message.contains("certificate 1")).map(|p| p.message.clone())
        };
        (first(&report.problems), first(&report.warnings))
    };
    let second = Duration::from_secs(1);
    assert!(at(leaf.not_before - second).0.unwrap().contains("not valid before"));
    assert_eq!(at(leaf.not_before), (None, None));
    assert_eq!(at(leaf.not_after - CERTIFICATE_EXPIRY_WARNING), (None, None));
    let (problem, warning) = at(leaf.not_after - CERTIFICATE_EXPIRY_WARNING + second);
    assert_eq!(problem, None);
    assert!(warning.unwrap().contains("in 29 days"));
    assert_eq!(at(leaf.not_after).0, None);
    assert!(at(leaf.not_after + second).0.unwrap().contains("expired on"));
}

#[test]
fn suites_and_settings_of_the_configuration() {
    let world = World::new(&Leaf::server());
    let server = server(&world.settings).unwrap();
    let suites: Vec<_> = server
        .config()
        .crypto_provider()
        .cipher_suites
        .iter()
        .map(|suite| format!("{:?}", suite.suite()))
        .collect();
    assert_eq!(
        suites,
        [
            "TLS13_AES_256_GCM_SHA384",
            "TLS13_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"
        ]
    );
    assert!(server.config().ticketer.enabled());
    assert!(!server.config().session_storage.can_cache());
    assert_eq!(server.config().max_early_data_size, 0);
}

#[test]
fn private_keys_do_not_show_in_debug() {
    let world = World::new(&Leaf::server());
    let pem = std::fs::read_to_string(Path::new(&world.settings.private_key)).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let shown = format!("{:?}", server(&world.settings).unwrap());
    let bytes = format!("{:?}", &key.secret_der()[36..48]);
    assert!(!shown.contains(bytes.trim_matches(['[', ']'])));
    drop(world.directory);
}

#[test]
fn labels_of_failures() {
    let wrapped = |error: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, error);
    for (error, label) in [
        (wrapped(rustls::Error::NoCertificatesPresented), "no_certificate"),
        (wrapped(rustls::Error::NoApplicationProtocol), "no_shared_protocol"),
        (
            wrapped(rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA)),
            "certificate_refused",
        ),
        (wrapped(rustls::Error::AlertReceived(rustls::AlertDescription::InternalError)), "alert"),
        (wrapped(rustls::Error::FailedToGetRandomBytes), "other"),
        (io::ErrorKind::UnexpectedEof.into(), "closed"),
        (io::ErrorKind::TimedOut.into(), "timeout"),
        (io::ErrorKind::Other.into(), "other"),
        (io::Error::other("text"), "other"),
    ] {
        assert_eq!(handshake_failure_label(&error), label, "{error}");
    }
}
