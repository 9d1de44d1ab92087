//! How requests travel, and why they could not.

use std::time::Duration;

use super::tls::Versions;

/// How requests travel.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Connections over all workers.
    pub connections: usize,
    /// Requests in flight on one connection.
    pub depth: usize,
    /// A request without an answer for this long is an error.
    pub timeout: Duration,
    /// TLS versions to offer.
    pub tls: Versions,
    /// Connections closed and opened again each second, over all workers.
    pub reconnect_rate: f64,
    /// Requests after which a connection is closed and opened again; `None`: any number.
    pub requests_per_connection: Option<u64>,
    /// Whether connections that are opened again resume their TLS session.
    pub resume: bool,
}

/// Why a run cannot start.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// It cannot be judged: wrong settings, no connection, an error answered to the first requests.
    Setup(String),
    /// The proxy answered wrongly.
    Wrong(String),
}
