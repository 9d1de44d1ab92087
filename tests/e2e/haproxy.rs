//! HAProxy in TCP mode before two servers, as `docs/installation.md` shows it: TLS and the client's
//! certificate go through untouched, and a server that is stopped costs nobody an answer.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rcgen::KeyPair;
use rustix::process::Signal;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use test_harness::pki::{Ca, KMS_NAME, Leaf};
use test_harness::wire::client_builder;
use test_harness::{Config, Installation, Request, Server, Wire, eventually};

struct HaProxy {
    child: Child,
    port: u16,
}

impl HaProxy {
    fn start(installation: &Installation, servers: &[&Server], server_options: &str) -> Self {
        let manual = include_str!("../../docs/installation.md");
        let example = manual
            .split_once("```haproxy\n")
            .and_then(|(_, rest)| rest.split_once("```"))
            .expect("an example")
            .0;
        let port = TcpListener::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr()
            .expect("an address")
            .port();
        // The manual's own, with these addresses and checks that a test can wait for.
        let mut text: String = example
            .lines()
            .filter(|line| !line.trim_start().starts_with("server "))
            .map(|line| format!("{line}\n"))
            .collect();
        text = text
            .replace("bind :443", &format!("bind 127.0.0.1:{port}"))
            .replace("inter 1s", "inter 100ms");
        for (index, server) in servers.iter().enumerate() {
            text += &format!(
                "    server s{index} 127.0.0.1:{} check port {} {server_options}\n",
                server.port, server.admin
            );
        }
        let file = installation.write("haproxy.cfg", &text);
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(file)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let proxy = Self { child: child.expect("haproxy is missing: run scripts/test"), port };
        eventually("haproxy listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        proxy
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn client(installation: &Installation, ca: &Ca, name: &str) -> Arc<ClientConfig> {
    let key = KeyPair::generate().expect("a key");
    let chain = vec![
        CertificateDer::from_pem_slice(ca.issue(&Leaf::client(name), &key).pem().as_bytes())
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

fn mutual(ca: &Ca) -> Installation {
    let mut config = Config::default();
    config.server = config.server.replace("shutdown_delay_ms = 0", "shutdown_delay_ms = 6000");
    config.tls += &format!(
        "\n[tls.client]\ntrust_anchors = \"anchors.pem\"\nsubject_common_names = [\"{KMS_NAME}\"]"
    );
    let installation = Installation::new(&config);
    installation.write("anchors.pem", &ca.pem());
    installation
}

/// A second process on the same configuration, but for its state directory: that is one process's.
fn beside(installation: &Installation) -> Server {
    let text = std::fs::read_to_string(installation.config_file()).expect("written");
    let text = text.replacen("[server]\n", "[server]\nstate_directory = \"state-2\"\n", 1);
    installation.write("xksd.toml", &text);
    installation.start()
}

#[test]
fn a_stopped_server_costs_nobody_an_answer() {
    let ca = Ca::root("Client Root");
    let installation = mutual(&ca);
    let (mut stopping, staying) = (installation.start(), beside(&installation));
    let proxy = HaProxy::start(&installation, &[&stopping, &staying], "");
    let kms = client(&installation, &ca, KMS_NAME);
    let request = Request::health(&staying, "through HAProxy");
    let call = || -> Wire {
        let mut wire = Wire::connect_to(&kms, proxy.port).expect("a handshake");
        assert_eq!(wire.call(&request).status, 200);
        wire
    };
    let handshakes = |server: &Server| server.metric("xksd_tls_handshakes_total");
    let mut kept: Vec<Wire> = (0..4).map(|_| call()).collect();
    assert!(
        handshakes(&stopping) >= 1.0 && handshakes(&staying) >= 1.0,
        "one server alone has all connections"
    );

    stopping.signal(Signal::TERM);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        call();
        sleep(Duration::from_millis(10));
    }
    // HAProxy has seen it: the server still listens, and nothing new comes.
    let before = handshakes(&stopping);
    (0..10).for_each(|_| drop(call()));
    assert_eq!(handshakes(&stopping), before);
    // Kept connections were served as long as it served, and end as TLS ends; then all is served by
    // the other.
    assert!(kept.iter_mut().all(|wire| wire.call(&request).status == 200));
    assert_eq!(stopping.wait().code(), Some(0));
    (0..10).for_each(|_| drop(call()));
    let ended = kept
        .iter_mut()
        .filter_map(|wire| wire.try_send(&request.bytes()).and_then(|()| wire.try_response()).err())
        .count();
    assert!((1..4).contains(&ended), "{ended} of 4");
}

#[test]
fn the_client_s_certificate_is_judged_behind_it() {
    let ca = Ca::root("Client Root");
    let installation = mutual(&ca);
    let server = installation.start();
    let proxy = HaProxy::start(&installation, &[&server], "");
    let refused = |config: &Arc<ClientConfig>, port| {
        let Ok(mut wire) = Wire::connect_to(config, port) else { return true };
        wire.try_send(&Request::health(&server, "x").bytes())
            .and_then(|()| wire.try_response())
            .is_err()
    };
    assert!(!refused(&client(&installation, &ca, KMS_NAME), proxy.port));
    assert!(refused(&client(&installation, &ca, "somebody.else"), proxy.port));
    server.wait_event(&["TLS handshake with 127.0.0.1:", "wrong_subject", "somebody.else"]);

    // Where the PROXY protocol is not configured, it is refused.
    let proxy = HaProxy::start(&installation, &[&server], "send-proxy-v2");
    assert!(refused(&client(&installation, &ca, KMS_NAME), proxy.port));
    server.wait_event(&["failed: proxy_protocol", "does not expect one here"]);
}

#[test]
fn the_client_is_whom_haproxy_names() {
    let network = "proxy_protocol = [{ networks = [\"127.0.0.1/32\"] }]";
    let installation = Installation::new(&Config::default().server(network));
    let server = installation.start();
    let tls = installation.client();
    for options in ["send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        let proxy = HaProxy::start(&installation, &[&server], options);
        let mut wire = Wire::connect_to(&tls, proxy.port).expect("a handshake");
        let own = wire.stream.sock.local_addr().expect("an address").to_string();
        assert_eq!(wire.call(&Request::health(&server, options)).status, 200);
        assert_eq!(server.request_line(options)["client"], own);
    }
    let proxy = HaProxy::start(&installation, &[&server], "send-proxy");
    assert!(Wire::connect_to(&tls, proxy.port).is_err());
    server.wait_event(&["failed: proxy_protocol", "version 1; version 2 is required"]);
    let proxy = HaProxy::start(&installation, &[&server], "");
    assert!(Wire::connect_to(&tls, proxy.port).is_err());
    server.wait_event(&["failed: proxy_protocol", "no PROXY protocol header"]);
}

/// With `check-send-proxy` HAProxy's own checks of the XKS port begin with a LOCAL header: they
/// are accepted, and are HAProxy's.
#[test]
fn a_check_of_the_xks_port_is_haproxy_s_own_connection() {
    let network = "proxy_protocol = [{ networks = [\"127.0.0.1/32\"] }]";
    let installation = Installation::new(&Config::default().server(network));
    let server = installation.start();
    let options =
        format!("send-proxy-v2 check-send-proxy port {} check-ssl verify none", server.port);
    let _proxy = HaProxy::start(&installation, &[&server], &options);
    eventually("a whole handshake of a check", || server.metric("xksd_tls_handshakes_total") > 0.0);
    let refused = "xksd_tls_handshake_failures_total{reason=\"proxy_protocol\"}";
    assert_eq!(server.metric(refused), 0.0);
}
