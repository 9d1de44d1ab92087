//! A connection until its handshake is done.
//!
//! In two parts, in two queues. The hello is read as soon as it comes; it is answered, which costs
//! a signature, when those before it have been. Its time counts from accept, and from when it came:
//! after a burst of thousands nothing is done for clients that have given up.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use glommio::net::TcpStream;

use super::connection::Connection;
use super::connection_table::{ConnectionEntry, Interrupt};
use super::context::ShardContext;
use super::origin::{Origin, read_header};
use super::proxy_protocol;
use super::round_trip::round_trip_time;
use super::yielding::Fair;
use crate::tls::{HandshakeFailure, Hello};

/// A connection that was accepted.
pub(super) struct Handshake {
    shard: Rc<ShardContext>,
    origin: Origin,
    entry: ConnectionEntry,
    accepted: Instant,
    /// Of TCP's own handshake, which was over by then.
    round_trip: Duration,
}

/// A connection whose hello was read.
pub(super) struct Greeted {
    handshake: Handshake,
    hello: Hello<Fair<TcpStream>>,
    read_at: Instant,
}

impl Handshake {
    /// Its time runs from now on.
    pub(super) fn new(
        shard: Rc<ShardContext>,
        origin: Origin,
        entry: ConnectionEntry,
    ) -> Handshake {
        let accepted = Instant::now();
        entry.begin(accepted);
        Handshake { shard, origin, entry, accepted, round_trip: Duration::ZERO }
    }

    /// Reads the hello, and what a load balancer says before it.
    pub(super) async fn greet(mut self, stream: TcpStream) -> Option<Greeted> {
        // Answers are written whole; waiting for more to send only adds latency.
        let _ = stream.set_nodelay(true);
        self.round_trip = round_trip_time(&stream).unwrap_or_default();
        let mut stream = Fair::new(stream);
        if self.shard.balancers.load().has(&self.origin.client) {
            let read = self.entry.wait(read_header(&mut stream)).await;
            self.origin.told(self.succeeded(read)?);
        }
        let read = self.entry.wait(Hello::read(stream)).await;
        let hello = self.succeeded(read)?;
        if proxy_protocol::is_header(hello.bytes()) {
            let why = "a PROXY protocol header, and server.proxy_protocol does not expect one here";
            return self.succeeded(Ok(Err(HandshakeFailure::proxy_protocol(&why))));
        }
        Some(Greeted { handshake: self, hello, read_at: Instant::now() })
    }

    /// What came of a part of it; a failure is counted and logged.
    fn succeeded<T>(&self, part: Result<Result<T, HandshakeFailure>, Interrupt>) -> Option<T> {
        let failure = match part {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(failure)) => failure,
            Err(Interrupt::Deadline) => HandshakeFailure::timed_out(),
            Err(Interrupt::Draining | Interrupt::Evicted) => return None,
        };
        self.shard.handshake_failed(self.origin.client, &failure);
        None
    }
}

impl Greeted {
    /// Answers the hello; what comes of it is to be run in the queue of those that have their
    /// handshake behind them.
    pub(super) async fn answer(self) -> Option<Connection> {
        let Greeted { handshake, hello, read_at } = self;
        let tls = handshake.shard.tls.load_full();
        let accepting = tls.accept(hello, read_at.elapsed());
        let accepted = handshake.entry.wait_in_time(accepting).await;
        let stream = handshake.succeeded(accepted)?;
        let Handshake { shard, origin, entry, accepted, round_trip } = handshake;
        let set_up = accepted.elapsed() + round_trip;
        shard.metrics.handshakes.fetch_add(1, Ordering::Relaxed);
        let session = stream.get_ref().1;
        if session.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
            shard.metrics.handshakes_resumed.fetch_add(1, Ordering::Relaxed);
        }
        if session.peer_certificates().is_some() {
            entry.set_authenticated();
        }
        Some(Connection::new(shard, tls, stream, origin, entry, set_up))
    }
}
