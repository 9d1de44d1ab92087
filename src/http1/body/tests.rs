use proptest::prelude::*;

use super::*;

const HEAD: &[u8] = b"POST / HTTP/1.1\r\n\r\n";

/// Body and what follows it; `None`: more is needed.
type Decoded = Result<Option<(Vec<u8>, Vec<u8>)>, Reject>;

/// Feeds `input` behind a head in pieces that end at each of `cuts`.
fn decode_in_pieces(framing: Framing, input: &[u8], cuts: &[usize]) -> Decoded {
    let mut cuts: Vec<usize> =
        cuts.iter().map(|&cut| cut.min(input.len())).chain([input.len()]).collect();
    cuts.sort_unstable();
    let mut buf = HEAD.to_vec();
    let mut body = Body::new(buf.len(), framing);
    let mut fed = 0;
    for cut in cuts {
        buf.extend_from_slice(&input[fed..cut]);
        fed = cut;
        let progress = body.advance(&mut buf)?;
        assert!(buf.starts_with(HEAD));
        if let Progress::Complete { end } = progress {
            buf.extend_from_slice(&input[fed..]);
            let following = buf.split_off(end);
            return Ok(Some((buf.split_off(HEAD.len()), following)));
        }
        if let Kind::Chunked(chunked) = &body.kind {
            assert_eq!(buf.len(), HEAD.len() + chunked.decoded, "framing is left in the buffer");
        }
    }
    Ok(None)
}

fn decode(input: impl AsRef<[u8]>) -> Decoded {
    decode_in_pieces(Framing::Chunked, input.as_ref(), &[])
}

fn status(input: impl AsRef<[u8]>) -> Result<bool, u16> {
    decode(input).map(|decoded| decoded.is_some()).map_err(|reject| reject.status)
}

#[test]
fn chunks_become_one_body_and_what_follows_stays() {
    for (input, body, following) in [
        ("0\r\n\r\n", "", ""),
        ("5\r\nhello\r\n0\r\n\r\nPOST /next", "hello", "POST /next"),
        ("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world", ""),
        ("A\r\n0123456789\r\n000\r\n\r\n\r\n", "0123456789", "\r\n"),
        ("a;name=value;x=\"q;\\\"y\"\r\n0123456789\r\n0;last\r\n\r\n", "0123456789", ""),
        ("1 \t;a\r\nx\r\n0\r\n\r\n", "x", ""),
        ("4\r\n\r\n0\r\r\n0\r\nA: b\r\nContent-Length: 99\r\nC:\r\n\r\nrest", "\r\n0\r", "rest"),
    ] {
        let expected = Ok(Some((body.as_bytes().to_vec(), following.as_bytes().to_vec())));
        assert_eq!(decode(input), expected, "{input:?}");
        let every_byte: Vec<usize> = (0..input.len()).collect();
        assert_eq!(
            decode_in_pieces(Framing::Chunked, input.as_bytes(), &every_byte),
            expected,
            "{input:?}, byte by byte"
        );
    }
}

#[test]
fn refusals() {
    for (name, input) in [
        ("empty size", "\r\nhello"),
        ("space before size", " 5\r\nhello\r\n0\r\n\r\n"),
        ("size with sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("negative size", "-1\r\n"),
        ("size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("size not hexadecimal", "g\r\n"),
        ("size with underscore", "1_0\r\n"),
        ("space behind size", "5 \r\nhello\r\n0\r\n\r\n"),
        ("size, space, size", "5 5\r\nhello"),
        ("no size, extension", ";a\r\n"),
        ("bare LF behind size", "5\nhello\r\n0\r\n\r\n"),
        ("bare CR behind size", "5\rhello\r\n0\r\n\r\n"),
        ("bare LF in extension", "5;a\nhello\r\n0\r\n\r\n"),
        ("bare CR in extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("NUL in extension", "5;\0\r\nhello\r\n0\r\n\r\n"),
        ("DEL in extension", "5;\x7f\r\nhello\r\n0\r\n\r\n"),
        ("data longer than its size", "5\r\nhello!\r\n0\r\n\r\n"),
        ("bare LF behind data", "5\r\nhello\n0\r\n\r\n"),
        ("bare CR behind data", "5\r\nhello\r0\r\n\r\n"),
        ("no line end behind data", "5\r\nhello0\r\n\r\n"),
        ("bare LF at the end", "0\r\n\n"),
        ("bare CR at the end", "0\r\n\rX"),
        ("bare LF behind last size", "0\n\r\n"),
        ("folded trailer", "0\r\nA: b\r\n c\r\n\r\n"),
        ("trailer without colon", "0\r\nA\r\n\r\n"),
        ("trailer without name", "0\r\n: b\r\n\r\n"),
        ("trailer with space before colon", "0\r\nA : b\r\n\r\n"),
        ("NUL in trailer", "0\r\nA: \0\r\n\r\n"),
        ("bare CR in trailer", "0\r\nA: b\rc\r\n\r\n"),
        ("bare LF behind trailer", "0\r\nA: b\n\r\n"),
        ("request for trailer", "0\r\nPOST / HTTP/1.1\r\n\r\n"),
    ] {
        assert_eq!(status(input), Err(400), "{name}");
        let every_byte: Vec<usize> = (0..input.len()).collect();
        assert_eq!(
            decode_in_pieces(Framing::Chunked, input.as_bytes(), &every_byte),
            decode(input),
            "{name}, byte by byte"
        );
    }
}

#[test]
fn incomplete_is_not_refused() {
    let input = "5;a\r\nhello\r\n0\r\nA: b\r\n\r\n";
    for n in 0..input.len() {
        assert_eq!(status(&input[..n]), Ok(false), "{n}");
    }
    assert_eq!(status(input), Ok(true));
}

#[test]
fn body_size_on_both_sides() {
    let data = "x".repeat(BODY_BYTES_MAX);
    assert_eq!(status(format!("{:x}\r\n{data}\r\n0\r\n\r\n", BODY_BYTES_MAX)), Ok(true));
    // Refused at the size, before any data is taken in.
    assert_eq!(status(format!("{:x}", BODY_BYTES_MAX + 1)), Err(413));
    assert_eq!(status("fffffffffffffffff"), Err(413));
    assert_eq!(status("8000000000000000"), Err(413));
    // Over several chunks.
    let most = format!("{:x}\r\n{}\r\n", BODY_BYTES_MAX - 1, &data[1..]);
    assert_eq!(status(format!("{most}1\r\nx\r\n0\r\n\r\n")), Ok(true));
    assert_eq!(status(format!("{most}2\r\n")), Err(413));
}

#[test]
fn size_line_on_both_sides() {
    // The line is counted with its CRLF.
    let longest = format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(CHUNK_LINE_BYTES_MAX - 4));
    assert_eq!(status(&longest), Ok(true));
    assert_eq!(decode(longest.replacen(';', ";a", 1)), Err(LINE_TOO_LONG));
    assert_eq!(status(format!("{}\r\n\r\n", "0".repeat(CHUNK_LINE_BYTES_MAX - 2))), Ok(true));
    assert_eq!(decode("0".repeat(CHUNK_LINE_BYTES_MAX + 1)), Err(LINE_TOO_LONG));
}

#[test]
fn framing_overhead_on_both_sides() {
    // One-byte chunks: five bytes of framing each; the last chunk and the empty line take five, a
    // trailer fills up.
    let chunks = CHUNKED_OVERHEAD_BYTES_MAX / 5 - 2;
    let filled = chunks * 5 + 5 + "a:\r\n".len();
    let input = |more: usize| {
        format!(
            "{}0\r\na:{}\r\n\r\n",
            "1\r\nx\r\n".repeat(chunks),
            "b".repeat(CHUNKED_OVERHEAD_BYTES_MAX - filled + more)
        )
    };
    assert_eq!(decode(input(0)), Ok(Some(("x".repeat(chunks).into_bytes(), Vec::new()))));
    assert_eq!(decode(input(1)), Err(TOO_MUCH_FRAMING));
}

#[test]
fn length_takes_so_many_and_no_more() {
    for cuts in [&[][..], &[0, 1, 4, 5, 6], &[3]] {
        let decode = |framing, input: &[u8]| decode_in_pieces(framing, input, cuts);
        assert_eq!(decode(Framing::Length(5), b"hello"), Ok(Some((b"hello".to_vec(), Vec::new()))));
        assert_eq!(
            decode(Framing::Length(5), b"hello, next"),
            Ok(Some((b"hello".to_vec(), b", next".to_vec())))
        );
        assert_eq!(decode(Framing::Length(5), b"hell"), Ok(None));
        assert_eq!(decode(Framing::Length(0), b"next"), Ok(Some((Vec::new(), b"next".to_vec()))));
        assert_eq!(decode(Framing::None, b"next"), Ok(Some((Vec::new(), b"next".to_vec()))));
    }
}

#[test]
fn complete_stays_complete() {
    for (framing, input) in [(Framing::Chunked, "1\r\nx\r\n0\r\n\r\n"), (Framing::Length(1), "x")] {
        let mut buf = [HEAD, input.as_bytes()].concat();
        let mut body = Body::new(HEAD.len(), framing);
        let end = HEAD.len() + 1;
        assert_eq!(body.advance(&mut buf), Ok(Progress::Complete { end }));
        buf.extend_from_slice(b"5\r\nhello");
        assert_eq!(body.advance(&mut buf), Ok(Progress::Complete { end }));
        assert_eq!(&buf[end..], b"5\r\nhello");
    }
}

prop_compose! {
    /// A chunked text, and the body in it.
    fn chunked()(
        chunks in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 1..80), "0{0,3}", "(;[ -~]{0,20})?", any::<bool>()), 0..12),
        trailers in proptest::collection::vec("[A-Za-z-]{1,10}:[ -~]{0,20}", 0..3),
    ) -> (Vec<u8>, Vec<u8>) {
        let mut text = Vec::new();
        let mut body = Vec::new();
        for (data, zeros, extension, upper) in chunks {
            let size = if upper { format!("{:X}", data.len()) } else { format!("{:x}", data.len()) };
            text.extend(format!("{zeros}{size}{extension}\r\n").into_bytes());
            text.extend(&data);
            text.extend(b"\r\n");
            body.extend(data);
        }
        text.extend(b"0\r\n");
        for trailer in trailers {
            text.extend(format!("{trailer}\r\n").into_bytes());
        }
        text.extend(b"\r\n");
        (text, body)
    }
}

proptest! {
    #[test]
    fn any_chunks_any_cuts((mut text, body) in chunked(), following in proptest::collection::vec(any::<u8>(), 0..40), cuts in proptest::collection::vec(0..1500_usize, 0..12)) {
        text.extend(&following);
        let expected = Ok(Some((body, following)));
        prop_assert_eq!(&decode(&text), &expected);
        prop_assert_eq!(&decode_in_pieces(Framing::Chunked, &text, &cuts), &expected);
    }

    /// Bytes out of which framing is made: deep states are reached, and left by error.
    #[test]
    fn the_cuts_do_not_matter(input in "(([0-3];?|5 |\r\n|0\r\n|\r|\n|a:|;b|x){0,40})|((1\r\n[ \
        -~]\r\n){0,3}0\r\n[a:\r\n ]{0,8})", cuts in proptest::collection::vec(0..100_usize, 0..8)) {
        let whole = decode(&input);
        prop_assert_eq!(&decode_in_pieces(Framing::Chunked, input.as_bytes(), &cuts), &whole);
        let every_byte: Vec<usize> = (0..input.len()).collect();
        prop_assert_eq!(&decode_in_pieces(Framing::Chunked, input.as_bytes(), &every_byte), &whole);
    }

    #[test]
    fn no_bytes_do_harm((mut text, _) in chunked(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cuts in proptest::collection::vec(0..1500_usize, 0..8)) {
        let at = at.index(text.len());
        text[at] = byte;
        prop_assert_eq!(decode(&text), decode_in_pieces(Framing::Chunked, &text, &cuts));
    }
}
