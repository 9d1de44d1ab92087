//! Any bytes as the body of an answer to the HTTP client: no panic, the same however they are cut,
//! never more than what was sent.

#![no_main]

use xksd::control::http_client::body::{Body, Chunk};

// The first byte is the size of the pieces in which the rest comes, the second one the framing.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [piece, framing, text @ ..] = data else { return };
    let body = || match framing {
        0 => Body::Open,
        1..128 => Body::Length(usize::from(*framing)),
        _ => Body::Chunked(Chunk::Size),
    };
    let whole = read(body(), text, text.len().max(1));
    assert_eq!(read(body(), text, usize::from(*piece).max(1)), whole);
    if let Ok((read, _)) = whole {
        assert!(read.len() <= text.len());
    }
});

fn read(mut body: Body, text: &[u8], piece: usize) -> Result<(Vec<u8>, Body), &'static str> {
    let (mut raw, mut read) = (Vec::new(), Vec::new());
    for piece in text.chunks(piece) {
        raw.extend_from_slice(piece);
        body.take(&mut raw, &mut read)?;
    }
    Ok((read, body))
}
