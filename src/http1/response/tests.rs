use super::*;

fn write(response: Response<'_>) -> String {
    let mut out = b"before".to_vec();
    response.write(&mut out);
    String::from_utf8(out).expect("ASCII").strip_prefix("before").expect("appended").to_owned()
}

const OK: Response<'static> = Response {
    status: 200,
    version: Version::Http11,
    keep_alive: true,
    without_body: false,
    body: b"{\"a\":1}",
};

#[test]
fn kept_open() {
    assert_eq!(
        write(OK),
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}"
    );
}

#[test]
fn closed() {
    let expected = "HTTP/1.1 413 Content Too Large\r\nContent-Type: \
        application/json\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(write(Response { status: 413, keep_alive: false, body: b"", ..OK }), expected);
    assert_eq!(
        write(Response {
            status: 413,
            keep_alive: false,
            body: b"",
            version: Version::Http10,
            ..OK
        }),
        expected
    );
}

#[test]
fn http_1_0_is_told_that_it_is_kept_open() {
    assert_eq!(
        write(Response { version: Version::Http10, ..OK }),
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\nConnection: \
         keep-alive\r\n\r\n{\"a\":1}"
    );
}

#[test]
fn head_gets_the_same_without_the_body() {
    let with_body = write(OK);
    assert_eq!(
        write(Response { without_body: true, ..OK }),
        with_body.strip_suffix("{\"a\":1}").expect("a body")
    );
}

#[test]
fn method_not_allowed_says_what_is() {
    assert_eq!(
        write(Response { status: 405, body: b"{}", ..OK }),
        "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: application/json\r\nContent-Length: \
         2\r\nAllow: POST\r\n\r\n{}"
    );
}

/// Read by another parser, with every status that has a reason phrase and one that has none.
#[test]
fn every_status_is_read_as_it_was_meant() {
    for status in
        [200, 400, 401, 403, 404, 405, 408, 413, 414, 417, 429, 431, 500, 501, 503, 505, 418]
    {
        for (version, keep_alive) in
            [(Version::Http10, true), (Version::Http11, true), (Version::Http11, false)]
        {
            let mut out = Vec::new();
            let body = vec![b'x'; usize::from(status) * 10];
            Response { status, version, keep_alive, without_body: false, body: &body }
                .write(&mut out);
            let mut headers = [httparse::EMPTY_HEADER; 8];
            let mut parsed = httparse::Response::new(&mut headers);
            let end = parsed.parse(&out).expect("valid").unwrap();
            assert!(end <= HEAD_BYTES, "{status}");
            assert_eq!(parsed.code, Some(status));
            assert_eq!(parsed.reason.is_some_and(str::is_empty), status == 418, "{status}");
            assert_eq!(out.get(end..), Some(body.as_slice()));
            let length =
                parsed.headers.iter().find(|h| h.name == "Content-Length").expect("a length");
            assert_eq!(str::from_utf8(length.value), Ok(body.len().to_string().as_str()));
        }
    }
}

#[test]
fn decimals() {
    for n in [0, 9, 10, 123, usize::MAX] {
        let mut out = Vec::new();
        write_decimal(&mut out, n);
        assert_eq!(out, n.to_string().into_bytes());
    }
}
