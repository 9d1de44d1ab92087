//! Suites, versions, key encodings, ALPN and resumption, seen by `openssl s_client`.

use std::path::Path;

use crate::s_client::{Accepted, TestServer};
use rcgen::KeyPair;
use tempfile::TempDir;
use test_harness::pki::{Ca, KMS_NAME, Leaf, SERVER_NAME, openssl, rsa_key, text, write};
use xksd::tls::{ClientSettings, Settings, server};

/// A server's files, its root for the client, and itself.
struct World {
    directory: TempDir,
    settings: Settings,
    root: String,
    server: TestServer,
}

impl World {
    fn with(key: &KeyPair) -> Self {
        Self::with_settings(key, |settings, _| settings)
    }

    fn with_settings(key: &KeyPair, change: impl FnOnce(Settings, &TempDir) -> Settings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Ca::root("Server Root");
        let intermediate = root.intermediate("Server Intermediate");
        let chain = [intermediate.issue(&Leaf::server(), key).pem(), intermediate.pem()].concat();
        let settings = Settings {
            certificate_chain: write(directory.path(), "chain.pem", &chain),
            private_key: write(directory.path(), "key.pem", &key.serialize_pem()),
            client: None,
        };
        let settings = change(settings, &directory);
        let root = text(&write(directory.path(), "root.pem", &root.pem()));
        let server = TestServer::start(server(&settings).unwrap());
        Self { directory, settings, root, server }
    }

    fn rsa() -> Self {
        Self::with(&rsa_key())
    }

    fn ecdsa() -> Self {
        Self::with(&KeyPair::generate().unwrap())
    }

    /// A client that trusts nothing but the root: the chain sent must be complete, and the name
    /// must be in it.
    fn connect(&self, arguments: &[&str]) -> Result<Accepted, &'static str> {
        let trust =
            ["-CAfile", &self.root, "-verify_return_error", "-verify_hostname", SERVER_NAME];
        self.server.connect(&[&trust, arguments].concat())
    }

    fn path(&self, name: &str) -> String {
        text(&self.directory.path().join(name))
    }
}

fn accepted(version: &str, suite: &str) -> Result<Accepted, &'static str> {
    Ok(Accepted {
        version: version.to_owned(),
        suite: suite.to_owned(),
        alpn: None,
        resumed: false,
    })
}

#[test]
fn the_four_suites_are_accepted() {
    let (rsa, ecdsa) = (World::rsa(), World::ecdsa());
    for world in [&rsa, &ecdsa] {
        for (ours, rustls) in [
            ("TLS_AES_256_GCM_SHA384", "TLS13_AES_256_GCM_SHA384"),
            ("TLS_CHACHA20_POLY1305_SHA256", "TLS13_CHACHA20_POLY1305_SHA256"),
        ] {
            assert_eq!(
                world.connect(&["-tls1_3", "-ciphersuites", ours]),
                accepted("TLSv1_3", rustls)
            );
        }
    }
    assert_eq!(
        rsa.connect(&["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"]),
        accepted("TLSv1_2", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384")
    );
    assert_eq!(
        ecdsa.connect(&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"]),
        accepted("TLSv1_2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384")
    );
}

#[test]
fn a_client_without_preferences_gets_the_best() {
    for world in [World::rsa(), World::ecdsa()] {
        assert_eq!(world.connect(&[]), accepted("TLSv1_3", "TLS13_AES_256_GCM_SHA384"));
    }
}

#[test]
fn every_other_suite_is_refused() {
    let (rsa, ecdsa) = (World::rsa(), World::ecdsa());
    for world in [&rsa, &ecdsa] {
        for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_128_CCM_SHA256"] {
            assert_eq!(
                world.connect(&["-tls1_3", "-ciphersuites", suite]),
                Err("no_shared_cipher"),
                "{suite}"
            );
        }
    }
    for suite in [
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-RSA-AES256-SHA384",
        "ECDHE-RSA-AES256-SHA",
        "DHE-RSA-AES256-GCM-SHA384",
        "AES256-GCM-SHA384",
        "AES256-SHA256",
        // Right, but for a key of the other kind.
        "ECDHE-ECDSA-AES256-GCM-SHA384",
    ] {
        assert_eq!(rsa.connect(&["-tls1_2", "-cipher", suite]), Err("no_shared_cipher"), "{suite}");
    }
    for suite in [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES256-SHA384",
        "ECDHE-ECDSA-AES256-CCM",
        "ECDHE-RSA-AES256-GCM-SHA384",
    ] {
        assert_eq!(
            ecdsa.connect(&["-tls1_2", "-cipher", suite]),
            Err("no_shared_cipher"),
            "{suite}"
        );
    }
}

#[test]
fn older_versions_are_refused() {
    // OpenSSL itself offers them at security level 0 only.
    let world = World::rsa();
    for version in ["-tls1", "-tls1_1"] {
        assert_eq!(
            world.connect(&[version, "-cipher", "ALL:@SECLEVEL=0"]),
            Err("unsupported_version"),
            "{version}"
        );
    }
}

#[test]
fn bytes_that_are_no_tls() {
    let world = World::ecdsa();
    assert_eq!(world.server.send(b"GET / HTTP/1.1\r\nHost: xks.test\r\n\r\n"), Err("not_tls"));
    assert_eq!(world.server.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"), Err("not_tls"));
    assert_eq!(world.server.send(b""), Err("closed"));
    assert_eq!(world.server.send(b"\x16\x03\x01\x00\x05\x01\x00\x00"), Err("closed"));
    assert_eq!(world.server.send(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"), Err("malformed"));
    assert!(world.connect(&[]).is_ok());
}

#[test]
fn a_client_that_does_not_trust_the_chain_is_told_apart() {
    let world = World::ecdsa();
    let stranger =
        text(&write(world.directory.path(), "stranger.pem", &Ca::root("Stranger").pem()));
    assert_eq!(
        world.server.connect(&["-CAfile", &stranger, "-no-CApath", "-verify_return_error"]),
        Err("certificate_refused")
    );
}

#[test]
fn keys_in_each_encoding() {
    let (rsa, p256) = (rsa_key(), KeyPair::generate().unwrap());
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    for (key, traditional) in [
        (&rsa, "-----BEGIN RSA PRIVATE KEY-----"),
        (&p256, "-----BEGIN EC PRIVATE KEY-----"),
        (&p384, "-----BEGIN EC PRIVATE KEY-----"),
    ] {
        for encoding in ["-----BEGIN PRIVATE KEY-----", traditional] {
            let world = World::with_settings(key, |settings, directory| {
                let mut pem = openssl(&["pkey", "-in", settings.private_key.to_str().unwrap()]);
                if encoding == traditional {
                    pem = openssl(&[
                        "pkey",
                        "-traditional",
                        "-in",
                        settings.private_key.to_str().unwrap(),
                    ]);
                }
                let pem = String::from_utf8(pem).unwrap();
                assert!(pem.starts_with(encoding), "{encoding}");
                Settings { private_key: write(directory.path(), "encoded.pem", &pem), ..settings }
            });
            for version in ["-tls1_2", "-tls1_3"] {
                assert!(world.connect(&[version]).is_ok(), "{encoding} {version}");
            }
        }
    }
}

#[test]
fn sec1_key_after_its_parameters() {
    // As `openssl ecparam -genkey` writes it: a section of parameters first.
    let directory = tempfile::tempdir().unwrap();
    let pem = String::from_utf8(openssl(&["ecparam", "-name", "prime256v1", "-genkey"])).unwrap();
    assert!(pem.starts_with("-----BEGIN EC PARAMETERS-----"));
    let with_parameters = write(directory.path(), "parameters.pem", &pem);
    let pkcs8 =
        String::from_utf8(openssl(&["pkey", "-in", with_parameters.to_str().unwrap()])).unwrap();
    let world = World::with_settings(&KeyPair::from_pem(&pkcs8).unwrap(), |settings, _| Settings {
        private_key: with_parameters,
        ..settings
    });
    assert!(world.connect(&[]).is_ok());
}

#[test]
fn alpn_is_http_1_1() {
    let world = World::ecdsa();
    for version in ["-tls1_2", "-tls1_3"] {
        for offer in ["http/1.1", "h2,http/1.1", "http/1.1,h2"] {
            let accepted = world.connect(&[version, "-alpn", offer]).unwrap();
            assert_eq!(accepted.alpn.as_deref(), Some("http/1.1"), "{version} {offer}");
        }
        assert_eq!(world.connect(&[version]).unwrap().alpn, None);
        assert_eq!(world.connect(&[version, "-alpn", "h2"]), Err("no_shared_protocol"));
    }
}

#[test]
fn sessions_resume_by_ticket() {
    for world in [World::rsa(), World::ecdsa()] {
        let session = world.path("session.pem");
        for version in ["-tls1_2", "-tls1_3"] {
            assert!(!world.connect(&[version, "-sess_out", &session]).unwrap().resumed);
            assert!(world.connect(&[version, "-sess_in", &session]).unwrap().resumed, "{version}");
            // A new generation knows nothing of the old one's tickets; the client is served all the
            // same.
            world.server.reload(server(&world.settings).unwrap());
            assert!(!world.connect(&[version, "-sess_in", &session]).unwrap().resumed, "{version}");
        }
    }
}

#[test]
fn nothing_is_kept_for_clients_without_tickets() {
    let world = World::ecdsa();
    let session = world.path("session.pem");
    assert!(world.connect(&["-tls1_2", "-no_ticket", "-sess_out", &session]).is_ok());
    // Without a ticket and without a session id there is nothing for the client to save.
    assert!(!Path::new(&session).exists());
}

#[test]
fn resumption_does_not_bypass_a_changed_client_verifier() {
    let ca = Ca::root("Client Root");
    let other_ca = Ca::root("Other Client Root");
    let key = KeyPair::generate().unwrap();
    let world = World::with_settings(&KeyPair::generate().unwrap(), |settings, directory| {
        let client = ClientSettings {
            trust_anchors: write(directory.path(), "anchors.pem", &ca.pem()),
            subject_common_names: vec![KMS_NAME.to_owned()],
            require_client_auth_eku: true,
        };
        Settings { client: Some(client), ..settings }
    });
    let directory = world.directory.path();
    let certificate =
        text(&write(directory, "client.pem", &ca.issue(&Leaf::client(KMS_NAME), &key).pem()));
    let key = text(&write(directory, "client-key.pem", &key.serialize_pem()));
    let session = world.path("session.pem");
    let client = world.settings.client.clone().unwrap();
    let another_name =
        ClientSettings { subject_common_names: vec!["another.name".to_owned()], ..client.clone() };
    let another_ca =
        ClientSettings { trust_anchors: write(directory, "other.pem", &other_ca.pem()), ..client };

    for version in ["-tls1_2", "-tls1_3"] {
        for (changed, label) in [(&another_name, "wrong_subject"), (&another_ca, "unknown_issuer")]
        {
            world.server.reload(server(&world.settings).unwrap());
            let with_certificate = [version, "-cert", &certificate, "-key", &key];
            assert!(
                !world
                    .connect(&[&with_certificate[..], &["-sess_out", &session]].concat())
                    .unwrap()
                    .resumed
            );
            // The ticket stands for the certificate, which the client does not even show again.
            assert!(world.connect(&[version, "-sess_in", &session]).unwrap().resumed);
            world.server.reload(
                server(&Settings { client: Some(changed.clone()), ..world.settings.clone() })
                    .unwrap(),
            );
            assert_eq!(
                world.connect(&[&with_certificate[..], &["-sess_in", &session]].concat()),
                Err(label),
                "{version}"
            );
            assert_eq!(
                world.connect(&[version, "-sess_in", &session]),
                Err("no_certificate"),
                "{version}"
            );
        }
    }
}

#[test]
fn a_ticket_without_client_authentication_does_not_open_a_server_with_it() {
    let world = World::ecdsa();
    let session = world.path("session.pem");
    let client = ClientSettings {
        trust_anchors: write(world.directory.path(), "anchors.pem", &Ca::root("Client Root").pem()),
        subject_common_names: vec![KMS_NAME.to_owned()],
        require_client_auth_eku: true,
    };
    for version in ["-tls1_2", "-tls1_3"] {
        world.server.reload(server(&world.settings).unwrap());
        assert!(world.connect(&[version, "-sess_out", &session]).is_ok());
        world.server.reload(
            server(&Settings { client: Some(client.clone()), ..world.settings.clone() }).unwrap(),
        );
        assert_eq!(world.connect(&[version, "-sess_in", &session]), Err("no_certificate"));
    }
}
