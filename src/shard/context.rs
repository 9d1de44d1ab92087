//! What the connections of a shard share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arc_swap::ArcSwap;

use super::handshake_log::HandshakeLog;
use super::origin::Balancers;
use crate::pipeline::Pipeline;
use crate::telemetry::ShardMetrics;
use crate::tls::{self, HandshakeFailure};

/// One shard's.
pub(super) struct ShardContext {
    pub(super) pipeline: Pipeline,
    /// For new connections; a reload swaps it.
    pub(super) tls: Arc<ArcSwap<tls::Server>>,
    /// Whose connections begin with a PROXY protocol header; a reload swaps it.
    pub(super) balancers: Arc<ArcSwap<Balancers>>,
    pub(super) metrics: Arc<ShardMetrics>,
    pub(super) handshakes: HandshakeLog,
}

impl ShardContext {
    pub(super) fn handshake_failed(&self, client: SocketAddr, failure: &HandshakeFailure) {
        self.metrics.handshake_failed(failure.reason());
        self.handshakes.write(client, failure, Instant::now());
    }

    /// A reload no longer admits the client of an open connection, which ends.
    pub(super) fn withdrawn(&self, client: SocketAddr, failure: &HandshakeFailure) {
        self.metrics.connections_withdrawn.fetch_add(1, Ordering::Relaxed);
        self.handshakes.write_withdrawn(client, failure, Instant::now());
    }
}
