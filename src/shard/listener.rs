//! A shard's listener. All shards listen on the same port; the kernel spreads connections over them
//! (SO_REUSEPORT).
//!
//! This file has the one `unsafe` outside the PKCS#11 function list: the executor makes listeners
//! with a backlog of 1,024 and takes another only as a bare descriptor.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::task::Poll;

use glommio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use super::stop::Stop;
use crate::limits::LISTEN_BACKLOG;

/// Listens on `address`, to be used on this thread's executor.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2).
pub(super) fn listen(address: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    socket.set_nonblocking(true)?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    // SAFETY: the descriptor is an open listening socket, and nobody else owns it: `into_raw_fd`
    // has given it away.
    let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
    Ok((bound, listener))
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
