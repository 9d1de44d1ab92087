//! TLS on the real server: client certificates, resumption, and certificates exchanged while it
//! runs. Suites and versions: `tls_openssl.rs`.

use std::process::Command;
use std::sync::Arc;

use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use test_harness::api::{name, still_serves};
use test_harness::pki::{Ca, KMS_NAME, Leaf};
use test_harness::wire::client_builder;
use test_harness::{Api, Config, Installation, Request, Server, Wire, eventually};

/// `[tls]` that lets in who shows a certificate of `anchors.pem` with this name.
fn mutual(name: &str) -> Config {
    let mut config = Config::default();
    config.tls += &format!(
        "\n[tls.client]\ntrust_anchors = \"anchors.pem\"\nsubject_common_names = [\"{name}\"]"
    );
    config
}

/// A client that shows this certificate. It remembers sessions for resumption.
pub(super) fn client(installation: &Installation, ca: &Ca, leaf: &Leaf) -> Arc<ClientConfig> {
    let key = KeyPair::generate().expect("a key");
    let chain = vec![
        CertificateDer::from_pem_slice(ca.issue(leaf, &key).pem().as_bytes())
            .expect("a certificate"),
    ];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
    Arc::new(
        client_builder()
            .with_root_certificates(installation.roots())
            .with_client_auth_cert(chain, key)
            .expect("they fit"),
    )
}

/// Whether a request over a new connection is answered, and whether that was a resumed one. In TLS
/// 1.3 a client hears of its certificate's refusal after its own part of the handshake.
fn served(server: &Server, config: &Arc<ClientConfig>) -> Option<bool> {
    let mut wire = Wire::connect_with(config, server).ok()?;
    wire.try_send(&Request::health(server, "mutual").bytes()).ok()?;
    let status = wire.try_response().ok()?.status;
    assert_eq!(status, 200);
    Some(wire.resumed())
}

fn failures(server: &Server, reason: &str) -> f64 {
    server.metric(&format!("xksd_tls_handshake_failures_total{{reason=\"{reason}\"}}"))
}

#[test]
fn client_certificates_right_and_wrong() {
    let (ca, stranger) = (Ca::root("Client Root"), Ca::root("Another Root"));
    let installation = Installation::new(&mutual(KMS_NAME));
    installation.write("anchors.pem", &ca.pem());
    let server = installation.start();
    let asked_for = serde_json::json!({"trust_anchors": installation.path().join("anchors.pem"), "subject_common_names": [KMS_NAME]});
    assert_eq!(server.status()["tls"]["client_certificates"], asked_for);
    assert_eq!(served(&server, &client(&installation, &ca, &Leaf::client(KMS_NAME))), Some(false));
    let in_san = Leaf { dns_names: vec![KMS_NAME.to_owned()], ..Leaf::client("somebody.else") };
    for (reason, config) in [
        ("no_certificate", installation.client()),
        ("unknown_issuer", client(&installation, &stranger, &Leaf::client(KMS_NAME))),
        (
            "wrong_subject",
            client(&installation, &ca, &Leaf::client("cks.kms.us-east-2.amazonaws.com")),
        ),
        ("wrong_subject", client(&installation, &ca, &in_san)),
        ("wrong_subject", client(&installation, &ca, &Leaf::client("\"forged\"\n\u{1b}[2J"))),
        ("bad_signature", client(&installation, &Ca::root("Client Root"), &Leaf::client(KMS_NAME))),
        (
            "wrong_purpose",
            client(
                &installation,
                &ca,
                &Leaf { purposes: Leaf::server().purposes, ..Leaf::client(KMS_NAME) },
            ),
        ),
    ] {
        let before = failures(&server, reason);
        assert_eq!(served(&server, &config), None, "{reason}");
        eventually(reason, || failures(&server, reason) == before + 1.0);
    }
    // Who it was, and why, is in the log; what the client wrote of itself is escaped.
    for (reason, shown) in [
        ("no_certificate", ""),
        ("unknown_issuer", KMS_NAME),
        ("wrong_subject", "cks.kms.us-east-2.amazonaws.com"),
        ("wrong_subject", "somebody.else"),
        ("wrong_subject", "\\\"forged\\\"\\n\\u{1b}[2J"),
        ("bad_signature", KMS_NAME),
        ("wrong_purpose", KMS_NAME),
    ] {
        let subject =
            if shown.is_empty() { String::new() } else { format!("subject CN \"{shown}\"") };
        let told = server.wait_event(&[
            "TLS handshake with 127.0.0.1:",
            &format!(" failed: {reason}: "),
            &subject,
        ]);
        assert_eq!(told.contains("subject CN"), !shown.is_empty(), "{told}");
    }
    // The signature is asked for all the same.
    let mut wire =
        Wire::connect_with(&client(&installation, &ca, &Leaf::client(KMS_NAME)), &server)
            .expect("let in");
    let unsigned = Request::health(&server, "x").with(|r| r.unsigned = true);
    assert_eq!(wire.call(&unsigned).error(), name(401, "AuthenticationFailedException"));
}

#[test]
fn resumption_does_not_get_past_a_client_check_that_was_changed() {
    let ca = Ca::root("Client Root");
    let installation = Installation::new(&mutual(KMS_NAME));
    installation.write("anchors.pem", &ca.pem());
    let server = installation.start();
    let config = client(&installation, &ca, &Leaf::client(KMS_NAME));
    assert_eq!(served(&server, &config), Some(false));
    assert_eq!(served(&server, &config), Some(true));
    assert_eq!(server.metric("xksd_tls_handshakes_resumed_total"), 1.0);

    // Connections are judged by the new list, resumed or not.
    installation.configure(&mutual("cks.kms.eu-west-3.amazonaws.com"));
    assert!(server.reload().ends_with("reloaded"));
    assert_eq!(served(&server, &config), None);
    eventually("counted", || failures(&server, "wrong_subject") == 1.0);

    // And back: what was allowed once may not be resumed from before, but works.
    installation.configure(&mutual(KMS_NAME));
    server.reload();
    assert_eq!(served(&server, &config), Some(false));
    assert_eq!(served(&server, &config), Some(true));
    // Another authority for the same name.
    installation.write("anchors.pem", &Ca::root("Another Root").pem());
    server.reload();
    assert_eq!(served(&server, &config), None);
    eventually("counted", || failures(&server, "unknown_issuer") == 1.0);
}

/// Any client may connect, and that is said.
fn stated_as_open() -> Config {
    let config = Config::default();
    Config { tls: format!("{}\nclient_authentication = \"none\"", config.tls), ..config }
}

/// What became of a request over an open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Answered,
    Ended,
}

fn next_request(wire: &mut Wire, server: &Server) -> Next {
    if wire.try_send(&Request::health(server, "open").bytes()).is_err() {
        return Next::Ended;
    }
    match wire.try_response() {
        Ok(answer) => {
            assert_eq!(answer.status, 200);
            Next::Answered
        }
        Err(_) => Next::Ended,
    }
}

#[test]
fn an_open_connection_ends_at_its_next_request_when_a_reload_no_longer_admits_its_client() {
    let ca = Ca::root("Client Root");
    let installation = Installation::new(&mutual(KMS_NAME));
    installation.write("anchors.pem", &ca.pem());
    let server = installation.start();
    let config = client(&installation, &ca, &Leaf::client(KMS_NAME));
    let open = |config| Wire::connect_with(config, &server).expect("admitted");
    let open_two = || {
        // The second is a resumed session: its certificate came out of a ticket.
        let mut first = open(&config);
        assert_eq!(next_request(&mut first, &server), Next::Answered);
        let second = open(&config);
        assert!(second.resumed() && !first.resumed());
        [first, second]
    };
    let withdrawn = || server.metric("xksd_connections_withdrawn_total");
    let after_reload = |mut open: [Wire; 2], with: &Config, expected: Next| {
        installation.configure(with);
        assert!(server.reload().ends_with("reloaded"));
        let before = withdrawn();
        assert_eq!(open.each_mut().map(|wire| next_request(wire, &server)), [expected; 2]);
        let ended = if expected == Next::Ended { 2.0 } else { 0.0 };
        assert_eq!(withdrawn() - before, ended);
    };

    // The same authority, one more name, and a new server certificate.
    after_reload(open_two(), &mutual(KMS_NAME), Next::Answered);
    let mut two_names = mutual(KMS_NAME);
    two_names.tls = two_names.tls.replace("names = [", "names = [\"another.name\", ");
    after_reload(open_two(), &two_names, Next::Answered);
    // Its name is no longer listed.
    after_reload(open_two(), &mutual("another.name"), Next::Ended);
    server.wait_event(&[
        "the connection of 127.0.0.1:",
        "ended: since the last reload its client certificate is refused: wrong_subject: ",
        KMS_NAME,
    ]);
    // Another authority.
    installation.configure(&mutual(KMS_NAME));
    server.reload();
    let open_before = open_two();
    installation.write("anchors.pem", &Ca::root("Another Root").pem());
    after_reload(open_before, &mutual(KMS_NAME), Next::Ended);
    // Nobody is asked for a certificate.
    installation.write("anchors.pem", &ca.pem());
    server.reload();
    after_reload(open_two(), &stated_as_open(), Next::Answered);
    // And asked again: who came without one is not admitted.
    let anonymous = installation.client();
    let open_before = [open(&anonymous), open(&anonymous)];
    after_reload(open_before, &mutual(KMS_NAME), Next::Ended);
}

#[test]
fn mutual_tls_can_be_switched_on_and_off() {
    let ca = Ca::root("Client Root");
    let installation = Installation::default();
    installation.write("anchors.pem", &ca.pem());
    let server = installation.start();
    let anonymous = installation.client();
    assert_eq!(
        (served(&server, &anonymous), served(&server, &anonymous)),
        (Some(false), Some(true))
    );
    installation.configure(&mutual(KMS_NAME));
    server.reload();
    assert_eq!(served(&server, &anonymous), None);
    assert_eq!(served(&server, &client(&installation, &ca, &Leaf::client(KMS_NAME))), Some(false));
    // Only if that is said.
    installation.configure(&Config::default());
    assert!(server.reload().contains("not reloaded"));
    assert_eq!(served(&server, &anonymous), None);
    installation.configure(&stated_as_open());
    assert!(server.reload().ends_with("reloaded"));
    assert_eq!(served(&server, &anonymous), Some(false));
}

#[test]
fn a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let installation = Installation::default();
    let server = installation.start();
    let old_trust = installation.client();
    let mut old = Api::new(&installation, &server);
    let before = old.wire.certificate();
    installation.new_certificate();
    let told = server.reload();
    assert!(told.ends_with("reloaded"), "{told}");
    let mut new = Api::new(&installation, &server);
    assert_ne!(new.wire.certificate(), before);
    assert!(
        Wire::connect_with(&old_trust, &server).is_err(),
        "the old authority did not issue the new certificate"
    );
    new.round_trip("foo");
    old.round_trip("foo");
}

#[test]
fn a_certificate_that_cannot_be_used_is_not_taken_and_told() {
    let installation = Installation::default();
    let server = installation.start();
    let certificate = Wire::connect(&installation, &server).certificate();
    let key = std::fs::read_to_string(installation.path().join("tls/key.pem")).expect("there");
    for (file, text, word) in [
        ("tls/key.pem", KeyPair::generate().expect("a key").serialize_pem(), "tls.private_key"),
        ("tls/key.pem", "nothing".to_owned(), "tls.private_key"),
        ("tls/chain.pem", "nothing".to_owned(), "tls.certificate_chain"),
    ] {
        let chain =
            std::fs::read_to_string(installation.path().join("tls/chain.pem")).expect("there");
        installation.write(file, &text);
        let told = server.reload();
        assert!(told.contains("not reloaded") && told.contains(word), "{told}");
        assert!(!told.contains(key.lines().nth(1).expect("Base64")), "{told}");
        assert_eq!(Wire::connect(&installation, &server).certificate(), certificate);
        installation.write("tls/key.pem", &key);
        installation.write("tls/chain.pem", &chain);
    }
    assert!(server.reload().ends_with("reloaded"));
    still_serves(&installation, &server);
}

#[test]
fn what_is_no_regular_file_neither_holds_up_a_reload_nor_is_taken() {
    let installation = Installation::default();
    let server = installation.start();
    for (file, words) in [
        ("xksd.toml", "xksd.toml: is a pipe and not"),
        ("tls/key.pem", "tls.private_key"),
        ("tls/chain.pem", "tls.certificate_chain"),
        (
            &format!("secrets/{}", test_harness::A.id),
            "keystore[0].credential[0].secret_access_key.file",
        ),
    ] {
        let path = installation.path().join(file);
        let text = std::fs::read_to_string(&path).expect("there");
        std::fs::remove_file(&path).expect("there");
        // Nobody ever writes to it: to open it would be to wait for ever.
        assert!(Command::new("mkfifo").arg("-m600").arg(&path).status().expect("mkfifo").success());
        let told = server.reload();
        assert!(
            told.contains("not reloaded")
                && told.contains(words)
                && told.contains("is a pipe and not a regular file"),
            "{told}"
        );
        installation.write(file, &text);
    }
    assert!(server.reload().ends_with("reloaded"));
    still_serves(&installation, &server);
}

#[test]
fn both_versions_of_tls_and_no_other_protocol_than_http_1_1() {
    let installation = Installation::default();
    let server = installation.start();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = |protocols: &[&[u8]]| {
            let builder = ClientConfig::builder_with_provider(Arc::new(
                rustls::crypto::ring::default_provider(),
            ));
            let builder = builder.with_protocol_versions(&[version]).expect("a version");
            let mut config =
                builder.with_root_certificates(installation.roots()).with_no_client_auth();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        };
        let resumable = client(&[]);
        assert_eq!(
            (served(&server, &resumable), served(&server, &resumable)),
            (Some(false), Some(true))
        );
        let both =
            Wire::connect_with(&client(&[b"h2", b"http/1.1"]), &server).expect("one of them");
        assert_eq!(both.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert!(Wire::connect_with(&client(&[b"h2"]), &server).is_err());
    }
    eventually("counted", || failures(&server, "no_shared_protocol") == 2.0);
}
