//! The ClientHello, read before anything is done about it.
//!
//! To read it costs microseconds, to answer it a signature: a hundred times that. So it is read as
//! soon as it comes, and whoever reads it knows when that was; and when its turn to be answered has
//! come, it can be seen whether the client is still there.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{AsyncRead, AsyncWrite};
use rustls::server::Acceptor;

use super::handshake_failure::HandshakeFailure;
use crate::limits::{CLIENT_HELLO_BYTES_MAX, READ_BYTES};

/// A connection with its client's hello.
pub struct Hello<S> {
    pub(super) stream: ReadAhead<S>,
    /// There is no sense in it, and so it costs nothing to say so.
    is_malformed: bool,
}

impl<S: AsyncRead + Unpin> Hello<S> {
    /// Reads it.
    ///
    /// # Errors
    /// When the client closes the connection before, or sends more than
    /// [`CLIENT_HELLO_BYTES_MAX`].
    pub async fn read(stream: S) -> Result<Hello<S>, HandshakeFailure> {
        let mut stream = ReadAhead { stream, ahead: Vec::new(), taken: 0 };
        // Only to learn where the hello ends: it is read again when it is answered.
        let mut acceptor = Acceptor::default();
        let mut seen = 0;
        loop {
            if poll_fn(|cx| stream.poll_fill(cx)).await? == 0 {
                return Err(HandshakeFailure::of_io(&io::ErrorKind::UnexpectedEof.into(), None));
            }
            while let Some(new @ [_, ..]) = stream.ahead.get(seen..) {
                seen += acceptor.read_tls(&mut &*new)?;
                match acceptor.accept() {
                    Ok(None) => {}
                    Ok(Some(_)) => return Ok(Hello { stream, is_malformed: false }),
                    Err(_) => return Ok(Hello { stream, is_malformed: true }),
                }
            }
            if stream.ahead.len() >= CLIENT_HELLO_BYTES_MAX {
                return Err(HandshakeFailure::hello_too_long());
            }
        }
    }

    /// What was read, from the first byte on.
    pub fn bytes(&self) -> &[u8] {
        &self.stream.ahead
    }

    /// Whether the client has closed the connection behind its hello, as one does that has waited
    /// for long enough. It would not see an answer.
    pub(super) async fn is_abandoned(&mut self) -> bool {
        if self.is_malformed {
            return false;
        }
        poll_fn(|cx| {
            while self.stream.ahead.len() < CLIENT_HELLO_BYTES_MAX {
                match self.stream.poll_fill(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(true),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            Poll::Ready(false)
        })
        .await
    }
}

/// `S`, of which some bytes were read already.
pub struct ReadAhead<S> {
    stream: S,
    /// Read and not yet given to anybody from `taken` on.
    ahead: Vec<u8>,
    taken: usize,
}

impl<S: AsyncRead + Unpin> ReadAhead<S> {
    /// Reads what there is, up to [`CLIENT_HELLO_BYTES_MAX`]. 0 at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let filled = self.ahead.len();
        self.ahead.resize((filled + READ_BYTES).min(CLIENT_HELLO_BYTES_MAX), 0);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut self.ahead[filled..]);
        let count = if let Poll::Ready(Ok(count)) = read { count } else { 0 };
        self.ahead.truncate(filled + count);
        read
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let left = this.ahead.get(this.taken..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let count = left.len().min(buf.len());
        buf[..count].copy_from_slice(&left[..count]);
        this.taken += count;
        if this.taken == this.ahead.len() {
            (this.ahead, this.taken) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
