//! The PROXY protocol before TLS, byte by byte: who the client is, and what is refused.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::{Value, json};
use test_harness::api::{b64, encrypt_body, request_id};
use test_harness::{Config, Installation, Request, Server, Wire, eventually, wire};
use xksd::limits::PROXY_HEADER_BYTES_MAX;

const HERE: &str = "proxy_protocol = [{ networks = [\"127.0.0.0/8\"] }]";
const ELSEWHERE: &str = "proxy_protocol = [{ networks = [\"192.0.2.0/24\", \"2001:db8::/32\"] }]";
/// 203.0.113.7:12345 to 10.0.0.1:443.
const ADDRESSES: [u8; 12] = [203, 0, 113, 7, 10, 0, 0, 1, 0x30, 0x39, 0x01, 0xBB];

fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[0x20 | command, family], &length, rest].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("short").to_be_bytes();
    [&[kind], length.as_slice(), value].concat()
}

/// As AWS's load balancers send it: the endpoint's id, and padding.
fn of_endpoint(id: &str) -> Vec<u8> {
    let endpoint = tlv(0xEA, &[b"\x01", id.as_bytes()].concat());
    header(1, 0x11, &[&ADDRESSES[..], &endpoint, &tlv(0x04, &[0; 20])].concat())
}

/// With a header of so many bytes.
fn padded(bytes: usize) -> Vec<u8> {
    header(1, 0x11, &[&ADDRESSES[..], &tlv(0x04, &vec![0; bytes - 16 - 12 - 3])].concat())
}

fn serving(networks: &str) -> (Installation, Server) {
    let installation = Installation::new(&Config::default().server(networks));
    let server = installation.start();
    (installation, server)
}

fn connect(installation: &Installation, server: &Server, before: &[u8]) -> std::io::Result<Wire> {
    let mut socket = wire::tcp(server);
    socket.write_all(before)?;
    Wire::connect_over(&installation.client(), socket)
}

/// The `client` in the log of a call behind this header; `None` where the connection is refused.
fn client(installation: &Installation, server: &Server, before: &[u8]) -> Option<String> {
    let id = request_id();
    let mut wire = connect(installation, server, before).ok()?;
    wire.try_send(&Request::health(server, &id).bytes()).ok()?;
    assert_eq!(wire.try_response().ok()?.status, 200);
    server.request_line(&id)["client"].as_str().map(str::to_owned)
}

#[test]
fn the_client_is_whom_the_header_names() {
    let (installation, server) = serving(HERE);
    let named = |before: &[u8]| client(&installation, &server, before);
    let v6 = [[0x20, 1, 0x0D, 0xB8].as_slice(), &[0; 28], &[0x30, 0x39, 0x01, 0xBB]].concat();
    let of = |address: &str| Some(address.to_owned());
    assert_eq!(named(&header(1, 0x11, &ADDRESSES)), of("203.0.113.7:12345"));
    assert_eq!(named(&header(1, 0x21, &v6)), of("[2001:db8::]:12345"));
    assert_eq!(named(&padded(PROXY_HEADER_BYTES_MAX)), of("203.0.113.7:12345"));
    // A connection of the balancer itself, and one whose client it does not know.
    for own in [header(0, 0, b""), header(0, 0x11, &ADDRESSES), header(1, 0, b"")] {
        let peer = named(&own).expect("served");
        assert!(peer.starts_with("127.0.0.1:"), "{peer}");
    }
}

#[test]
fn what_is_not_a_header_of_version_2_is_refused() {
    let tls_at_once: &[u8] = b"";
    refused(&[
        (tls_at_once, "no PROXY protocol header"),
        (b"PROXY TCP4 203.0.113.7 10.0.0.1 12345 443\r\n", "version 1; version 2 is required"),
        (&padded(PROXY_HEADER_BYTES_MAX + 1), "2049 bytes, more than 2048"),
        (&header(2, 0x11, &ADDRESSES), "unknown command 2"),
    ]);
    refused(&[
        (&header(1, 0x51, &ADDRESSES), "unknown address family 0x51"),
        (&header(1, 0x11, &ADDRESSES[1..]), "whose lengths do not fit"),
        (&header(1, 0x11, &[&ADDRESSES[..], &tlv(3, &[0; 4])].concat()), "a wrong CRC32c"),
        (&of_endpoint("vpce 1"), "a malformed VPC endpoint id"),
    ]);
}

/// Connections that begin so, and why they are refused. No more than have a line of the log each.
fn refused(cases: &[(&[u8], &str)]) {
    let (installation, server) = serving(HERE);
    for (before, why) in cases {
        assert_eq!(client(&installation, &server, before), None, "{why}");
        server.wait_event(&["TLS handshake with 127.0.0.1:", "failed: proxy_protocol:", why]);
    }
    let count = server.metric("xksd_tls_handshake_failures_total{reason=\"proxy_protocol\"}");
    assert_eq!(count, cases.len() as f64);
}

#[test]
fn nobody_outside_the_networks_can_claim_to_be_another() {
    let (installation, server) = serving(ELSEWHERE);
    let peer = client(&installation, &server, b"").expect("served");
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
    for forged in [header(1, 0x11, &ADDRESSES), b"PROXY TCP4 203.0.113.7 1.2.3.4 1 2\r\n".to_vec()]
    {
        assert_eq!(client(&installation, &server, &forged), None);
    }
    server.wait_event(&["failed: proxy_protocol:", "does not expect one here"]);
}

#[test]
fn a_header_may_come_byte_by_byte_or_never() {
    let (installation, server) = serving(HERE);
    // First of all: it is given up while the rest of this goes on.
    let mut silent = wire::tcp(&server);
    silent.write_all(&of_endpoint("vpce-1")[..15]).expect("sent");

    let half_open = wire::tcp(&server);
    half_open.shutdown(Shutdown::Write).expect("shut");
    let mut cut = wire::tcp(&server);
    cut.write_all(&of_endpoint("vpce-1")[..40]).expect("sent");
    cut.shutdown(Shutdown::Write).expect("shut");
    let closed = "xksd_tls_handshake_failures_total{reason=\"closed\"}";
    eventually("both are counted", || server.metric(closed) == 2.0);

    let mut socket: TcpStream = wire::tcp(&server);
    for byte in of_endpoint("vpce-1") {
        socket.write_all(&[byte]).expect("sent");
    }
    let mut wire = Wire::connect_over(&installation.client(), socket).expect("a handshake");
    assert_eq!(wire.call(&Request::health(&server, "dribbled")).status, 200);
    assert_eq!(server.request_line("dribbled")["client"], "203.0.113.7:12345");
    server.wait_event(&["failed: timeout"]);
    drop(silent);
}

#[test]
fn the_endpoint_is_in_log_and_audit_trail_and_policies_may_ask_for_it() {
    let mut config = Config::default().server(HERE);
    config.admin += "\n[audit]\ndirectory = \"audit\"\norigin = \"a.example/b\"\n\
                     signing_key = { file = \"secrets/audit-key\" }";
    let first = "[[keystore.credential]]";
    let policy = format!("[keystore.policy]\nfiles = [\"endpoint.cedar\"]\n{first}");
    config.key_stores = config.key_stores.replacen(first, &policy, 1);
    let installation = Installation::default();
    let rule = "@id(\"endpoint\") permit(principal, action, resource)\nwhen { context has connectionVpce && \
                context.connectionVpce == \"vpce-08d2\" };\n";
    installation.write("endpoint.cedar", rule);
    installation.write("secrets/audit-key", &b64([7; 32]));
    installation.configure(&config);
    let server = installation.start();
    let call = |before: &[u8]| {
        let mut body = encrypt_body(b"text", &json!({}));
        let id = request_id();
        body["requestMetadata"]["kmsRequestId"] = json!(id);
        let mut wire = connect(&installation, &server, before).expect("a handshake");
        let request = Request::new(&server, "/one/kms/xks/v1/keys/foo/encrypt", &body);
        (wire.call(&request).status, server.request_line(&id)["connectionVpce"].clone())
    };
    assert_eq!(call(&of_endpoint("vpce-08d2")), (200, json!("vpce-08d2")));
    assert_eq!(call(&of_endpoint("vpce-08d3")), (403, json!("vpce-08d3")));
    assert_eq!(call(&header(1, 0x11, &ADDRESSES)), (403, json!(null)));

    let trail = installation.path().join("audit/records/0000000000.jsonl");
    let trail = std::fs::read_to_string(trail).expect("records");
    let records = trail.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let requests = records.filter(|record: &Value| record["principal"].is_string());
    let recorded = requests.map(|it| (it["client"].clone(), it["connectionVpce"].clone()));
    let client = json!("203.0.113.7:12345");
    let expected = [json!("vpce-08d2"), json!("vpce-08d3"), json!(null)];
    assert_eq!(Vec::from_iter(recorded), expected.map(|vpce| (client.clone(), vpce)));
}

#[test]
fn a_reload_changes_the_networks_for_new_connections() {
    let (installation, server) = serving(ELSEWHERE);
    let mut open = connect(&installation, &server, b"").expect("a handshake");
    installation.configure(&Config::default().server(HERE));
    assert!(server.reload().contains("reloaded"));
    server.wait_event(&["server.proxy_protocol is (networks 127.0.0.0/8), was (networks 192.0.2"]);
    assert_eq!(open.call(&Request::health(&server, "open")).status, 200, "it stays as it is");
    let header = header(1, 0x11, &ADDRESSES);
    assert_eq!(client(&installation, &server, b""), None);
    assert_eq!(client(&installation, &server, &header).as_deref(), Some("203.0.113.7:12345"));
    installation.configure(&Config::default());
    assert!(server.reload().contains("reloaded"));
    assert_eq!(client(&installation, &server, &header), None);
    assert!(client(&installation, &server, b"").is_some());
}

/// AWS's NLB sends the header with health checks, too, whatever their port.
#[test]
fn health_checks_may_begin_with_a_header() {
    let (_installation, server) = serving(HERE);
    let ask = |parts: &[&[u8]]| {
        let mut stream = TcpStream::connect(("127.0.0.1", server.admin)).expect("connected");
        for part in parts {
            stream.write_all(part).expect("sent");
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    };
    let request = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".as_slice();
    let local = header(0, 0, &tlv(0x04, &[0; 81]));
    let (first, second) = local.split_at(14);
    let whole = [&padded(PROXY_HEADER_BYTES_MAX)[..], request].concat();
    for parts in [&[request][..], &[&local, request], &[first, second, request], &[&whole]] {
        assert!(ask(parts).starts_with("HTTP/1.1 200 "), "{parts:?}");
    }
    let too_long = ask(&[&padded(PROXY_HEADER_BYTES_MAX + 1)[..16]]);
    assert!(too_long.starts_with("HTTP/1.1 400 "), "{too_long}");
    assert!(too_long.contains("a PROXY protocol header of 2049 bytes"), "{too_long}");
    assert!(ask(&[&local, &local, request]).starts_with("HTTP/1.1 400 "));
}

#[test]
fn the_probe_speaks_as_a_load_balancer_does() {
    let probe = |installation: &Installation, server: &Server, options: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_xksd"));
        command.args(["probe", "--config"]).arg(installation.config_file());
        command.args(["--connect", &server.host()]).args(options);
        let out = command.output().expect("the probe runs");
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (here, server) = serving(HERE);
    assert!(!probe(&here, &server, &[]).0);
    assert_eq!(probe(&here, &server, &["--proxy-protocol"]), (true, String::new()));
    assert_eq!(probe(&here, &server, &["--vpc-endpoint", "vpce-0abc"]), (true, String::new()));
    server.wait_for("the endpoint", |line| {
        line.contains("\"connectionVpce\":\"vpce-0abc\"").then_some(())
    });
    let (passed, why) = probe(&here, &server, &["--vpc-endpoint", "not an id"]);
    assert!(!passed && why.contains("vpce-0123456789abcdef0"), "{why}");

    let (elsewhere, server) = serving(ELSEWHERE);
    assert!(probe(&elsewhere, &server, &[]).0);
    assert!(!probe(&elsewhere, &server, &["--proxy-protocol"]).0);
}
