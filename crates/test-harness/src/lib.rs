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

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
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

/// A port that is free now. Not one of those that the kernel gives to whoever asks for any: until
/// it is used, neither a connection nor a listener of another test takes it.
pub fn free_port() -> u16 {
    const LOWEST: u16 = 10_000;
    const PROCESSES: u16 = 200;
    const OF_A_PROCESS: u16 = 100;
    static ASKED: AtomicU16 = AtomicU16::new(0);
    let process = (std::process::id() % u32::from(PROCESSES)) as u16;
    let next = |_| {
        let asked = ASKED.fetch_add(1, Ordering::Relaxed) % OF_A_PROCESS;
        LOWEST + process * OF_A_PROCESS + asked
    };
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (0..OF_A_PROCESS).map(next).find(is_free).expect("a port")
}

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
