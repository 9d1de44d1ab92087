//! One POST over plain HTTP, blocking. Checkpoints are public and signed: TLS would hide nothing,
//! and what is changed on the way is not accepted.

use std::io::Write;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Instant;

use crate::config::Url;
use crate::control::connections::read;
use crate::limits::{WITNESS_ANSWER_BYTES_MAX, WITNESS_TIME_MAX};

/// Field lines of an answer.
const FIELDS_MAX: usize = 64;

/// Status and body of the answer.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn post(url: &Url, path: &str, body: &str) -> Result<(u16, String), String> {
    let end = Instant::now() + WITNESS_TIME_MAX;
    let mut addresses = (url.host.as_str(), url.port)
        .to_socket_addrs()
        .map_err(|error| format!("looking up {}: {error}", url.host))?;
    let address = addresses.next().ok_or_else(|| format!("{} has no address", url.host))?;
    let mut stream = TcpStream::connect_timeout(&address, WITNESS_TIME_MAX)
        .map_err(|error| format!("connecting to {address}: {error}"))?;
    let failed = |error: std::io::Error| format!("{address}: {error}");
    stream.set_write_timeout(Some(WITNESS_TIME_MAX)).map_err(failed)?;
    // HTTP/1.0: the answer ends with the connection, and has no chunks.
    let request = format!(
        "POST {}{path} HTTP/1.0\r\nHost: {}\r\nContent-Type: text/plain\r\nContent-Length: \
         {}\r\n\r\n{body}",
        url.prefix,
        url.authority(),
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    while answer.len() <= WITNESS_ANSWER_BYTES_MAX {
        match read(&stream, &mut chunk, end).map_err(failed)? {
            0 => return parse(&answer).ok_or_else(|| format!("{address}: no HTTP answer")),
            n => answer.extend_from_slice(&chunk[..n]),
        }
    }
    Err(format!("{address}: an answer of more than {WITNESS_ANSWER_BYTES_MAX} bytes"))
}

fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(end) = head.parse(answer).ok()? else { return None };
    Some((head.code?, String::from_utf8_lossy(answer.get(end..)?).into_owned()))
}
