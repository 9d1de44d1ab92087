//! Spans of requests, as a collector of OpenTelemetry gets them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use test_harness::api::request_id;
use test_harness::pki::Ca;
use test_harness::{Config, Installation, Request, Server, Wire, eventually};

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// First line and body of what was posted.
type Posted = (String, Value);

/// Answers all that is posted with this status. Gives its address and what it gets.
fn collector(status: u16) -> (String, Receiver<Posted>) {
    let (address, received) = listening(move |stream, posted| take(stream, status, posted));
    (format!("http://{address}"), received)
}

/// The same over TLS, with the certificate of the installation's server.
fn collector_with_tls(installation: &Installation) -> (String, Receiver<Posted>) {
    let file = |name: &str| installation.path().join("tls").join(name);
    let chain = CertificateDer::pem_file_iter(file("chain.pem")).expect("a chain");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("a chain");
    let key = PrivateKeyDer::from_pem_file(file("key.pem")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.expect("versions").with_no_client_auth().with_single_cert(chain, key);
    let config = Arc::new(config.expect("a certificate"));
    let (address, received) = listening(move |mut stream, posted| {
        let mut tls = ServerConnection::new(config.clone()).expect("a session");
        // Who does not trust it goes away.
        if tls.complete_io(&mut stream).is_ok() {
            take(StreamOwned::new(tls, stream), 200, posted);
        }
    });
    (format!("https://{address}"), received)
}

fn listening(
    serve: impl Fn(TcpStream, &Sender<Posted>) + Send + 'static,
) -> (String, Receiver<Posted>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let (posted, received) = channel();
    thread::spawn(move || {
        listener.incoming().map_while(Result::ok).for_each(|stream| serve(stream, &posted));
    });
    (address, received)
}

fn take(stream: impl Read + Write, status: u16, posted: &Sender<Posted>) {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).expect("a request");
    loop {
        let mut field = String::new();
        reader.read_line(&mut field).expect("a field");
        if let Some(value) = field.strip_prefix("Content-Length: ") {
            length = value.trim().parse().expect("a number");
        }
        if field == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let body = serde_json::from_slice(&body).expect("JSON");
    let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n{{}}");
    let _ = reader.get_mut().write_all(answer.as_bytes());
    let _ = posted.send((first, body));
}

fn serving(endpoint: &str, one_in: u32) -> (Installation, Server) {
    let settings = format!("otlp_endpoint = \"{endpoint}\"\notlp_sample_one_in = {one_in}");
    let installation = Installation::new(&Config::default().server(&settings));
    let server = installation.start();
    (installation, server)
}

/// A health request that is part of this trace; gives its kmsRequestId.
fn ask(installation: &Installation, server: &Server, traceparent: Option<&str>) -> String {
    let id = request_id();
    let mut request = Request::health(server, &id);
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    assert_eq!(Wire::connect(installation, server).call(&request).status, 200);
    id
}

fn spans(body: &Value) -> Vec<Value> {
    body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans").clone()
}

fn attribute<'a>(of: &'a Value, name: &str) -> &'a Value {
    let all = of["attributes"].as_array().expect("attributes");
    all.iter().find(|one| one["key"] == name).map_or(&Value::Null, |one| &one["value"])
}

#[test]
fn a_request_is_a_span_of_its_trace() {
    let (address, received) = collector(200);
    let (installation, server) = serving(&address, 1_000_000);
    let id = ask(&installation, &server, Some(SAMPLED));
    let (first, body) = received.recv().expect("spans");
    assert_eq!(first, "POST /v1/traces HTTP/1.1\r\n");
    let service = attribute(&body["resourceSpans"][0]["resource"], "service.name").clone();
    assert_eq!(service["stringValue"], "xksd");
    let all = spans(&body);
    let of_trace = |span: &&Value| span["traceId"] == "0af7651916cd43dd8448eb211c80319c";
    let span = all.iter().find(of_trace).expect("the trace goes on");
    assert_eq!(span["parentSpanId"], "b7ad6b7169203331");
    assert_eq!(span["name"], "health");
    assert_eq!(attribute(span, "xksd.kms_request_id")["stringValue"], id);
    assert_eq!(attribute(span, "http.response.status_code")["intValue"], "200");
}

#[test]
fn a_collector_that_fails_costs_spans_and_no_request() {
    let (address, received) = collector(503);
    let (installation, server) = serving(&address, 1);
    ask(&installation, &server, None);
    assert_eq!(spans(&received.recv().expect("spans").1).len(), 1);
    server.wait_event(&["spans are lost", "503"]);
    let lost = || server.metric("xksd_trace_spans_total{result=\"lost\"}") >= 1.0;
    eventually("they are counted", lost);
    ask(&installation, &server, None);
}

#[test]
fn a_reload_begins_and_ends_it() {
    let installation = Installation::new(&Config::default());
    let server = installation.start();
    let (address, received) = collector(200);
    let settings = format!("otlp_endpoint = \"{address}\"\notlp_sample_one_in = 1");
    installation.configure(&Config::default().server(&settings));
    server.reload();
    ask(&installation, &server, None);
    assert_eq!(spans(&received.recv().expect("spans").1).len(), 1);
    installation.configure(&Config::default());
    server.reload();
    ask(&installation, &server, None);
    // Spans gather for a second.
    assert!(received.recv_timeout(Duration::from_millis(1_500)).is_err(), "none is sent any more");
}

/// Settings for all requests as spans to `endpoint`, if it shows a certificate of `ca`.
fn settings(endpoint: &str, ca: &str) -> Config {
    Config::default().server(&format!(
        "otlp_endpoint = \"{endpoint}\"\notlp_trust_anchors = \"{ca}\"\notlp_sample_one_in = 1"
    ))
}

#[test]
fn spans_go_over_tls_to_a_collector_that_is_trusted_and_to_no_other() {
    let installation = Installation::new(&Config::default());
    let (address, received) = collector_with_tls(&installation);
    installation.write("collector.pem", &Ca::root("Another").pem());
    installation.configure(&settings(&address, "collector.pem"));
    let server = installation.start();
    ask(&installation, &server, None);
    server.wait_event(&["spans are lost", &address, "UnknownIssuer"]);
    let lost = || server.metric("xksd_trace_spans_total{result=\"lost\"}") >= 1.0;
    eventually("it is counted", lost);
    assert!(received.try_recv().is_err(), "nothing is sent before the certificate is known");
    let ca = std::fs::read_to_string(installation.path().join("ca.pem")).expect("there");
    installation.write("collector.pem", &ca);
    // The configuration is the same: the file is not.
    server.reload();
    ask(&installation, &server, None);
    assert_eq!(spans(&received.recv().expect("spans").1).len(), 1);
}

#[test]
fn trust_anchors_that_cannot_be_used_are_refused() {
    let installation = Installation::new(&Config::default());
    let (address, received) = collector_with_tls(&installation);
    installation.configure(&settings(&address, "ca.pem"));
    let server = installation.start();
    installation.write("none.pem", "nothing");
    installation.configure(&settings(&address, "none.pem"));
    let (code, said) = installation.reload(&[]);
    let why = "none.pem holds no certificate";
    assert!(code == Some(1) && said.contains("server.otlp_trust_anchors") && said.contains(why));
    let check = std::process::Command::new(test_harness::programs::xksd())
        .args(["check", "--config"])
        .arg(installation.config_file())
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.code() == Some(2) && said.contains(why), "{said}");
    ask(&installation, &server, None);
    assert_eq!(spans(&received.recv().expect("spans").1).len(), 1, "those of before");
}
