//! The real server over an HSM that has bad days: `xksd serve` with the stand-in HSM of
//! `loadtest/hsm-sim` as its PKCS#11 module, a SoftHSM token behind it, and clients that sign as
//! KMS does. Faults are switched while it runs. Nothing here is skipped.

// What was measured is shown by `cargo test --test faults_pkcs11 -- --nocapture`.
#![allow(clippy::print_stdout)]

mod e2e;
#[path = "../loadtest/hsm-sim/tests/common/remote.rs"]
mod remote;

mod faults {
    pub mod client;
    pub mod hsm;
    pub mod noise;
    pub mod server;

    mod calls;
    mod codes;
    mod hang;
    mod loss;
    mod replicas;
    mod start;
}
