//! What the end-to-end tests share: the real `xksd` in a directory of its own, a client that signs,
//! and one that speaks raw bytes over TLS.

#![allow(
    dead_code,
    unused_imports,
    reason = "shared by several test files, none of which uses everything"
)]

#[path = "../common/pki.rs"]
pub mod pki;

pub mod api;
pub mod calls;
pub mod server;
pub mod sign;
pub mod site;
pub mod wire;

use std::time::{Duration, Instant};

pub use api::{Api, aad, b64, bytes, envelope, with};
pub use server::Server;
pub use sign::{Credential, Delivery, Request};
pub use site::{A, B, C, Config, Site};
pub use wire::{Response, Wire};

/// Only so that a broken test ends: nothing is measured by it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something is so.
pub fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
