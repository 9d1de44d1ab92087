//! xksd: the proxy between AWS KMS External Key Store (XKS) and an HSM.
//!
//! The modules stand in the order in which a request meets them. `docs/architecture.md` tells the
//! life of a request.

pub mod file;
pub mod limits;

pub mod shard;
pub mod tls;

pub mod http1;

pub mod api;
pub mod auth;

pub mod keystore;
pub mod pipeline;

pub mod hsm;
pub mod sched;

pub mod telemetry;

pub mod cli;
pub mod control;
