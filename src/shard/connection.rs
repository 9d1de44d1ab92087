//! One connection behind its handshake: requests one after the other until either side has enough.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::Guard;
use futures_rustls::server::TlsStream;
use futures_util::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;
use zeroize::Zeroize;

use super::connection_table::{ConnectionEntry, Interrupt};
use super::context::ShardContext;
use super::origin::Origin;
use super::yielding::{Fair, give_way};
use crate::http1::{Body, CONTINUE, Header, Progress, Reject, RequestHead, Response, Version};
use crate::limits::{
    BODY_TIME_MAX, BUFFER_KEPT_BYTES_MAX, HEAD_TIME_MAX, HEADERS_MAX, LINGER_BYTES_MAX,
    LINGER_TIME_MAX, READ_BYTES, WRITE_TIME_MAX,
};
use crate::pipeline::Arrival;
use crate::tls::{self, ReadAhead};

/// What a connection is read from and written to.
pub(super) type Stream = TlsStream<ReadAhead<Fair<TcpStream>>>;

/// A client's connection behind its handshake.
pub(super) struct Connection {
    shard: Rc<ShardContext>,
    /// The generation of TLS that admitted the client.
    tls: Arc<tls::Server>,
    stream: Stream,
    origin: Origin,
    /// Of its certificate.
    common_name: Option<Arc<str>>,
    entry: ConnectionEntry,
    /// See [`Arrival::set_up`]; zero behind the first request.
    set_up: Duration,
    /// Received and not yet done: a request's head, its body, and what is pipelined behind.
    buffer: Vec<u8>,
    /// When the bytes at the buffer's end came.
    last_read: Instant,
    head: RequestHead,
    /// JSON of the answer.
    body: Vec<u8>,
    /// The answer as it goes to TLS.
    out: Vec<u8>,
}

/// How a connection ends early: nothing more can be said to the peer.
enum End {
    Closed,
    TimedOut,
    Drained,
}

impl From<Interrupt> for End {
    fn from(interrupt: Interrupt) -> End {
        match interrupt {
            Interrupt::Deadline => End::TimedOut,
            Interrupt::Draining => End::Drained,
            // Its place is taken: no time for a goodbye.
            Interrupt::Evicted => End::Closed,
        }
    }
}

/// What became of reading one request.
enum Read {
    /// Body in `buffer[start..end]`.
    Whole {
        start: usize,
        end: usize,
    },
    /// To be refused without its body.
    WithoutBody,
    Rejected(Reject),
}

impl Connection {
    /// Admitted by `tls`, after `set_up`.
    pub(super) fn new(
        shard: Rc<ShardContext>,
        tls: Arc<tls::Server>,
        stream: Stream,
        origin: Origin,
        entry: ConnectionEntry,
        set_up: Duration,
    ) -> Connection {
        let common_name = tls::client_common_name(stream.get_ref().1).map(Arc::from);
        Connection {
            shard,
            tls,
            stream,
            origin,
            common_name,
            entry,
            set_up,
            buffer: Vec::new(),
            last_read: Instant::now(),
            head: RequestHead::new(),
            body: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Serves it until its end.
    pub(super) async fn serve(mut self) {
        // Every way to end is here: what a peer does to its own connection is not worth a word.
        let _ = self.run().await;
    }

    async fn run(&mut self) -> Result<(), End> {
        loop {
            if self.buffer.is_empty() {
                self.entry.await_request(Instant::now());
                match self.read().await {
                    Ok(()) => {}
                    Err(End::Drained | End::TimedOut) => return self.close().await,
                    Err(End::Closed) => return Err(End::Closed),
                }
            }
            let mut arrival = Arrival {
                first_byte: self.last_read,
                set_up: std::mem::take(&mut self.set_up),
                head_read: SystemTime::UNIX_EPOCH,
                client: self.origin.client,
                common_name: self.common_name.clone(),
                vpce: self.origin.vpce.clone(),
            };
            let read = match self.read_request(&mut arrival).await {
                Ok(read) => read,
                Err(End::TimedOut) => Read::Rejected(Reject {
                    status: 408,
                    reason: "the request did not arrive in time",
                }),
                Err(end) => return Err(end),
            };
            if !self.is_still_admitted() {
                return self.linger().await;
            }
            self.entry.clear_deadline();
            if !self.answer(read, &arrival).await? {
                return self.linger().await;
            }
            if !self.buffer.is_empty() {
                // Nothing is waited for between pipelined requests: without this the others would
                // wait for all of them.
                give_way().await;
            }
        }
    }

    /// Whether the client would be admitted today. Costs a comparison, but for the first request
    /// after a reload.
    fn is_still_admitted(&mut self) -> bool {
        let current = self.shard.tls.load();
        if Arc::ptr_eq(&current, &self.tls) {
            return true;
        }
        match current.readmit(&self.tls, self.stream.get_ref().1) {
            Ok(()) => {
                self.tls = Guard::into_inner(current);
                true
            }
            Err(failure) => {
                self.shard.withdrawn(self.origin.client, &failure);
                false
            }
        }
    }

    /// Reads some more bytes behind those in the buffer.
    async fn read(&mut self) -> Result<(), End> {
        let filled = self.buffer.len();
        drop(grow(&mut self.buffer, READ_BYTES));
        let read = self.entry.wait(self.stream.read(&mut self.buffer[filled..])).await;
        self.buffer.truncate(filled + if let Ok(Ok(n)) = read { n } else { 0 });
        match read? {
            Ok(0) | Err(_) => Err(End::Closed),
            Ok(_) => {
                self.last_read = Instant::now();
                Ok(())
            }
        }
    }

    async fn read_request(&mut self, arrival: &mut Arrival) -> Result<Read, End> {
        self.entry.set_deadline(arrival.first_byte + HEAD_TIME_MAX);
        let head_end = loop {
            match self.head.parse(&self.buffer) {
                Ok(Progress::Complete { end }) => break end,
                Ok(Progress::Partial) => self.read().await?,
                Err(reject) => return Ok(Read::Rejected(reject)),
            }
        };
        arrival.head_read = SystemTime::now();
        let mut body = Body::new(head_end, self.head.framing());
        let mut asked_for_body = false;
        loop {
            match body.advance(&mut self.buffer) {
                Ok(Progress::Complete { end }) => return Ok(Read::Whole { start: head_end, end }),
                Ok(Progress::Partial) => {}
                Err(reject) => return Ok(Read::Rejected(reject)),
            }
            if !asked_for_body {
                // Only now, so that the usual request, whole in one read, is looked at once.
                let wanted = {
                    let mut headers = [Header::EMPTY; HEADERS_MAX];
                    self.shard
                        .pipeline
                        .wants_body(&self.head.request(&self.buffer, &mut headers), arrival)
                };
                if !wanted {
                    return Ok(Read::WithoutBody);
                }
                if self.head.expect_continue() {
                    self.write(|out| out.extend_from_slice(CONTINUE)).await?;
                }
                self.entry.set_deadline(Instant::now() + BODY_TIME_MAX);
                asked_for_body = true;
            }
            self.read().await?;
        }
    }

    /// Answers; false when the connection ends with this answer.
    async fn answer(&mut self, read: Read, arrival: &Arrival) -> Result<bool, End> {
        self.body.clear();
        let pipeline = &self.shard.pipeline;
        let mut headers = [Header::EMPTY; HEADERS_MAX];
        let without_body = self.head.is_head(&self.buffer);
        let (status, consumed) = match read {
            Read::Whole { start, end } => {
                let request = self.head.request(&self.buffer, &mut headers);
                (
                    pipeline
                        .on_request(&request, &self.buffer[start..end], arrival, &mut self.body)
                        .await,
                    Some(end),
                )
            }
            Read::WithoutBody => {
                let request = self.head.request(&self.buffer, &mut headers);
                (pipeline.on_request(&request, &[], arrival, &mut self.body).await, None)
            }
            Read::Rejected(reject) => (pipeline.on_reject(&reject, arrival, &mut self.body), None),
        };
        // Nothing that is not signed is answered so.
        if status == 200 {
            self.entry.set_authenticated();
        }
        // While draining, what the client has sent already is still answered; the last answer of it
        // closes.
        let may_stay = |end: usize| !self.entry.is_draining() || end < self.buffer.len();
        let keep_alive = consumed.is_some_and(may_stay) && self.head.keep_alive();
        let version = if consumed.is_some() { self.head.version() } else { Version::Http11 };
        let body = std::mem::take(&mut self.body);
        let written = self
            .write(|out| {
                Response { status, version, keep_alive, without_body, body: &body }.write(out)
            })
            .await;
        self.body = body;
        self.wipe(consumed.unwrap_or(self.buffer.len()));
        written?;
        self.head.clear();
        Ok(keep_alive)
    }

    /// Writes what `fill` puts into the output buffer, whole.
    async fn write(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), End> {
        self.out.clear();
        fill(&mut self.out);
        self.entry.set_deadline(Instant::now() + WRITE_TIME_MAX);
        let stream = &mut self.stream;
        let out = &self.out;
        let written = self
            .entry
            .wait(async {
                stream.write_all(out).await?;
                stream.flush().await
            })
            .await;
        match written? {
            Ok(()) => Ok(()),
            Err(_) => Err(End::Closed),
        }
    }

    /// Zeroes plaintext that came or went, and drops what is done from the buffer's front.
    fn wipe(&mut self, done: usize) {
        wipe(&mut self.body);
        wipe(&mut self.out);
        if done >= self.buffer.len() {
            // The usual case.
            wipe(&mut self.buffer);
        } else {
            let left = self.buffer.len() - done;
            self.buffer.copy_within(done.., 0);
            self.buffer[left..].zeroize();
            self.buffer.truncate(left);
        }
        for buffer in [&mut self.buffer, &mut self.body, &mut self.out] {
            if buffer.is_empty() && buffer.capacity() > BUFFER_KEPT_BYTES_MAX {
                *buffer = Vec::new();
            }
        }
    }

    /// Says goodbye in TLS.
    async fn close(&mut self) -> Result<(), End> {
        self.entry.set_deadline(Instant::now() + WRITE_TIME_MAX);
        let _ = self.entry.wait(self.stream.close()).await?;
        Ok(())
    }

    /// Closes after an answer that the client may not have read while it was still sending: a close
    /// with unread bytes is a reset, which would take the answer with it. So what still comes is
    /// read and thrown away, within bounds.
    async fn linger(&mut self) -> Result<(), End> {
        self.close().await?;
        self.entry.set_deadline(Instant::now() + LINGER_TIME_MAX);
        let (socket, _) = Pin::new(&mut self.stream).get_mut().get_mut();
        let mut thrown_away = 0;
        let mut scratch = vec![0; READ_BYTES];
        while thrown_away < LINGER_BYTES_MAX {
            match self.entry.wait(socket.read(&mut scratch)).await? {
                Ok(0) | Err(_) => break,
                Ok(n) => thrown_away += n,
            }
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Also when the peer vanished in the middle of a request.
        for buffer in [&mut self.buffer, &mut self.body, &mut self.out] {
            wipe(buffer);
        }
    }
}

/// Empties and zeroes the whole capacity, because unwrapped chunks leave bytes behind the end. As
/// `Vec`'s `Zeroize`, which writes each byte by itself, volatile: with the buffers of a usual
/// request that was 3 % of its CPU time.
fn wipe(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(buffer.capacity(), 0);
    zeroize::optimization_barrier(buffer.as_slice());
    buffer.clear();
}

/// `more` zeros behind what `buffer` holds. Gives the memory that had become too small, wiped:
/// `Vec` would free it with the plaintext in it.
fn grow(buffer: &mut Vec<u8>, more: usize) -> Vec<u8> {
    let mut outgrown = Vec::new();
    let length = buffer.len() + more;
    if length > buffer.capacity() && !buffer.is_empty() {
        let mut larger = Vec::with_capacity(length.max(2 * buffer.capacity()));
        larger.extend_from_slice(buffer);
        outgrown = std::mem::replace(buffer, larger);
        wipe(&mut outgrown);
    }
    buffer.resize(length, 0);
    outgrown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_outgrown_is_wiped() {
        let mut buffer = Vec::new();
        assert_eq!(grow(&mut buffer, 4).capacity(), 0, "there was none");
        buffer.copy_from_slice(b"text");
        let (address, headers) = (buffer.as_ptr(), buffer.capacity());
        let outgrown = grow(&mut buffer, headers);
        assert_eq!((outgrown.as_ptr(), outgrown.capacity(), outgrown.len()), (address, headers, 0));
        assert_eq!(buffer, [b"text".as_slice(), &vec![0; headers]].concat());
        buffer.truncate(4);
        assert_eq!(grow(&mut buffer, headers).capacity(), 0, "there is headers");
        assert_eq!(buffer.len(), 4 + headers);
    }
}
