//! The body of an answer (RFC 9112, sections 6.3 and 7.1): it ends with its length, its last chunk,
//! or its connection.

use httparse::{Header, Status};

use crate::limits::CHUNK_LINE_BYTES_MAX;

/// Where the body of one answer ends, while it comes in.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// With the connection.
    Open,
    /// After so many bytes more.
    Length(usize),
    /// Chunks; what is expected next.
    Chunked(Chunk),
}

/// What comes next in a body of chunks.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    /// The line with a chunk's size.
    Size,
    /// So many bytes of data.
    Data(usize),
    /// The end of the line behind the data.
    LineEnd,
    /// Nothing: the last chunk has come.
    Nothing,
}

impl Body {
    /// As the head says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(status: u16, fields: &[Header<'_>]) -> Result<Body, &'static str> {
        let values = |name: &'static str| {
            let named = fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
            named.map(|field| field.value.trim_ascii())
        };
        if let Some(coding) = values("transfer-encoding").next() {
            return if coding.eq_ignore_ascii_case(b"chunked") {
                Ok(Body::Chunked(Chunk::Size))
            } else {
                Err("its transfer coding is not \"chunked\"")
            };
        }
        if matches!(status, 204 | 304) {
            return Ok(Body::Length(0));
        }
        let mut lengths = values("content-length");
        let Some(length) = lengths.next() else { return Ok(Body::Open) };
        let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(length).ok().filter(|_| is_number);
        match number.and_then(|text| text.parse().ok()) {
            Some(bytes) if lengths.all(|other| other == length) => Ok(Body::Length(bytes)),
            _ => Err("its Content-Length is no number"),
        }
    }

    /// Moves what belongs to the body from `raw`, as it was received, to the end of `body`.
    ///
    /// # Errors
    /// What is wrong with the chunks.
    pub fn take(&mut self, raw: &mut Vec<u8>, body: &mut Vec<u8>) -> Result<(), &'static str> {
        match self {
            Body::Open => body.append(raw),
            Body::Length(left) => *left -= shift(raw, body, *left),
            Body::Chunked(chunk) => while chunk.take(raw, body)? {},
        }
        Ok(())
    }

    /// Whether nothing more of it can come.
    pub fn is_complete(&self) -> bool {
        matches!(self, Body::Length(0) | Body::Chunked(Chunk::Nothing))
    }

    /// Whether it is whole if the connection ends here.
    pub fn may_end(&self) -> bool {
        self.is_complete() || *self == Body::Open
    }
}

impl Chunk {
    /// Takes one part. False if that has not come whole yet, and after the last chunk.
    fn take(&mut self, raw: &mut Vec<u8>, body: &mut Vec<u8>) -> Result<bool, &'static str> {
        *self = match self {
            // httparse takes a line without a digit for a size of 0.
            Chunk::Size if raw.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) => {
                return Err("malformed chunk size");
            }
            Chunk::Size => match httparse::parse_chunk_size(raw) {
                Ok(Status::Complete((line, size))) if line <= CHUNK_LINE_BYTES_MAX + 1 => {
                    raw.drain(..line);
                    match usize::try_from(size).map_err(|_| "a chunk is too long")? {
                        0 => Chunk::Nothing,
                        bytes => Chunk::Data(bytes),
                    }
                }
                Ok(Status::Partial) if raw.len() <= CHUNK_LINE_BYTES_MAX => return Ok(false),
                _ => return Err("malformed chunk size"),
            },
            Chunk::Data(left) => match *left - shift(raw, body, *left) {
                0 => Chunk::LineEnd,
                bytes => {
                    *left = bytes;
                    return Ok(false);
                }
            },
            Chunk::LineEnd => match raw.get(..2) {
                Some(b"\r\n") => {
                    raw.drain(..2);
                    Chunk::Size
                }
                Some(_) => return Err("CRLF missing behind a chunk"),
                None => return Ok(false),
            },
            Chunk::Nothing => return Ok(false),
        };
        Ok(true)
    }
}

/// Moves at most so many bytes; how many.
fn shift(from: &mut Vec<u8>, to: &mut Vec<u8>, most: usize) -> usize {
    let count = from.len().min(most);
    to.extend(from.drain(..count));
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(status: u16, fields: &[(&'static str, &'static str)]) -> Result<Body, &'static str> {
        let header = |&(name, value): &(&'static str, &'static str)| Header {
            name,
            value: value.as_bytes(),
        };
        Body::of(status, &fields.iter().map(header).collect::<Vec<_>>())
    }

    /// The whole of it, as it comes in pieces of so many bytes; what is left of the text.
    fn read(mut body: Body, text: &[u8], piece: usize) -> Result<(Vec<u8>, Body), &'static str> {
        let (mut raw, mut read) = (Vec::new(), Vec::new());
        for piece in text.chunks(piece) {
            raw.extend_from_slice(piece);
            body.take(&mut raw, &mut read)?;
        }
        Ok((read, body))
    }

    #[test]
    fn the_head_says_where_it_ends() {
        assert_eq!(body(200, &[]), Ok(Body::Open));
        assert_eq!(body(204, &[]), Ok(Body::Length(0)));
        assert_eq!(body(200, &[("content-LENGTH", " 12 ")]), Ok(Body::Length(12)));
        let twice = [("Content-Length", "12"), ("Content-Length", "12")];
        assert_eq!(body(200, &twice), Ok(Body::Length(12)));
        let chunked = ("Transfer-Encoding", "Chunked");
        assert_eq!(body(200, &[chunked]), Ok(Body::Chunked(Chunk::Size)));
        // RFC 9112, 6.3: "the Transfer-Encoding overrides the Content-Length".
        assert_eq!(body(200, &[("Content-Length", "1"), chunked]), Ok(Body::Chunked(Chunk::Size)));
        for wrong in ["", "-1", "+1", "1 2", "18446744073709551616"] {
            assert!(body(200, &[("Content-Length", wrong)]).is_err(), "{wrong}");
        }
        assert!(body(200, &[("Content-Length", "1"), ("Content-Length", "2")]).is_err());
        assert!(body(200, &[("Transfer-Encoding", "gzip, chunked")]).is_err());
    }

    #[test]
    fn pieces_make_no_difference() {
        let text = b"5;x=y\r\nhello\r\n7\r\n, world\r\n0\r\nTrailer: a\r\n\r\n";
        for piece in 1..=text.len() {
            let (read, end) = read(Body::Chunked(Chunk::Size), text, piece).unwrap();
            assert_eq!((&read[..], end.is_complete()), (&b"hello, world"[..], true), "{piece}");
        }
        let (read, end) = read(Body::Length(3), b"abcd", 2).unwrap();
        assert_eq!((&read[..], end.is_complete()), (&b"abc"[..], true));
    }

    #[test]
    fn what_is_cut_off_is_not_whole() {
        let text = b"5\r\nhello\r\n0\r\n";
        for count in 1..text.len() - 1 {
            let (_, end) = read(Body::Chunked(Chunk::Size), &text[..count], 64).unwrap();
            assert!(!end.may_end(), "{count}");
        }
        assert!(!read(Body::Length(3), b"ab", 2).unwrap().1.may_end());
        let (open, end) = read(Body::Open, b"ab", 2).unwrap();
        assert!(open == b"ab" && end.may_end() && !end.is_complete());
    }

    #[test]
    fn wrong_chunks_are_refused() {
        for wrong in ["x\r\n", "5\r\nhelloXX", "fffffffffffffffff\r\n", "\r\n", "-1\r\n"] {
            assert!(read(Body::Chunked(Chunk::Size), wrong.as_bytes(), 1).is_err(), "{wrong:?}");
        }
        let line = |bytes| format!("1;{}\r\nx", "x".repeat(bytes - 4));
        for piece in [1, 4096] {
            let read =
                |line: String| read(Body::Chunked(Chunk::Size), line.as_bytes(), piece).is_ok();
            assert!(read(line(CHUNK_LINE_BYTES_MAX + 1)) && !read(line(CHUNK_LINE_BYTES_MAX + 2)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            text in prop::collection::vec(prop_oneof!["[0-9a-f\r\n;]", "."], 0..600),
            piece in 1_usize..50,
        ) {
            let text = text.concat();
            let whole = read(Body::Chunked(Chunk::Size), text.as_bytes(), text.len().max(1));
            let pieces = read(Body::Chunked(Chunk::Size), text.as_bytes(), piece);
            prop_assert_eq!(whole, pieces);
        }
    }
}
