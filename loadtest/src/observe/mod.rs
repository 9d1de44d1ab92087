//! What can be seen from outside while the proxy is loaded: CPU time of processes, the machine's
//! cores, and what xksd's `/metrics` tell; and which of it was the bottleneck.

pub mod bottleneck;
pub mod cpu;
pub mod host;
pub mod key_manager;
pub mod metrics;
pub mod observer;
pub mod process;

/// Sessions, a thread or cores are full from this share of the time on; the rest is lost to
/// measuring and to others on the machine.
const FULL: f64 = 0.9;
