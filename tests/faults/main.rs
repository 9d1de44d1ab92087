//! The real server over an HSM that has bad days: `xksd serve` with the stand-in HSM of
//! `loadtest/hsm-sim` as its PKCS#11 module, a SoftHSM token behind it, and clients that sign as
//! KMS does. Faults are switched while it runs. Nothing here is skipped.

// What was measured is shown by `cargo test --test faults -- --nocapture`.
#![allow(clippy::print_stdout)]

mod budget;
mod client;
mod proxy;

mod calls;
mod codes;
mod hand_over;
mod hang;
mod loss;
mod remote;
mod replicas;
mod start;
mod weights;
