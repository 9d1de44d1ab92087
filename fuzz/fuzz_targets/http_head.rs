//! Any bytes as a request's head: no panic, the same result however they are cut, and an accepted
//! head is unambiguous.

#![no_main]

use xksd::http1::{Framing, Header, Progress, Reject, RequestHead, Version};
use xksd::limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX};

// The first byte is the size of the pieces in which the rest comes.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&piece, input)) = data.split_first() else { return };
    let mut whole = RequestHead::new();
    let outcome = whole.parse(input);

    let mut pieces = RequestHead::new();
    assert_eq!(parse_in_pieces(&mut pieces, input, usize::from(piece).max(1)), outcome);
    let mut headers = [Header::EMPTY; HEADERS_MAX];
    let mut headers_of_pieces = [Header::EMPTY; HEADERS_MAX];
    match outcome {
        Ok(Progress::Complete { end }) => {
            assert_eq!(told(&pieces), told(&whole));
            let request = whole.request(input, &mut headers);
            assert_eq!(
                format!("{request:?}"),
                format!("{:?}", pieces.request(input, &mut headers_of_pieces))
            );
            check(&input[..end], &whole, &request);
        }
        Ok(Progress::Partial) => assert!(input.len() < HEAD_BYTES_MAX),
        Err(Reject { status, .. }) => {
            assert!(matches!(status, 400 | 413 | 414 | 417 | 431 | 501 | 505))
        }
    }
});

fn told(head: &RequestHead) -> (Version, Framing, bool, bool) {
    (head.version(), head.framing(), head.keep_alive(), head.expect_continue())
}

fn parse_in_pieces(head: &mut RequestHead, input: &[u8], piece: usize) -> Result<Progress, Reject> {
    for end in (0..input.len()).step_by(piece) {
        // At another address each time.
        let complete = head.parse(&input[..end].to_vec())?;
        if complete != Progress::Partial {
            return Ok(complete);
        }
    }
    head.parse(input)
}

fn check(text: &[u8], head: &RequestHead, request: &xksd::http1::Request<'_>) {
    assert!(text.len() <= HEAD_BYTES_MAX && text.ends_with(b"\r\n\r\n"));
    let line_ends = text.windows(2).filter(|pair| pair == b"\r\n").count();
    assert_eq!(text.iter().filter(|&&b| b == b'\n').count(), line_ends);
    assert_eq!(text.iter().filter(|&&b| b == b'\r').count(), line_ends);
    assert!(!request.method.is_empty());
    assert!(request.path.starts_with('/') && !request.path.contains(['?', '#']));
    assert!(request.headers.iter().all(|h| !h.name.is_empty() && h.value.trim_ascii() == h.value));
    let framing = match head.framing() {
        Framing::None => (0, 0),
        Framing::Length(length) => {
            assert!(length <= BODY_BYTES_MAX);
            (1, 0)
        }
        Framing::Chunked => (0, 1),
    };
    assert_eq!(
        (request.values("content-length").count(), request.values("transfer-encoding").count()),
        framing
    );
    let hosts = request.values("host").count();
    assert!(hosts == 1 || (hosts == 0 && head.version() == Version::Http10));
    assert!(!head.expect_continue() || head.version() == Version::Http11);
}
