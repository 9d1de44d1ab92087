//! Accepting a connection, and letting it stay.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use futures_rustls::TlsAcceptor;
use futures_rustls::server::TlsStream;
use futures_util::{AsyncRead, AsyncWrite};
use rustls::CommonState;

use super::client_auth::refused_name;
use super::handshake_failure::HandshakeFailure;
use super::hello::{Hello, ReadAhead};
use super::server::Server;
use crate::limits::CLIENT_HELLO_WAIT_MAX;

impl Server {
    /// The handshake behind a hello that has waited for so long, and after it [`Server::confirm`]:
    /// who comes out of here may be read from. No signature is made for a client that has gone, or
    /// has waited for longer than [`CLIENT_HELLO_WAIT_MAX`].
    ///
    /// # Errors
    /// Why there is no connection; the client got an alert where TLS has one for it.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut hello: Hello<S>,
        waited: Duration,
    ) -> Result<TlsStream<ReadAhead<S>>, HandshakeFailure> {
        if waited > CLIENT_HELLO_WAIT_MAX {
            return Err(HandshakeFailure::overload(waited));
        }
        if hello.is_abandoned().await {
            return Err(HandshakeFailure::abandoned());
        }
        let mut accepting = TlsAcceptor::from(self.config().clone()).accept(hello.stream);
        let mut name = None;
        let accepted = poll_fn(|cx| {
            let polled = Pin::new(&mut accepting).poll(cx);
            // Taken out in the poll that has put it there: within one no other connection's
            // certificate is verified on this thread.
            name = refused_name::take().or(name.take());
            polled
        });
        match accepted.await {
            Ok(stream) => match self.confirm(stream.get_ref().1) {
                Ok(()) => Ok(stream),
                Err(error) => Err(HandshakeFailure::of_tls(&error, refused_name::take())),
            },
            Err(error) => Err(HandshakeFailure::of_io(&error, name)),
        }
    }

    /// Whether the client of an open connection, which `former` admitted, is still admitted.
    ///
    /// # Errors
    /// Why not: the connection must end before it is answered.
    pub fn readmit(
        &self,
        former: &Server,
        connection: &CommonState,
    ) -> Result<(), HandshakeFailure> {
        self.still_admits(former, connection)
            .map_err(|error| HandshakeFailure::of_tls(&error, refused_name::take()))
    }
}
