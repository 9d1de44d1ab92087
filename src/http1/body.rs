//! A request's body (RFC 9112, sections 6 and 7): found by its length, or unwrapped from its chunks
//! where it stands.

use super::framing::{Framing, is_token_byte, is_value_byte};
use super::{Progress, Reject};
use crate::limits::{BODY_BYTES_MAX, CHUNK_LINE_BYTES_MAX, CHUNKED_OVERHEAD_BYTES_MAX};

#[cfg(test)]
mod tests;

/// The body of one request while it comes in.
#[derive(Debug)]
pub struct Body {
    /// Behind the head, offset in the buffer.
    start: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Bytes.
    Length(usize),
    Chunked(Chunked),
}

impl Body {
    /// The body behind a head that ends at `start`.
    pub fn new(start: usize, framing: Framing) -> Self {
        let kind = match framing {
            Framing::None => Kind::Length(0),
            Framing::Length(length) => Kind::Length(length),
            Framing::Chunked => Kind::Chunked(Chunked::default()),
        };
        Self { start, kind }
    }

    /// Where it begins in the buffer.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Takes what was appended to `buf` since the last call. When complete, the body is
    /// `buf[start..end]`, and what the client has sent behind it starts at `end`.
    ///
    /// Chunks are unwrapped in place: after each call everything in `buf` behind the head is body,
    /// so that what is read next goes to its place at once, and only the data of a read that holds
    /// several chunks is moved, once. The time is linear in the bytes, however they are divided
    /// into calls. Bytes of the body may remain in the unused capacity of `buf`. After a [`Reject`]
    /// what stands behind the head has no meaning.
    pub fn advance(&mut self, buf: &mut Vec<u8>) -> Result<Progress, Reject> {
        match &mut self.kind {
            Kind::Length(length) => {
                let end = self.start.saturating_add(*length);
                Ok(if buf.len() >= end { Progress::Complete { end } } else { Progress::Partial })
            }
            Kind::Chunked(chunked) => chunked.decode(buf, self.start),
        }
    }
}

const DATA_TOO_LARGE: Reject = Reject { status: 413, reason: "body too large" };
const BAD_SIZE: Reject = Reject::bad_request("malformed chunk size");
const BAD_EXTENSION: Reject = Reject::bad_request("malformed chunk extension");
const BAD_LINE_END: Reject = Reject::bad_request("CRLF missing in a chunked body");
const BAD_TRAILER: Reject = Reject::bad_request("malformed trailer field");
const LINE_TOO_LONG: Reject = Reject::bad_request("chunk-size line too long");
const TOO_MUCH_FRAMING: Reject = Reject::bad_request("too much framing in a chunked body");

/// ```text
/// chunked-body = *( chunk-size [ chunk-ext ] CRLF chunk-data CRLF ) 1*"0" [ chunk-ext ] CRLF *(
/// field-line CRLF ) CRLF
/// ```
#[derive(Debug, Default)]
struct Chunked {
    state: State,
    /// Size of the chunk as far as its digits have been read; then what is to come of its data,
    /// bytes.
    chunk: usize,
    /// Length of the chunk-size line so far, bytes.
    line: usize,
    /// Data unwrapped so far, bytes.
    decoded: usize,
    /// Everything else so far, bytes: a client may not make us read much for little.
    overhead: usize,
}

/// What is expected next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    FirstDigit,
    Size,
    /// White space was there: RFC 9112, 7.1.1 allows it in front of an extension's `;` (a recipient
    /// MUST parse and remove it).
    SpaceBehindSize,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

impl Chunked {
    fn decode(&mut self, buf: &mut Vec<u8>, start: usize) -> Result<Progress, Reject> {
        // Everything before `write` is head and body; from there to `read` is framing already used
        // up.
        let mut write = start.saturating_add(self.decoded);
        let mut read = write;
        while self.state != State::Done {
            if self.state == State::Data {
                let take = self.chunk.min(buf.len().saturating_sub(read));
                if read != write {
                    buf.copy_within(read..read + take, write);
                }
                read += take;
                write += take;
                self.decoded += take;
                self.chunk -= take;
                if self.chunk > 0 {
                    break;
                }
                self.state = State::DataCr;
            }
            let Some(&byte) = buf.get(read) else { break };
            read += 1;
            self.overhead += 1;
            if self.overhead > CHUNKED_OVERHEAD_BYTES_MAX {
                return Err(TOO_MUCH_FRAMING);
            }
            self.state = self.step(byte)?;
        }
        // Close the gap; behind it there is something only when the body is complete.
        if read != write {
            let rest = buf.len().saturating_sub(read);
            buf.copy_within(read.., write);
            buf.truncate(write + rest);
        }
        Ok(if self.state == State::Done {
            Progress::Complete { end: write }
        } else {
            Progress::Partial
        })
    }

    /// One byte of framing.
    fn step(&mut self, byte: u8) -> Result<State, Reject> {
        if matches!(
            self.state,
            State::FirstDigit
                | State::Size
                | State::SpaceBehindSize
                | State::Extension
                | State::SizeLf
        ) {
            self.line += 1;
            if self.line > CHUNK_LINE_BYTES_MAX {
                return Err(LINE_TOO_LONG);
            }
        }
        match (self.state, byte) {
            (State::FirstDigit | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.size_digit(byte)
            }
            (State::Size, b'\r') => Ok(State::SizeLf),
            (State::Size | State::SpaceBehindSize, b' ' | b'\t') => Ok(State::SpaceBehindSize),
            (State::Size | State::SpaceBehindSize, b';') => Ok(State::Extension),
            (State::FirstDigit | State::Size | State::SpaceBehindSize, _) => Err(BAD_SIZE),

            // RFC 9112, 7.1.1: "A recipient MUST ignore unrecognized chunk extensions". A quoted
            // string cannot hold a line end either, so that their grammar does not matter for where
            // the line ends.
            (State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, _) if is_value_byte(byte) => Ok(State::Extension),
            (State::Extension, _) => Err(BAD_EXTENSION),

            (State::SizeLf, b'\n') => {
                self.line = 0;
                Ok(if self.chunk == 0 { State::TrailerStart } else { State::Data })
            }
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::FirstDigit),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::EndLf, b'\n') => Ok(State::Done),
            (
                State::SizeLf | State::DataCr | State::DataLf | State::TrailerLf | State::EndLf,
                _,
            ) => Err(BAD_LINE_END),

            // Trailer fields are discarded, as RFC 9112, 7.1.2 allows: nothing that comes behind
            // the body may change what it means.
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::TrailerStart | State::TrailerName, _) if is_token_byte(byte) => {
                Ok(State::TrailerName)
            }
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if is_value_byte(byte) => Ok(State::TrailerValue),
            (State::TrailerStart | State::TrailerName | State::TrailerValue, _) => Err(BAD_TRAILER),

            // `decode` gives no byte to these.
            (State::Data | State::Done, _) => Ok(self.state),
        }
    }

    fn size_digit(&mut self, digit: u8) -> Result<State, Reject> {
        let value = char::from(digit).to_digit(16).ok_or(BAD_SIZE)? as usize;
        // `chunk` is 0 at the first digit, and never above BODY_BYTES_MAX: no overflow.
        self.chunk = self.chunk * 16 + value;
        if self.chunk > BODY_BYTES_MAX - self.decoded {
            return Err(DATA_TOO_LARGE);
        }
        Ok(State::Size)
    }
}
