//! Any bytes as a chunked body: no panic, the same result however they are cut, bounds kept,
//! nothing behind the body lost.

#![no_main]

use xksd::http1::{Body, Framing, Progress, Reject};
use xksd::limits::{BODY_BYTES_MAX, CHUNKED_OVERHEAD_BYTES_MAX};

const HEAD: &[u8] = b"head";

// The first byte is the size of the pieces in which the rest comes.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&piece, input)) = data.split_first() else { return };
    let whole = decode(input, input.len().max(1));
    assert_eq!(decode(input, usize::from(piece).max(1)), whole);
    match whole {
        Ok(Some((body, following))) => {
            assert!(body.len() <= BODY_BYTES_MAX);
            assert!(input.ends_with(&following));
            let framing = input.len() - following.len() - body.len();
            assert!((5..=CHUNKED_OVERHEAD_BYTES_MAX).contains(&framing));
        }
        Ok(None) => assert!(input.len() <= BODY_BYTES_MAX + CHUNKED_OVERHEAD_BYTES_MAX),
        Err(Reject { status, .. }) => assert!(matches!(status, 400 | 413)),
    }
});

/// Body and what follows it; `None`: more is needed.
fn decode(input: &[u8], piece: usize) -> Result<Option<(Vec<u8>, Vec<u8>)>, Reject> {
    let mut buf = HEAD.to_vec();
    let mut body = Body::new(HEAD.len(), Framing::Chunked);
    let mut pieces = input.chunks(piece);
    while let Some(piece) = pieces.next() {
        buf.extend_from_slice(piece);
        let progress = body.advance(&mut buf)?;
        assert!(buf.starts_with(HEAD));
        if let Progress::Complete { end } = progress {
            let mut following = buf.split_off(end);
            following.extend(pieces.flatten());
            return Ok(Some((buf.split_off(HEAD.len()), following)));
        }
    }
    Ok(None)
}
