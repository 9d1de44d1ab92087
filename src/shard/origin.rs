//! Whose a connection is: the peer's, or that of the client whom a load balancer names.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{AsyncRead, AsyncReadExt};

use super::proxy_protocol::{self, Header, PREFIX_BYTES};
use crate::network::Network;
use crate::tls::HandshakeFailure;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// The client's address.
    pub(super) client: SocketAddr,
    /// The VPC endpoint that it comes through, where a load balancer says so.
    pub(super) vpce: Option<Arc<str>>,
}

/// The networks of load balancers that say it in a PROXY protocol header.
#[derive(Debug, Default)]
pub struct Balancers(pub Vec<Network>);

impl Balancers {
    pub(super) fn has(&self, peer: &SocketAddr) -> bool {
        self.0.iter().any(|network| network.contains(peer.ip()))
    }
}

impl Origin {
    pub(super) fn of_peer(client: SocketAddr) -> Origin {
        Origin { client, vpce: None }
    }

    /// Takes over what a balancer says. Its own connections, as health checks, stay its own.
    pub(super) fn told(&mut self, header: Header) {
        self.client = header.client.unwrap_or(self.client);
        self.vpce = header.vpc_endpoint.map(Arc::from);
    }
}

/// Reads the header at the begin of a balancer's connection, and nothing behind it.
///
/// # Errors
/// When it begins with something else, or ends before.
pub(super) async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Header, HandshakeFailure> {
    let refused = |error| HandshakeFailure::proxy_protocol(&error);
    let mut prefix = [0; PREFIX_BYTES];
    let mut filled = 0;
    while filled < PREFIX_BYTES {
        match stream.read(&mut prefix[filled..]).await? {
            0 => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            count => filled += count,
        }
        proxy_protocol::look_at_begin(&prefix[..filled]).map_err(refused)?;
    }
    let mut header = prefix.to_vec();
    header.resize(proxy_protocol::header_length(&prefix).map_err(refused)?, 0);
    stream.read_exact(&mut header[PREFIX_BYTES..]).await?;
    proxy_protocol::parse(&header).map_err(refused)
}
