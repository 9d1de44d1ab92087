//! What the tests share: the real `xksd` in a directory made for it, a client that signs, one that
//! writes raw bytes over TLS, certificates, and HSMs.

#![allow(missing_docs, reason = "the names say it; where they do not, there is a comment")]

pub mod api;
pub mod config;
pub mod etcd;
pub mod hsm_sim;
pub mod installation;
pub mod memory_scan;
pub mod nss;
pub mod own_process;
pub mod pki;
pub mod programs;
pub mod raw;
pub mod request;
pub mod server;
pub mod softhsm;
pub mod token;
pub mod wire;

use std::time::{Duration, Instant};

pub use api::{Api, aad, b64, bytes, envelope, with};
pub use config::{A, B, C, Config};
pub use etcd::Etcd;
pub use installation::Installation;
pub use request::{Credential, Delivery, Request};
pub use server::Server;
pub use token::Token;
pub use wire::{Response, Wire};

/// Only so that a broken test ends: nothing is measured by it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something is so; gives how long that took.
pub fn eventually(what: &str, so: impl FnMut() -> bool) -> Duration {
    eventually_within(PATIENCE, what, so)
}

/// As [`eventually`], for what may take longer than [`PATIENCE`].
pub fn eventually_within(patience: Duration, what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}
