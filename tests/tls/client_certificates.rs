//! Mutual TLS seen by `openssl s_client`: the right client certificate, and each wrong kind.

use crate::s_client::TestServer;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use tempfile::TempDir;
use test_harness::pki::{Ca, KMS_NAME, Leaf, rsa_key, text, write};
use time::{Duration, OffsetDateTime};
use xksd::tls::{ClientSettings, Settings, server};

/// A server with mutual TLS that accepts [`KMS_NAME`] from `ca`.
struct World {
    directory: TempDir,
    ca: Ca,
    server: TestServer,
}

impl World {
    fn new() -> Self {
        Self::with(true)
    }

    fn with(require_client_auth_eku: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (server_ca, ca, key) =
            (Ca::root("Server Root"), Ca::root("Client Root"), KeyPair::generate().unwrap());
        let settings = Settings {
            certificate_chain: write(
                directory.path(),
                "chain.pem",
                &[server_ca.issue(&Leaf::server(), &key).pem(), server_ca.pem()].concat(),
            ),
            private_key: write(directory.path(), "key.pem", &key.serialize_pem()),
            client: Some(ClientSettings {
                trust_anchors: write(directory.path(), "anchors.pem", &ca.pem()),
                subject_common_names: vec![
                    "cks.kms.eu-west-1.amazonaws.com".to_owned(),
                    KMS_NAME.to_owned(),
                ],
                require_client_auth_eku,
            }),
        };
        let server = TestServer::start(server(&settings).unwrap());
        Self { directory, ca, server }
    }

    /// How the server ends with a client that shows this certificate, the same in both versions of
    /// TLS.
    fn show(
        &self,
        certificate: &str,
        intermediates: &[&Ca],
        key: &KeyPair,
    ) -> Result<(), &'static str> {
        let file = |name: &str, pem: &str| text(&write(self.directory.path(), name, pem));
        let certificate = file("client.pem", certificate);
        let key = file("client-key.pem", &key.serialize_pem());
        let chain =
            file("client-chain.pem", &intermediates.iter().map(|ca| ca.pem()).collect::<String>());
        let mut arguments = vec!["-cert", &certificate, "-key", &key];
        if !intermediates.is_empty() {
            arguments.extend(["-cert_chain", &chain]);
        }
        self.connect(&arguments)
    }

    fn show_leaf(&self, leaf: &Leaf) -> Result<(), &'static str> {
        let key = KeyPair::generate().unwrap();
        self.show(&self.ca.issue(leaf, &key).pem(), &[], &key)
    }

    fn connect(&self, arguments: &[&str]) -> Result<(), &'static str> {
        let [tls12, tls13] = ["-tls1_2", "-tls1_3"]
            .map(|version| self.server.connect(&[&[version], arguments].concat()).map(|_| ()));
        assert_eq!(tls12, tls13);
        tls13
    }
}

#[test]
fn the_right_certificate_is_accepted() {
    let world = World::new();
    assert_eq!(world.show_leaf(&Leaf::client(KMS_NAME)), Ok(()));
    assert_eq!(world.show_leaf(&Leaf::client("cks.kms.eu-west-1.amazonaws.com")), Ok(()));
    let key = rsa_key();
    assert_eq!(world.show(&world.ca.issue(&Leaf::client(KMS_NAME), &key).pem(), &[], &key), Ok(()));
}

#[test]
fn no_certificate() {
    assert_eq!(World::new().connect(&[]), Err("no_certificate"));
}

#[test]
fn wrong_subjects() {
    let world = World::new();
    for common_names in [
        &["another.name"][..],
        &[],
        &["CKS.KMS.us-east-1.amazonaws.com"],
        &[KMS_NAME, "another.name"],
        &[KMS_NAME, KMS_NAME],
    ] {
        let leaf =
            Leaf { purposes: vec![ExtendedKeyUsagePurpose::ClientAuth], ..Leaf::new(common_names) };
        assert_eq!(world.show_leaf(&leaf), Err("wrong_subject"), "{common_names:?}");
    }
    let names_in_san = vec![KMS_NAME.to_owned()];
    assert_eq!(
        world.show_leaf(&Leaf { dns_names: names_in_san.clone(), ..Leaf::client("another.name") }),
        Err("wrong_subject")
    );
    // And the right name is right whatever the SAN says.
    assert_eq!(
        world.show_leaf(&Leaf {
            dns_names: vec!["another.name".to_owned()],
            ..Leaf::client(KMS_NAME)
        }),
        Ok(())
    );
}

#[test]
fn other_issuers() {
    let world = World::new();
    let (leaf, key) = (Leaf::client(KMS_NAME), KeyPair::generate().unwrap());
    assert_eq!(
        world.show(&Ca::root("Other Root").issue(&leaf, &key).pem(), &[], &key),
        Err("unknown_issuer")
    );
    assert_eq!(
        world.show(&leaf.params().self_signed(&key).unwrap().pem(), &[], &key),
        Err("unknown_issuer")
    );
    // The same name as the trust anchor's, with another key.
    let namesake = Ca::root("Client Root");
    assert_eq!(world.show(&namesake.issue(&leaf, &key).pem(), &[], &key), Err("bad_signature"));
    // Bringing one's own root along does not make it trusted.
    let other = Ca::root("Other Root");
    assert_eq!(world.show(&other.issue(&leaf, &key).pem(), &[&other], &key), Err("unknown_issuer"));
}

#[test]
fn intermediates_come_with_the_client() {
    let world = World::new();
    let (leaf, key) = (Leaf::client(KMS_NAME), KeyPair::generate().unwrap());
    let first = world.ca.intermediate("Client Intermediate 1");
    let second = first.intermediate("Client Intermediate 2");
    let certificate = second.issue(&leaf, &key).pem();
    assert_eq!(world.show(&certificate, &[&second, &first], &key), Ok(()));
    assert_eq!(world.show(&certificate, &[&second], &key), Err("unknown_issuer"));
    assert_eq!(world.show(&certificate, &[], &key), Err("unknown_issuer"));
}

#[test]
fn dates() {
    let world = World::new();
    let now = OffsetDateTime::now_utc();
    assert_eq!(
        world.show_leaf(&Leaf { not_after: now - Duration::MINUTE, ..Leaf::client(KMS_NAME) }),
        Err("expired")
    );
    assert_eq!(
        world.show_leaf(&Leaf { not_before: now + Duration::HOUR, ..Leaf::client(KMS_NAME) }),
        Err("not_yet_valid")
    );
}

#[test]
fn server_certificates_as_client_certificates() {
    let leaf =
        Leaf { purposes: vec![ExtendedKeyUsagePurpose::ServerAuth], ..Leaf::client(KMS_NAME) };
    assert_eq!(World::with(true).show_leaf(&leaf), Err("wrong_purpose"));
    let lenient = World::with(false);
    assert_eq!(lenient.show_leaf(&leaf), Ok(()));
    assert_eq!(
        lenient.show_leaf(&Leaf {
            purposes: vec![ExtendedKeyUsagePurpose::CodeSigning],
            ..leaf.clone()
        }),
        Err("wrong_purpose")
    );
    // The setting is about the purpose alone.
    assert_eq!(
        lenient.show_leaf(&Leaf { common_names: vec!["another.name".into()], ..leaf }),
        Err("wrong_subject")
    );
}
