use proptest::prelude::*;

use super::*;
use crate::limits::{BODY_BYTES_MAX, TARGET_BYTES_MAX};

/// Everything a parsed head says, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    end: usize,
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, Vec<u8>)>,
    version: Version,
    framing: Framing,
    keep_alive: bool,
    expect_continue: bool,
}

fn look(head: &RequestHead, end: usize, buf: &[u8]) -> Seen {
    let mut headers = [Header::EMPTY; HEADERS_MAX];
    let request = head.request(buf, &mut headers);
    Seen {
        end,
        method: request.method.to_owned(),
        path: request.path.to_owned(),
        query: request.query.to_owned(),
        headers: request.headers.iter().map(|h| (h.name.to_owned(), h.value.to_owned())).collect(),
        version: head.version(),
        framing: head.framing(),
        keep_alive: head.keep_alive(),
        expect_continue: head.expect_continue(),
    }
}

/// `None`: more is needed.
fn parse(buf: &[u8]) -> Result<Option<Seen>, Reject> {
    parse_in_pieces(buf, &[])
}

/// The buffer grows to each of `cuts` (made ascending) and then to its whole.
fn parse_in_pieces(buf: &[u8], cuts: &[usize]) -> Result<Option<Seen>, Reject> {
    let mut cuts: Vec<usize> =
        cuts.iter().map(|&cut| cut.min(buf.len())).chain([buf.len()]).collect();
    cuts.sort_unstable();
    let mut head = RequestHead::new();
    for cut in cuts {
        // A copy each time, at another address: nothing may point into the buffer.
        let grown = buf[..cut].to_vec();
        if let Progress::Complete { end } = head.parse(&grown)? {
            return Ok(Some(look(&head, end, buf)));
        }
    }
    Ok(None)
}

fn accepted(text: &str) -> Seen {
    match parse(text.as_bytes()) {
        Ok(Some(seen)) => seen,
        other => panic!("{text:?}: {other:?}"),
    }
}

/// With `fields` after a good request line and Host.
fn with(fields: &str) -> String {
    format!("POST /p HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

#[test]
fn a_request_as_kms_sends_it() {
    let text = "POST /example/kms/xks/v1/keys/foo/encrypt?a=b HTTP/1.1\r\nHost: \
        xks.example.com\r\nContent-Type: application/json\r\n\
                Content-Length: 12\r\nX-Amz-Date:  20260101T000000Z \r\nauthorization: \
                AWS4-HMAC-SHA256 Credential=A\t\r\nX-Empty:\r\n\r\n{\"a\"";
    let seen = accepted(text);
    assert_eq!(seen.end, text.len() - 4);
    assert_eq!(
        (seen.method.as_str(), seen.path.as_str(), seen.query.as_str()),
        ("POST", "/example/kms/xks/v1/keys/foo/encrypt", "a=b")
    );
    let headers: Vec<(&str, &[u8])> =
        seen.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    assert_eq!(
        headers,
        [
            ("Host", b"xks.example.com".as_slice()),
            ("Content-Type", b"application/json"),
            ("Content-Length", b"12"),
            ("X-Amz-Date", b"20260101T000000Z"),
            ("authorization", b"AWS4-HMAC-SHA256 Credential=A"),
            ("X-Empty", b""),
        ]
    );
    assert_eq!(
        (seen.version, seen.framing, seen.keep_alive, seen.expect_continue),
        (Version::Http11, Framing::Length(12), true, false)
    );
}

#[test]
fn absolute_form_keeps_host_and_takes_the_path() {
    let seen = accepted("POST https://other:443/a?b HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((seen.path.as_str(), seen.query.as_str()), ("/a", "b"));
    assert_eq!(seen.headers, [("Host".to_owned(), b"h".to_vec())]);
    assert_eq!(accepted("GET http://h HTTP/1.1\r\nHost: h\r\n\r\n").path, "/");
    assert_eq!(accepted("GET http://h?q HTTP/1.1\r\nHost: h\r\n\r\n").query, "q");
}

/// Each by the name of what is wrong, with its status.
#[test]
fn refusals() {
    let many_fields = "a: b\r\n".repeat(HEADERS_MAX);
    let cases: &[(&str, u16, &str)] = &[
        ("two lengths", 400, &with("Content-Length: 5\r\nContent-Length: 6\r\n")),
        ("same length twice", 400, &with("Content-Length: 5\r\ncontent-length: 5\r\n")),
        ("list of lengths", 400, &with("Content-Length: 5, 5\r\n")),
        ("length with sign", 400, &with("Content-Length: +5\r\n")),
        ("negative length", 400, &with("Content-Length: -5\r\n")),
        ("hexadecimal length", 400, &with("Content-Length: 0x5\r\n")),
        ("length with space", 400, &with("Content-Length: 5 0\r\n")),
        ("length with tail", 400, &with("Content-Length: 5a\r\n")),
        ("empty length", 400, &with("Content-Length:\r\n")),
        ("length above u64", 413, &with("Content-Length: 18446744073709551621\r\n")),
        ("body too large", 413, &with(&format!("Content-Length: {}\r\n", BODY_BYTES_MAX + 1))),
        ("length with chunked", 400, &with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")),
        ("chunked with length", 400, &with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n")),
        (
            "length with unknown coding",
            400,
            &with("Content-Length: 5\r\nTransfer-Encoding: gzip\r\n"),
        ),
        ("unknown coding", 501, &with("Transfer-Encoding: gzip\r\n")),
        ("unknown coding, chunked", 501, &with("Transfer-Encoding: gzip, chunked\r\n")),
        (
            "unknown coding, chunked, in two fields",
            501,
            &with("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
        ),
        ("identity", 501, &with("Transfer-Encoding: identity\r\n")),
        ("nearly chunked", 501, &with("Transfer-Encoding: xchunked\r\n")),
        ("chunked not last", 400, &with("Transfer-Encoding: chunked, gzip\r\n")),
        (
            "chunked not last, in two fields",
            400,
            &with("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n"),
        ),
        ("chunked twice", 400, &with("Transfer-Encoding: chunked, chunked\r\n")),
        (
            "chunked in two fields",
            400,
            &with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ),
        ("chunked with parameter", 400, &with("Transfer-Encoding: chunked;a=b\r\n")),
        ("chunked in quotes", 400, &with("Transfer-Encoding: \"chunked\"\r\n")),
        ("chunked behind an empty member", 400, &with("Transfer-Encoding: ,chunked\r\n")),
        ("empty coding", 400, &with("Transfer-Encoding:\r\n")),
        (
            "chunked in 1.0",
            400,
            "POST /p HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        ("folded line", 400, &with("A: b\r\n c\r\n")),
        ("folded line with tab", 400, &with("A: b\r\n\tc\r\n")),
        ("folded transfer coding", 400, &with("Transfer-Encoding:\r\n chunked\r\n")),
        ("white space before the first field", 400, "POST /p HTTP/1.1\r\n Host: h\r\n\r\n"),
        ("white space before colon", 400, &with("Content-Length : 5\r\n")),
        ("tab before colon", 400, &with("Transfer-Encoding\t: chunked\r\n")),
        ("no colon", 400, &with("Content-Length\r\n")),
        ("no name", 400, &with(": a\r\n")),
        ("name not a token", 400, &with("A(b): c\r\n")),
        ("name not ASCII", 400, &with("Ä: c\r\n")),
        ("NUL in name", 400, &with("A\0: c\r\n")),
        ("NUL in value", 400, &with("A: b\0c\r\n")),
        ("control character in value", 400, &with("A: b\x0bc\r\n")),
        ("DEL in value", 400, &with("A: b\x7fc\r\n")),
        ("bare CR in value", 400, &with("A: b\rc\r\n")),
        ("bare CR that hides a field", 400, &with("A: b\rTransfer-Encoding: chunked\r\n")),
        ("two CR", 400, &with("A: b\r\r\n")),
        ("bare CR for empty line", 400, "POST /p HTTP/1.1\r\nHost: h\r\n\r\r\n\r\n"),
        ("bare CR in request line", 400, "POST /p HTTP/1.1\rHost: h\r\n\r\n"),
        ("bare CR before request line", 400, "\rPOST /p HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("bare LF after request line", 400, "POST /p HTTP/1.1\nHost: h\r\n\r\n"),
        ("bare LF after field", 400, "POST /p HTTP/1.1\r\nHost: h\n\r\n"),
        ("bare LF for empty line", 400, "POST /p HTTP/1.1\r\nHost: h\r\n\n"),
        ("bare LF before request line", 400, "\nPOST /p HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("too many empty lines", 400, "\r\n\r\n\r\n\r\n\r\nPOST /p HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("no Host", 400, "POST /p HTTP/1.1\r\nA: b\r\n\r\n"),
        ("no field at all", 400, "POST /p HTTP/1.1\r\n\r\n"),
        ("two Hosts", 400, &with("Host: h\r\n")),
        ("two Hosts in 1.0", 400, "POST /p HTTP/1.0\r\nHost: h\r\nHost: i\r\n\r\n"),
        ("list of Hosts", 400, "POST /p HTTP/1.1\r\nHost: h, i\r\n\r\n"),
        ("Host with path", 400, "POST /p HTTP/1.1\r\nHost: h/p\r\n\r\n"),
        ("Host with userinfo", 400, "POST /p HTTP/1.1\r\nHost: u@h\r\n\r\n"),
        ("asterisk", 400, "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("authority-form", 400, "CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("relative target", 400, "POST p HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("other scheme", 400, "POST ftp://h/p HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("absolute-form without host", 400, "POST https:///p HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("fragment", 400, "POST /p#f HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("target not ASCII", 400, "POST /pä HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("DEL in target", 400, "POST /p\x7f HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("space in target", 400, "POST /p q HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("two spaces", 400, "POST  /p HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("space behind version", 400, "POST /p HTTP/1.1 \r\nHost: h\r\n\r\n"),
        ("tab for space", 400, "POST\t/p HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("no version", 400, "POST /p\r\nHost: h\r\n\r\n"),
        ("method not a token", 400, "PO(ST /p HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("no method", 400, " /p HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("version in lower case", 400, "POST /p http/1.1\r\nHost: h\r\n\r\n"),
        ("version cut off", 400, "POST /p HTTP/1\r\nHost: h\r\n\r\n"),
        ("version 1.2", 505, "POST /p HTTP/1.2\r\nHost: h\r\n\r\n"),
        ("version 0.9", 505, "POST /p HTTP/0.9\r\nHost: h\r\n\r\n"),
        ("HTTP/2 preface", 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (
            "target too long",
            414,
            &format!("POST /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(TARGET_BYTES_MAX)),
        ),
        ("request line as long as a head", 414, &format!("POST /{}", "a".repeat(HEAD_BYTES_MAX))),
        ("head too large", 431, &with(&format!("A: {}\r\n", "b".repeat(HEAD_BYTES_MAX)))),
        ("too many fields", 431, &with(&many_fields)),
        ("unknown expectation", 417, &with("Content-Length: 5\r\nExpect: 200-ok\r\n")),
        (
            "unknown expectation beside the known",
            417,
            &with("Content-Length: 5\r\nExpect: 100-continue, x\r\n"),
        ),
        ("empty expectation", 417, &with("Expect:\r\n")),
    ];
    for (name, status, text) in cases {
        let refused = parse(text.as_bytes()).expect_err(name);
        assert_eq!(refused.status, *status, "{name}: {refused}");
        assert!(refused.reason.bytes().all(|b| (0x20..0x7f).contains(&b)), "{name}: {refused}");
        let every_byte: Vec<usize> = (0..text.len()).collect();
        assert_eq!(
            parse_in_pieces(text.as_bytes(), &every_byte),
            Err(refused),
            "{name}, byte by byte"
        );
    }
}

#[test]
fn accepted_although_unusual() {
    assert_eq!(
        accepted("POST /p HTTP/1.1\r\nHost:\r\n\r\n").headers,
        [("Host".to_owned(), Vec::new())]
    );
    assert_eq!(accepted("POST /p HTTP/1.1\r\nhOST: [::1]:443\r\n\r\n").headers.len(), 1);
    assert_eq!(accepted("\r\n\r\n\r\n\r\nPOST /p HTTP/1.1\r\nHost: h\r\n\r\n").path, "/p");
    assert_eq!(accepted("BREW /p HTTP/1.1\r\nHost: h\r\n\r\n").method, "BREW");
    assert_eq!(accepted(&with("A: b\tc \u{e4}\r\n")).headers[1].1, "b\tc \u{e4}".as_bytes());
    assert_eq!(accepted(&with("Content-Length: 0000000005\r\n")).framing, Framing::Length(5));
}

#[test]
fn framing() {
    for (fields, framing) in [
        ("", Framing::None),
        ("Content-Length: 0\r\n", Framing::Length(0)),
        ("content-LENGTH:7\r\n", Framing::Length(7)),
        (&format!("Content-Length: {BODY_BYTES_MAX}\r\n"), Framing::Length(BODY_BYTES_MAX)),
        ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
        ("TRANSFER-ENCODING:\tChunked \r\n", Framing::Chunked),
        ("Content_Length: 5\r\nTransfer_Encoding: chunked\r\n", Framing::None),
    ] {
        assert_eq!(accepted(&with(fields)).framing, framing, "{fields:?}");
    }
}

#[test]
fn keep_alive() {
    for (version, fields, keep_alive) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: CLOSE\r\n", false),
        ("1.1", "connection: keep-alive\r\n", true),
        ("1.1", "Connection: keep-alive, Close\r\n", false),
        ("1.1", "Connection: ,a ,\tclose,\r\n", false),
        ("1.1", "Connection: close\r\nConnection: keep-alive\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.1", "Connection: closed, not-close, close x\r\n", true),
        ("1.1", "Connection:\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: x\r\nConnection: y, keep-alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
        ("1.0", "Keep-Alive: timeout=5\r\n", false),
    ] {
        let seen = accepted(&format!("POST /p HTTP/{version}\r\nHost: h\r\n{fields}\r\n"));
        assert_eq!(seen.keep_alive, keep_alive, "{version} {fields:?}");
        assert_eq!(seen.version, if version == "1.0" { Version::Http10 } else { Version::Http11 });
    }
    assert!(!accepted("POST /p HTTP/1.0\r\n\r\n").keep_alive, "Host may be missing in 1.0");
}

#[test]
fn expect_continue() {
    for (version, fields, expected) in [
        ("1.1", "Content-Length: 5\r\nExpect: 100-continue\r\n", true),
        ("1.1", "Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n", true),
        ("1.1", "Content-Length: 5\r\n", false),
        ("1.1", "Content-Length: 0\r\nExpect: 100-continue\r\n", false),
        ("1.1", "Expect: 100-continue\r\n", false),
        ("1.0", "Content-Length: 5\r\nExpect: 100-continue\r\n", false),
    ] {
        let seen = accepted(&format!("POST /p HTTP/{version}\r\nHost: h\r\n{fields}\r\n"));
        assert_eq!(seen.expect_continue, expected, "{version} {fields:?}");
    }
}

#[test]
fn limits_on_both_sides() {
    // Behind the head stands a body, so that the limit is seen to count only the head.
    let bare = with("A: \r\n").len();
    let longest = with(&format!("A: {}\r\n", "b".repeat(HEAD_BYTES_MAX - bare)));
    assert_eq!(longest.len(), HEAD_BYTES_MAX);
    assert_eq!(accepted(&format!("{longest}body")).end, HEAD_BYTES_MAX);
    let too_long = longest.replacen("A: ", "A: b", 1);
    assert_eq!(parse(too_long.as_bytes()).map_err(|r| r.status), Err(431));
    // Refused as soon as it can no longer become a good one, not before.
    assert_eq!(parse(&too_long.as_bytes()[..HEAD_BYTES_MAX - 1]), Ok(None));
    assert_eq!(parse(&too_long.as_bytes()[..HEAD_BYTES_MAX]).map_err(|r| r.status), Err(431));

    let most = with(&"a: b\r\n".repeat(HEADERS_MAX - 1));
    assert_eq!(accepted(&most).headers.len(), HEADERS_MAX);

    let target = format!("/{}", "a".repeat(TARGET_BYTES_MAX - 1));
    assert_eq!(accepted(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).path, target);
}

/// A client that sends byte by byte: each call looks at the new bytes only.
#[test]
fn no_byte_is_looked_at_twice() {
    let text = with(&format!("A: {}\r\nB: c\r\n", "b".repeat(5000)));
    let mut head = RequestHead::new();
    for n in 0..text.len() {
        assert_eq!(head.parse(&text.as_bytes()[..n]), Ok(Progress::Partial));
        assert_eq!(head.scanned, n);
    }
    assert_eq!(head.parse(text.as_bytes()), Ok(Progress::Complete { end: text.len() }));
}

#[test]
fn cleared_it_knows_nothing_of_the_last_and_keeps_its_memory() {
    let first =
        with("Connection: close\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nA: b\r\n");
    let second = "\r\nGET http://h HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut head = RequestHead::new();
    assert_eq!(head.parse(first.as_bytes()), Ok(Progress::Complete { end: first.len() }));
    let memory = (head.headers.as_ptr(), head.headers.capacity());
    head.clear();
    assert_eq!(head.parse(second.as_bytes()), Ok(Progress::Complete { end: second.len() }));
    assert_eq!(look(&head, second.len(), second.as_bytes()), accepted(second));
    assert_eq!((head.headers.as_ptr(), head.headers.capacity()), memory);
    // And asked again it says the same.
    assert_eq!(head.parse(second.as_bytes()), Ok(Progress::Complete { end: second.len() }));
}

#[test]
fn of_pipelined_requests_only_the_first() {
    let text = format!("{}GET /second HTTP/1.1\r\nHost: h\r\n\r\n", with(""));
    assert_eq!(accepted(&text), accepted(&with("")));
}

/// A wrong buffer is a mistake of the caller, not a reason to fall over.
#[test]
fn another_buffer_gives_an_empty_request() {
    let text = with("");
    let mut head = RequestHead::new();
    assert!(head.parse(text.as_bytes()).is_ok());
    let mut headers = [Header::EMPTY; HEADERS_MAX];
    let request = head.request(b"", &mut headers);
    assert_eq!((request.method, request.path, request.headers.len()), ("", "/", 1));
    assert_eq!(head.request(&[0xff; 100], &mut [Header::EMPTY; HEADERS_MAX]).method, "");
}

fn field() -> impl Strategy<Value = (String, String)> {
    // `X-` so that none is a header that means something.
    ("X-[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}", "([!-~]([ -~\t\u{80}-\u{7ff}]{0,40}[!-~])?)?")
}

prop_compose! {
    fn request()(
        empty_lines in 0..=LEADING_EMPTY_LINES_MAX,
        method in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}",
        authority in prop_oneof![Just(""), Just("http://h"), Just("HTTPS://h.example:443")],
        path in "/[!\"$->@-~]{0,60}",
        query in proptest::option::of("[!\"$-~]{0,30}"),
        framing in prop_oneof![Just(Framing::None), (0..=BODY_BYTES_MAX).prop_map(Framing::Length), Just(Framing::Chunked)],
        fields in proptest::collection::vec((field(), "[ \t]{0,3}", "[ \t]{0,3}"), 0..HEADERS_MAX - 2),
        behind in proptest::collection::vec(any::<u8>(), 0..40),
    ) -> (Vec<u8>, Seen) {
        let mut text = "\r\n".repeat(empty_lines);
        text += &format!("{method} {authority}{path}");
        if let Some(query) = &query {
            text += &format!("?{query}");
        }
        text += " HTTP/1.1\r\n";
        let mut headers = Vec::new();
        for ((name, value), before, after) in fields {
            text += &format!("{name}:{before}{value}{after}\r\n");
            headers.push((name, value.into_bytes()));
        }
        let delivery = match framing {
            Framing::None => None,
            Framing::Length(length) => Some(("content-length", length.to_string())),
            Framing::Chunked => Some(("Transfer-Encoding", "chunked".to_owned())),
        };
        for (name, value) in delivery.into_iter().chain([("Host", "h".to_owned())]) {
            text += &format!("{name}: {value}\r\n");
            headers.push((name.to_owned(), value.into_bytes()));
        }
        text += "\r\n";
        let seen = Seen {
            end: text.len(), method, path, query: query.unwrap_or_default(), headers,
            version: Version::Http11, framing, keep_alive: true, expect_continue: false,
        };
        let mut bytes = text.into_bytes();
        bytes.extend(behind);
        (bytes, seen)
    }
}

/// Pieces that make heads, good and nearly good.
fn fragments() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop_oneof![
            Just("POST /p HTTP/1.1\r\n"), Just("GET http://h/p?q HTTP/1.0\r\n"), Just("Host: \
                h\r\n"), Just("Content-Length: 5\r\n"),
            Just("Transfer-Encoding: chunked\r\n"), Just("Connection: close\r\n"), Just("Expect: \
                100-continue\r\n"), Just("A: b\r\n"),
        ].prop_map(|s: &str| s.as_bytes().to_vec()),
        1 => prop_oneof![Just("\r\n"), Just("\r\n\r\n"), Just("\n"), Just("\r"), Just(" "), Just(":"), Just("\0"), Just("HTTP/1.1")]
            .prop_map(|s: &str| s.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(piece, 0..8)
        .prop_map(|pieces| [pieces.concat(), b"\r\n".to_vec()].concat())
}

/// What holds of every head that is accepted, whatever the bytes.
fn check_accepted(buf: &[u8], seen: &Seen) {
    let head = &buf[..seen.end];
    assert!(seen.end <= HEAD_BYTES_MAX && head.ends_with(b"\r\n\r\n"));
    assert!(
        head.iter().all(|&b| b == b'\r' || b == b'\n' || b == b'\t' || (b >= b' ' && b != 0x7f))
    );
    let lines = head.windows(2).filter(|pair| pair == b"\r\n").count();
    assert_eq!(head.iter().filter(|&&b| b == b'\n').count(), lines);
    assert_eq!(head.iter().filter(|&&b| b == b'\r').count(), lines);
    assert!(seen.path.starts_with('/') && !seen.path.contains(['#', ' ', '?']));
    assert!(seen.headers.len() <= HEADERS_MAX);
    let count =
        |name: &str| seen.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).count();
    let framing = match (count("content-length"), count("transfer-encoding")) {
        (0, 0) => matches!(seen.framing, Framing::None),
        (1, 0) => matches!(seen.framing, Framing::Length(0..=BODY_BYTES_MAX)),
        (0, 1) => matches!(seen.framing, Framing::Chunked),
        _ => false,
    };
    assert!(framing, "{seen:?}");
    assert!(count("host") == 1 || (count("host") == 0 && seen.version == Version::Http10));
}

#[test]
fn a_head_request_is_known_also_where_it_is_refused() {
    for (text, is_head) in [
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("\r\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("HEAD /\r\n\r\n", true),
        ("HEAD / HTTP/1.1\r\n\r\n", true),
        ("HEAD / HTTP/3.0\r\nHost: a\r\n\r\n", true),
        ("HEAD / HTTP/1.1\r\nHost : a\r\n\r\n", true),
        ("HEAD / HTTP/1.1\nHost: a\n\n", true),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", false),
        ("GET /HEAD\r\nHEAD / HTTP/1.1\r\n\r\n", false),
        ("HEADS / HTTP/1.1\r\nHost: a\r\n\r\n", false),
        ("head / HTTP/1.1\r\nHost: a\r\n\r\n", false),
        ("HEAD", false),
        ("", false),
    ] {
        let mut head = RequestHead::new();
        let _ = head.parse(text.as_bytes());
        assert_eq!(head.is_head(text.as_bytes()), is_head, "{text:?}");
    }
}

proptest! {
    #[test]
    fn good_requests_come_out_as_they_went_in((bytes, expected) in request(), cuts in proptest::collection::vec(0..2000_usize, 0..8)) {
        prop_assert_eq!(parse(&bytes), Ok(Some(expected.clone())));
        prop_assert_eq!(parse_in_pieces(&bytes, &cuts), Ok(Some(expected)));
    }

    #[test]
    fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400), cuts in proptest::collection::vec(0..400_usize, 0..8)) {
        prop_assert_eq!(parse(&bytes), parse_in_pieces(&bytes, &cuts));
    }

    #[test]
    fn the_cuts_do_not_matter(bytes in fragments(), cuts in proptest::collection::vec(0..200_usize, 0..8)) {
        let whole = parse(&bytes);
        prop_assert_eq!(&parse_in_pieces(&bytes, &cuts), &whole);
        let every_byte: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(&parse_in_pieces(&bytes, &every_byte), &whole);
        if let Ok(Some(seen)) = &whole {
            check_accepted(&bytes, seen);
        }
    }

    /// One byte of a good request changed: refused, incomplete, or still a head of which everything
    /// holds.
    #[test]
    fn one_byte_changed((mut bytes, expected) in request(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let at = at.index(expected.end);
        bytes[at] = byte;
        if let Ok(Some(seen)) = parse(&bytes) {
            check_accepted(&bytes, &seen);
        }
    }
}
