//! HTTP/1.1 as clients and load balancers speak it.

use serde_json::json;
use test_harness::api::{encrypt_body, name, still_serves};
use test_harness::wire::End;
use test_harness::{
    A, Api, Config, Credential, Delivery, Installation, Request, Response, Wire, b64, bytes, with,
};

const UNKNOWN: Credential = Credential { id: "UNKNOWN2ACCESS3KEY4ID", ..A };

#[test]
fn a_connection_is_kept_for_many_requests_and_also_after_refusals() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    for n in 0..50 {
        let response = match n % 5 {
            0 => api.wire.call(&Request::health(&server, "a")),
            1 => api.wire.call(&Request::health(&server, "a").with(|r| r.credential = UNKNOWN)),
            2 => api.wire.call(&Request::of_bytes(&server, "/nowhere", Vec::new())),
            3 => api.wire.call(
                &Request::health(&server, "a").with(|r| (r.method, r.body) = ("GET", Vec::new())),
            ),
            _ => {
                api.wire.call(&Request::of_bytes(&server, "/one/kms/xks/v1/health", b"{".to_vec()))
            }
        };
        assert_eq!(response.status, [200, 401, 404, 405, 400][n % 5]);
        assert!(!response.closes(), "{response:?}");
    }
    assert_eq!(server.metric("xksd_connections_accepted_total"), 1.0);
    api.round_trip("foo");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let installation = Installation::default();
    let server = installation.start();
    let api = Api::new(&installation, &server);
    let texts: Vec<Vec<u8>> = (1..=5).map(|n| vec![n; 100 * usize::from(n)]).collect();
    let requests: Vec<Request> = texts
        .iter()
        .map(|text| api.request("keys/foo/encrypt", &encrypt_body(text, &json!({}))))
        .collect();
    let all: Vec<u8> = requests.iter().flat_map(Request::bytes).collect();
    // At once; in pieces that end anywhere; and with every kind of body, refusal and empty line
    // between them.
    for piece in [all.len(), 1000, 333] {
        let mut wire = Wire::connect(&installation, &server);
        all.chunks(piece).for_each(|part| wire.send(part));
        for text in &texts {
            assert_eq!(bytes(&wire.response().json(), "ciphertext").len(), text.len());
        }
    }
    let mixed = [
        requests[0].bytes(),
        requests[1].clone().with(|r| r.delivery = Delivery::Chunked(50)).bytes(),
        Request::of_bytes(&server, "/nowhere", b"a body".to_vec()).bytes(),
        b"\r\n".to_vec(),
        Request::health(&server, "x").with(|r| (r.method, r.body) = ("HEAD", Vec::new())).bytes(),
        requests[2].clone().with(|r| r.credential = UNKNOWN).bytes(),
        requests[4].clone().header("Connection", "close").bytes(),
        requests[0].bytes(),
    ]
    .concat();
    let mut wire = Wire::connect(&installation, &server);
    wire.send(&mixed);
    let statuses = [
        wire.response().status,
        wire.response().status,
        wire.response().status,
        wire.head_response().status,
    ];
    assert_eq!(statuses, [200, 200, 404, 405]);
    assert_eq!(wire.response().status, 401);
    let last = wire.response();
    assert_eq!((bytes(&last.json(), "ciphertext").len(), last.closes()), (500, true));
    // What was behind it is not answered.
    assert_eq!(wire.end(), End::CloseNotify);
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let installation = Installation::default();
    let server = installation.start();
    let mut wire = Wire::connect(&installation, &server);
    for request in [
        Request::health(&server, "bytes"),
        Request::health(&server, "bytes").with(|r| r.delivery = Delivery::Chunked(3)),
    ] {
        request.bytes().iter().for_each(|byte| wire.send(&[*byte]));
        assert_eq!(wire.response().status, 200);
    }
}

#[test]
fn chunked_bodies_are_signed_as_they_are_without_their_framing() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let text = vec![0x5a; 4300];
    let body = encrypt_body(&text, &json!({"additionalAuthenticatedData": b64(vec![1; 8192])}));
    for size in [1000, 4096, 100_000] {
        let request =
            api.request("keys/foo/encrypt", &body).with(|r| r.delivery = Delivery::Chunked(size));
        let answer = api.wire.call(&request);
        assert_eq!((answer.status, answer.closes()), (200, false), "{size}");
        assert_eq!(bytes(&answer.json(), "ciphertext").len(), 4300);
    }
    // Signed over the framing as well: not what was agreed.
    let framed =
        api.request("keys/foo/encrypt", &body).with(|r| r.delivery = Delivery::Chunked(1000));
    let framed = framed.clone().with(|r| {
        r.body_sent = Some(r.body.clone());
        r.body = framed.framed_body();
    });
    assert_eq!(api.wire.call(&framed).error(), name(401, "AuthenticationFailedException"));
}

#[test]
fn expect_100_continue() {
    let installation = Installation::default();
    let server = installation.start();
    let request = Request::health(&server, "expects").header("Expect", "100-continue");
    let mut wire = Wire::connect(&installation, &server);
    for request in [request.clone(), request.clone().with(|r| r.delivery = Delivery::Chunked(9))] {
        wire.send(&request.head());
        assert_eq!(wire.response().status, 100);
        wire.send(&request.framed_body());
        let answer = wire.response();
        assert_eq!((answer.status, answer.closes()), (200, false));
        // A client that does not wait for it is not sent one.
        assert_eq!(wire.call(&request).status, 200);
    }
    // Who cannot be authenticated, is on a wrong path or uses a wrong method hears so before
    // sending the body.
    for (status, request) in [
        (401, request.clone().with(|r| r.credential = UNKNOWN)),
        (401, request.clone().with(|r| r.region = "us-west-2")),
        (404, request.clone().with(|r| r.target = "/nowhere".to_owned())),
        (405, request.clone().with(|r| r.method = "PUT")),
        (413, request.clone().with(|r| r.body = vec![b' '; 65_537])),
        (417, Request::health(&server, "expects").header("Expect", "a miracle")),
    ] {
        let mut wire = Wire::connect(&installation, &server);
        wire.send(&request.head());
        let answer = wire.response();
        assert_eq!((answer.status, answer.closes()), (status, true), "{answer:?}");
        answer.error();
        assert_eq!(wire.end(), End::CloseNotify);
    }
}

#[test]
fn the_client_says_whether_the_connection_stays() {
    let installation = Installation::default();
    let server = installation.start();
    let health = || Request::health(&server, "x");
    let old = || health().with(|r| r.version = "HTTP/1.0");
    for (request, stays) in [
        (health(), true),
        (health().header("Connection", "keep-alive"), true),
        (health().header("Connection", "close"), false),
        (health().header("Connection", "Keep-Alive, CLOSE"), false),
        (old(), false),
        (old().header("Connection", "keep-alive"), true),
        (old().header("Connection", "close"), false),
    ] {
        let mut wire = Wire::connect(&installation, &server);
        let answer = wire.call(&request);
        assert_eq!((answer.status, answer.closes()), (200, !stays), "{request:?}");
        if stays {
            assert_eq!(wire.call(&health()).status, 200);
        } else {
            assert_eq!(wire.end(), End::CloseNotify);
        }
    }
    // HTTP/1.0 knows no 100: the body is waited for.
    let mut wire = Wire::connect(&installation, &server);
    let expects = old().header("Expect", "100-continue");
    wire.send(&expects.head());
    wire.send(&expects.framed_body());
    assert_eq!(wire.response().status, 200);
}

#[test]
fn targets_with_a_host_and_answers_to_head() {
    let installation = Installation::default();
    let server = installation.start();
    let mut wire = Wire::connect(&installation, &server);
    let absolute = Request::health(&server, "x")
        .with(|r| r.target = format!("https://other.example:1234{}", r.path));
    assert_eq!(wire.call(&absolute).status, 200);
    let head = Request::health(&server, "x").with(|r| r.method = "HEAD");
    wire.send(&head.bytes());
    let answer = wire.head_response();
    assert_eq!(answer.status, 405);
    assert!(answer.header("content-length").is_some_and(|length| length != "0"));
    assert_eq!(wire.call(&Request::health(&server, "x")).status, 200);
    // Also refused ones have no body, whatever they are refused for.
    for (status, rest) in [
        (400, "\r\n\r\n"),
        (505, " HTTP/3.0\r\n\r\n"),
        (400, " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"),
    ] {
        for method in ["HEAD", "GET"] {
            let mut wire = Wire::connect(&installation, &server);
            wire.send(format!("{method} /{rest}").as_bytes());
            let answer = if method == "HEAD" { wire.head_response() } else { wire.response() };
            assert_eq!(
                (answer.status, answer.closes(), answer.body.is_empty()),
                (status, true, method == "HEAD"),
                "{method} {rest:?}"
            );
            // Nothing more came.
            assert_eq!(wire.end(), End::CloseNotify, "{method} {rest:?}");
        }
    }
}

/// Sends bytes; they must be answered with this status in JSON, and the connection closed.
fn refused(
    installation: &Installation,
    server: &test_harness::Server,
    status: u16,
    bytes: &[u8],
) -> Response {
    let mut wire = Wire::connect(installation, server);
    wire.send(bytes);
    let answer = wire.response();
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]);
    assert_eq!((answer.status, answer.closes()), (status, true), "{shown}: {answer:?}");
    answer.error();
    assert_eq!(wire.end(), End::CloseNotify, "{shown}");
    answer
}

#[test]
fn what_two_parsers_could_read_differently_is_refused_and_the_connection_closed() {
    let installation = Installation::default();
    let server = installation.start();
    let good = Request::health(&server, "x");
    let head = String::from_utf8(good.head()).expect("ASCII");
    let body = String::from_utf8(good.framed_body()).expect("JSON");
    let length = format!("content-length: {}\r\n", good.body.len());
    let host = format!("host: {}\r\n", server.host());
    assert!(head.contains(&length) && head.contains(&host));
    // A second request is always behind it: it must not be taken for one.
    let behind = String::from_utf8(good.bytes()).expect("ASCII");
    let instead =
        |what: &str, with: &str| format!("{}{body}{behind}", head.replacen(what, with, 1));
    let also = |line: &str| instead(&length, &format!("{length}{line}\r\n"));
    for (status, bytes) in [
        (400, also(length.trim_end())),
        (400, also("Content-Length: 0")),
        (400, also("transfer-encoding: chunked")),
        (400, also("transfer-encoding : chunked")),
        (400, also("Transfer-Encoding: xchunked")),
        (400, instead(&length, "content-length: 5, 5\r\n")),
        (400, instead(&length, "content-length: +5\r\n")),
        (400, instead(&length, "content-length: -1\r\n")),
        (400, instead(&length, "content-length: 0x10\r\n")),
        (400, instead(&length, "content-length: 1 2\r\n")),
        (400, instead(&length, "content-length:\r\n")),
        (413, instead(&length, "content-length: 18446744073709551617\r\n")),
        (400, instead(&length, "content-length : 5\r\n")),
        (400, instead(&length, " content-length: 5\r\n")),
        (501, instead(&length, "transfer-encoding: gzip, chunked\r\n")),
        (400, instead(&length, "transfer-encoding: chunked, gzip\r\n")),
        (400, instead(&length, "transfer-encoding: chunked, chunked\r\n")),
        (400, instead(&length, "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n")),
        (400, instead(&length, "transfer-encoding: \"chunked\"\r\n")),
        (501, instead(&length, "transfer-encoding: identity\r\n")),
        (400, instead(&host, "")),
        (400, instead(&host, &format!("{host}{host}"))),
        (400, instead(&host, "host: a b\r\n")),
        (400, instead(&host, &format!("{host}x-folded: a\r\n b\r\n"))),
        (400, instead(&host, &format!("{host}x-nul: a\0b\r\n"))),
        (400, instead(&host, &format!("{host}x-cr: a\rb\r\n"))),
        (400, instead(&host, &format!("{host}: no name\r\n"))),
        (400, instead(&host, &format!("{host}no colon\r\n"))),
        (400, instead(&host, &format!("{host}x-lf: a\n"))),
        (400, instead("HTTP/1.1", "HTTP/1.1 ")),
        (505, instead("HTTP/1.1", "HTTP/2.0")),
        (400, instead("HTTP/1.1", "http/1.1")),
        (400, instead("POST ", "POST  ")),
        (400, instead("POST ", " POST ")),
        (400, instead("POST ", "PO\0ST ")),
        (400, instead("/one", "one")),
        (400, instead("/one", "https://user@host/one")),
        (400, instead("/one", "/o#ne")),
        (400, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".replace("2.0", "1.1")),
        (400, "\r\n\r\n\r\n\r\n\r\n\r\n".to_owned() + &behind),
    ] {
        refused(&installation, &server, status, bytes.as_bytes());
    }
    let old = good.clone().with(|r| (r.version, r.delivery) = ("HTTP/1.0", Delivery::Chunked(5)));
    refused(&installation, &server, 400, &old.bytes());
    let chunked =
        String::from_utf8(good.with(|r| r.delivery = Delivery::Chunked(64)).head()).expect("ASCII");
    for wrong in [
        "-5\r\n",
        "0x5\r\nhello\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n",
        "5\r\nhello0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\n",
        "\r\n",
    ] {
        let status = if wrong.starts_with('F') { 413 } else { 400 };
        refused(&installation, &server, status, format!("{chunked}{wrong}{behind}").as_bytes());
    }
    still_serves(&installation, &server);
}

#[test]
fn heads_up_to_their_bounds() {
    let installation = Installation::default();
    let server = installation.start();
    let health = || Request::health(&server, "x");
    // Host, x-amz-date, content-type, authorization and content-length are there already.
    let fields = |n: usize| (0..n).fold(health(), |r, _| r.header("x-field", "value"));
    let mut wire = Wire::connect(&installation, &server);
    assert_eq!(wire.call(&fields(64 - 5)).status, 200);
    refused(&installation, &server, 431, &fields(65 - 5).bytes());

    let padded = |bytes: usize| {
        health()
            .header("x-padding", &"p".repeat(bytes - health().header("x-padding", "").head().len()))
    };
    assert_eq!(padded(16 * 1024).head().len(), 16 * 1024);
    assert_eq!(wire.call(&padded(16 * 1024)).status, 200);
    refused(&installation, &server, 431, &padded(16 * 1024 + 1).head());
    refused(&installation, &server, 414, &[b"POST /".to_vec(), vec![b'a'; 20_000]].concat());
    let target =
        |n: usize| Request::of_bytes(&server, &format!("/{}", "t".repeat(n - 1)), Vec::new());
    assert_eq!(wire.call(&target(1024)).status, 404);
    refused(&installation, &server, 414, &target(1025).bytes());
}

#[test]
fn bodies_up_to_their_bound_and_far_beyond_it() {
    let mut config = Config::default();
    // Megabytes over a debug build may take longer than a request may.
    config.server += "\nrequest_budget_ms = 240";
    let installation = Installation::new(&config);
    let server = installation.start();
    let body = |bytes: usize| {
        let body = json!({"requestMetadata": {"kmsRequestId": "x", "kmsOperation": "KmsHealthCheck"}, "padding": ""});
        let padding = "p".repeat(bytes - body.to_string().len());
        with(&body, &json!({"padding": padding}))
    };
    let request = |bytes: usize, delivery: Delivery| {
        Request::new(&server, "/one/kms/xks/v1/health", &body(bytes))
            .with(|r| r.delivery = delivery)
    };
    let mut wire = Wire::connect(&installation, &server);
    for delivery in [Delivery::Length, Delivery::Chunked(10_000)] {
        assert_eq!(wire.call(&request(65_536, delivery.clone())).status, 200);
        for bytes in [65_537, 10_000_000] {
            let answer =
                refused(&installation, &server, 413, &request(bytes, delivery.clone()).bytes());
            assert_eq!(answer.error().1, "ValidationException");
        }
    }
    // The request that ended AWS's sample proxy: 70 kB of context, properly signed.
    let api = Api::new(&installation, &server);
    let large = api.request(
        "keys/foo/encrypt",
        &encrypt_body(b"text", &json!({"additionalAuthenticatedData": b64(vec![7; 70_000])})),
    );
    refused(&installation, &server, 413, &large.bytes());
    // Within the body's bound and beyond the context's.
    let mut api = api;
    let body = encrypt_body(b"text", &json!({"additionalAuthenticatedData": b64(vec![7; 40_000])}));
    assert_eq!(api.error("keys/foo/encrypt", &body), name(501, "UnsupportedOperationException"));
    api.round_trip("foo");
    // Framing of a chunked body is bounded too.
    let crumbs = request(60_000, Delivery::Chunked(1));
    refused(&installation, &server, 400, &crumbs.bytes());
    still_serves(&installation, &server);
}
