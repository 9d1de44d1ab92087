//! Spans of requests, as a collector of OpenTelemetry gets them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use test_harness::api::request_id;
use test_harness::{Config, Installation, Request, Server, Wire, eventually};

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Answers all that is posted with this status. Gives its address and the bodies.
fn collector(status: u16) -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let (bodies, received) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
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
            if bodies.send((first, body)).is_err() {
                return;
            }
        }
    });
    (address, received)
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
    assert_eq!(first, "POST /v1/traces HTTP/1.0\r\n");
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
