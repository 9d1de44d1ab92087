//! The load generator: workers with their connections, which send what is due and count what comes
//! back.

pub mod descriptors;
pub mod idle;
pub mod stats;
pub mod tls;
pub mod transport;
pub mod uring;
pub mod worker;

mod connection;
mod dispatcher;
mod preflight;
