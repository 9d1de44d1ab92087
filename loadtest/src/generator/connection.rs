//! One connection: it takes what is due, sends it, and checks what comes back. When it breaks, it
//! is opened again.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_rustls::TlsConnector;
use futures_rustls::client::TlsStream;
use futures_util::{AsyncRead, AsyncWrite};
use glommio::GlommioError;
use glommio::net::TcpStream;
use glommio::timer::sleep;
use rustls::pki_types::ServerName;

use super::dispatcher::{ConnectionState, Dispatcher, Due};
use super::tls::{Hints, tls_error};
use super::transport::Transport;
use crate::limits::{RECONNECT_PAUSE, SETUP_TIME_MAX};
use crate::target::Target;
use crate::workload::Sent;
use crate::workload::answer;

/// Read from a connection at once, bytes; several answers of the usual size.
const READ_BYTES: usize = 16 * 1024;

/// TLS sessions that a connection keeps for its next handshake; a TLS 1.3 server sends several
/// tickets, each good for one.
const SESSIONS_KEPT: usize = 8;

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    address: std::net::SocketAddr,
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    hints: Rc<Hints>,
    resume: bool,
}

impl Connector {
    pub(super) fn new(target: &Target, transport: &Transport) -> Result<Connector, String> {
        let (config, name) = super::tls::client(target, transport.tls, transport.resume)?;
        Ok(Connector {
            address: target.address,
            config,
            name,
            hints: Rc::new(Hints::of(target)),
            resume: transport.resume,
        })
    }

    /// The same with TLS sessions of its own: each connection resumes what it was itself given, and
    /// none goes without because others took the tickets of a common store.
    fn with_own_sessions(&self) -> Connector {
        let mut connector = self.clone();
        if self.resume {
            Arc::make_mut(&mut connector.config).resumption =
                rustls::client::Resumption::in_memory_sessions(SESSIONS_KEPT);
        }
        connector
    }

    /// Where connections go.
    pub(super) fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// Runs `io` of a connection for at most [`SETUP_TIME_MAX`]; an error has a hint with it where
    /// there is one.
    pub(super) async fn within<T>(
        &self,
        io: impl Future<Output = std::io::Result<T>>,
    ) -> Result<T, String> {
        within(SETUP_TIME_MAX, async {
            io.await.map_err(|e| std::io::Error::other(self.hints.explain(&e)))
        })
        .await
    }

    /// A connection with its handshake done.
    pub(super) async fn connect(
        &self,
        dispatcher: &Dispatcher,
    ) -> Result<TlsStream<TcpStream>, String> {
        let start = Instant::now();
        let unreachable = |e: GlommioError<()>| match e {
            // Without the executor's words before the system's.
            GlommioError::IoError(e) => format!("cannot connect to {}: {e}", self.address),
            e => format!("cannot connect to {}: {e}", self.address),
        };
        let tcp =
            TcpStream::connect_timeout(self.address, SETUP_TIME_MAX).await.map_err(unreachable)?;
        // Requests are written whole; waiting for more to send only adds latency.
        tcp.set_nodelay(true).map_err(unreachable)?;
        let handshake = TlsConnector::from(self.config.clone()).connect(self.name.clone(), tcp);
        let stream = self
            .within(handshake)
            .await
            .map_err(|e| format!("TLS handshake with {}: {e}", self.address))?;
        let session = stream.get_ref().1;
        dispatcher.handshake(
            start.elapsed(),
            session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        );
        let mut stats = dispatcher.stats.borrow_mut();
        if stats.protocol.is_empty() {
            let version = session.protocol_version().and_then(|v| v.as_str()).unwrap_or("?");
            let suite =
                session.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).unwrap_or("?");
            stats.protocol = format!("{version} {suite}");
        }
        Ok(stream)
    }
}

/// Runs `io` for at most `time`.
pub(super) async fn within<T>(
    time: Duration,
    io: impl Future<Output = std::io::Result<T>>,
) -> Result<T, String> {
    match glommio::future::timeout(time, io).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(format!("not done within {} s", time.as_secs_f64())),
    }
}

/// A request that waits for its answer.
struct InFlight {
    due: Due,
    sent: Sent,
    at: Instant,
}

/// Why a connection is given up.
enum End {
    /// Nothing is left to be done.
    Over,
    /// To be opened again; nothing is lost.
    Reconnect,
    /// Everything in flight is lost.
    Broken(&'static str),
    /// The same by an error of TLS, such as a client certificate that the proxy does not accept:
    /// the next connection may end as this one.
    Refused(String),
}

/// Keeps a connection open from before the run until nothing is left to be sent.
pub(super) async fn run(
    dispatcher: Rc<Dispatcher>,
    state: Rc<ConnectionState>,
    connector: Connector,
    transport: Transport,
) {
    let connector = connector.with_own_sessions();
    let depth = transport.depth;
    poll_fn(|cx| {
        state.set_waker(cx.waker().clone());
        Poll::Ready(())
    })
    .await;
    let mut first = true;
    while !dispatcher.is_over() && dispatcher.failure().is_none() {
        match connector.connect(&dispatcher).await {
            Ok(stream) => {
                if std::mem::take(&mut first) {
                    dispatcher.has_connected();
                }
                let mut connection = Connection {
                    dispatcher: &dispatcher,
                    state: &state,
                    hints: &connector.hints,
                    stream,
                    depth,
                    requests_left: transport.requests_per_connection.unwrap_or(u64::MAX),
                    in_flight: VecDeque::with_capacity(depth),
                    out: Vec::new(),
                    written: 0,
                    received: vec![0; READ_BYTES],
                    filled: 0,
                };
                match connection.run().await {
                    End::Over => return,
                    End::Refused(_) => sleep(RECONNECT_PAUSE).await,
                    End::Reconnect | End::Broken(_) => {}
                }
            }
            Err(why) if first => return dispatcher.fail(why),
            Err(why) => {
                dispatcher.connection_error(&why);
                sleep(RECONNECT_PAUSE).await;
            }
        }
    }
}

struct Connection<'a> {
    dispatcher: &'a Dispatcher,
    state: &'a Rc<ConnectionState>,
    hints: &'a Hints,
    stream: TlsStream<TcpStream>,
    depth: usize,
    /// Requests it may still send before it is opened again.
    requests_left: u64,
    in_flight: VecDeque<InFlight>,
    out: Vec<u8>,
    written: usize,
    received: Vec<u8>,
    filled: usize,
}

impl Connection<'_> {
    async fn run(&mut self) -> End {
        self.state.overdue.set(false);
        self.state.reconnect.set(false);
        let end = loop {
            self.fill();
            if self.in_flight.is_empty() {
                if self.dispatcher.is_over() {
                    break End::Over;
                }
                if self.is_to_end() {
                    break End::Reconnect;
                }
            }
            if let Err(end) = self.step().await {
                break end;
            }
        };
        self.state.oldest.set(None);
        // Woken for a request that somebody else must take now.
        if !self.state.is_free() && self.dispatcher.has_backlog() {
            self.dispatcher.wake_one();
        }
        self.state.busy();
        match &end {
            End::Broken(why) => self.lose(why),
            End::Refused(why) if self.in_flight.is_empty() => self.dispatcher.connection_error(why),
            End::Refused(why) => self.lose(why),
            End::Over | End::Reconnect => {
                // Says goodbye; whether the peer listens does not matter.
                let _ = within(
                    Duration::from_millis(200),
                    futures_util::AsyncWriteExt::close(&mut self.stream),
                )
                .await;
            }
        }
        end
    }

    /// Nothing in flight will be answered.
    fn lose(&mut self, why: &str) {
        let now = Instant::now();
        for lost in self.in_flight.drain(..) {
            self.dispatcher.completed(lost.due, lost.at, now);
            self.dispatcher.unanswered(lost.due, why);
        }
    }

    /// Takes no further request, and is opened again when those in flight are answered.
    fn is_to_end(&self) -> bool {
        self.state.reconnect.get() || self.requests_left == 0
    }

    fn has_capacity(&self) -> bool {
        self.in_flight.len() < self.depth && !self.is_to_end()
    }

    /// Takes what is due, as much as the connection may carry.
    fn fill(&mut self) {
        while self.has_capacity() {
            let Some(due) = self.dispatcher.take() else { break };
            self.requests_left -= 1;
            let mut workload = self.dispatcher.workload.borrow_mut();
            let call = workload.draw();
            let sent = workload.write(call, &mut self.out);
            let at = Instant::now();
            if self.in_flight.is_empty() {
                self.state.oldest.set(Some(at));
            }
            self.in_flight.push_back(InFlight { due, sent, at });
        }
    }

    /// Writes what is to be written.
    async fn flush(&mut self) -> Result<(), End> {
        if self.written == self.out.len() {
            return Ok(());
        }
        poll_fn(|cx| {
            while self.written < self.out.len() {
                if self.state.overdue.get() {
                    return Poll::Ready(Err(End::Broken("timeout")));
                }
                match Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]) {
                    Poll::Ready(Ok(n)) if n > 0 => self.written += n,
                    Poll::Ready(_) => {
                        return Poll::Ready(Err(End::Broken("connection broken while sending")));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
                Poll::Ready(Err(_)) => {
                    Poll::Ready(Err(End::Broken("connection broken while sending")))
                }
                Poll::Pending if self.state.overdue.get() => {
                    Poll::Ready(Err(End::Broken("timeout")))
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await?;
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Writes what is to be written, then waits for an answer, for work, or for the end.
    async fn step(&mut self) -> Result<(), End> {
        self.flush().await?;
        let has_capacity = self.has_capacity();
        if has_capacity && !self.dispatcher.is_over() {
            self.dispatcher.wait(self.state);
        }
        let mut first = true;
        let read = poll_fn(|cx| {
            if self.state.overdue.get() {
                return Poll::Ready(Some(Err(End::Broken("timeout"))));
            }
            // Woken for work, or because the end has come.
            let idle = self.in_flight.is_empty();
            if !first
                && ((has_capacity && !self.state.is_free())
                    || (idle && (self.dispatcher.is_over() || self.state.reconnect.get())))
            {
                return Poll::Ready(None);
            }
            first = false;
            match Pin::new(&mut self.stream).poll_read(cx, &mut self.received[self.filled..]) {
                Poll::Ready(Ok(n)) if n > 0 => Poll::Ready(Some(Ok(n))),
                Poll::Ready(Err(error)) if tls_error(&error).is_some() => {
                    Poll::Ready(Some(Err(End::Refused(self.hints.explain(&error)))))
                }
                // A proxy may close what is idle.
                Poll::Ready(_) if idle => Poll::Ready(Some(Err(End::Reconnect))),
                Poll::Ready(_) => {
                    Poll::Ready(Some(Err(End::Broken("connection closed before the answer"))))
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        match read {
            None => Ok(()),
            Some(read) => {
                self.filled += read?;
                self.answers(Instant::now())
            }
        }
    }

    /// Takes all answers that are whole.
    fn answers(&mut self, now: Instant) -> Result<(), End> {
        let mut at = 0;
        while at < self.filled {
            let answer = match answer::first(&self.received[at..self.filled]) {
                Ok(Some(answer)) => answer,
                Ok(None) => break,
                Err(_) => return Err(End::Broken("answer that is not HTTP/1.1")),
            };
            let Some(request) = self.in_flight.pop_front() else {
                return Err(End::Broken("answer without a request"));
            };
            at += answer.length;
            let outcome = self.dispatcher.workload.borrow_mut().check(&request.sent, &answer);
            self.dispatcher.completed(request.due, request.at, now);
            self.dispatcher.answered(request.due, request.sent.call, outcome, now);
            if answer.close {
                return Err(if self.in_flight.is_empty() {
                    End::Reconnect
                } else {
                    End::Broken("connection closed before the answer")
                });
            }
        }
        self.received.copy_within(at..self.filled, 0);
        self.filled -= at;
        if self.filled == self.received.len() {
            self.received.resize(self.filled * 2, 0);
        }
        self.state.oldest.set(self.in_flight.front().map(|request| request.at));
        Ok(())
    }
}
