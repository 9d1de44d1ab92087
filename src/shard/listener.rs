//! A shard's listener. All shards listen on the same port; the kernel spreads connections over them
//! (SO_REUSEPORT). Or on sockets that were passed to this process, one or several of them.
//!
//! `unsafe` is here for bare descriptors: sockets are passed as numbers, and the executor makes
//! listeners with a backlog of 1,024 and takes another only so.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{FromRawFd, IntoRawFd, RawFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::sleep;
use socket2::{Domain, Protocol, Socket, Type};

use super::stop::Stop;
use crate::limits::LISTEN_BACKLOG;

/// [`settle`] takes so long at the most, and tries again after this.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(1);
const SETTLE_RETRY: Duration = Duration::from_millis(5);

/// Where a shard's connections come from.
#[derive(Clone, Debug)]
pub enum Listen {
    /// A socket that it opens on this address.
    On(SocketAddr),
    /// A listening socket that was passed to this process, and that other shards may share.
    Passed(Arc<Socket>),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On(address) => address.fmt(f),
            Self::Passed(_) => f.write_str("the socket that was passed"),
        }
    }
}

/// Takes over a listening socket that was passed to this process under this number.
///
/// # Errors
/// When it is none for TCP over IP.
pub fn adopt(descriptor: RawFd) -> io::Result<Socket> {
    // SAFETY: whoever started this process has given it the descriptor, and nobody else here knows
    // it: each is taken once, before anything else is opened. One that is not open is found out by
    // the calls below.
    let socket = unsafe { Socket::from_raw_fd(descriptor) };
    socket.set_cloexec(true)?;
    let is_tcp = socket.r#type()? == Type::STREAM && socket.local_addr()?.as_socket().is_some();
    if is_tcp && socket.is_listener()? {
        Ok(socket)
    } else {
        Err(io::Error::other("it is not a listening TCP socket"))
    }
}

/// Listens, to be used on this thread's executor.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2).
pub(super) fn listen(from: &Listen) -> io::Result<(SocketAddr, TcpListener)> {
    let socket = match from {
        Listen::On(address) => bind(*address)?,
        Listen::Passed(socket) => socket.try_clone()?,
    };
    socket.set_nonblocking(true)?;
    let bound = socket.local_addr()?.as_socket();
    let bound = bound.ok_or_else(|| io::Error::other("a socket without an IP address"))?;
    // SAFETY: the descriptor is an open listening socket, and nobody else owns it: `into_raw_fd`
    // has given it away.
    let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
    Ok((bound, listener))
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket)
}

/// The next connection; `None` when the shard is to stop.
pub(super) async fn accept(
    listener: &TcpListener,
    stop: &Stop,
) -> Option<Result<TcpStream, String>> {
    poll_fn(|cx| {
        if stop.poll_requested(cx.waker()) {
            return Poll::Ready(None);
        }
        // The listener keeps its place between polls, so that leaving here loses no connection.
        listener.poll_accept(cx).map(|accepted| Some(accepted.map_err(|e| e.to_string())))
    })
    .await
}

/// After the stop, on a socket that others accept from, too: what the kernel was asked for and has
/// not given yet would take a connection away from them. So this makes one for it. Gives the one
/// that was there before, if any.
pub(super) async fn settle(listener: &TcpListener) -> Option<TcpStream> {
    let mut address = listener.local_addr().ok()?;
    if address.ip().is_unspecified() {
        let is_v4 = address.is_ipv4();
        address.set_ip(if is_v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    let deadline = Instant::now() + SETTLE_TIME_MAX;
    while Instant::now() < deadline {
        // Within this machine: done at once, unless connections wait already.
        let own = std::net::TcpStream::connect_timeout(&address, SETTLE_RETRY);
        let own = own.and_then(|own| own.local_addr());
        let accepted = poll_fn(|cx| listener.poll_accept(cx));
        // Where several sockets share the port, the connection may have gone to another one.
        match select(pin!(accepted), pin!(sleep(SETTLE_RETRY))).await {
            Either::Left((Ok(stream), _)) => {
                let is_own = own.is_ok_and(|own| stream.peer_addr().is_ok_and(|peer| peer == own));
                return (!is_own).then_some(stream);
            }
            Either::Left((Err(_), _)) => return None,
            Either::Right(_) => {}
        }
    }
    None
}
