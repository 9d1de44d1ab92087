//! xksd: the proxy between AWS KMS External Key Store (XKS) and an HSM.
//!
//! The modules stand in the order in which a request meets them. `docs/architecture.md` has the
//! life of a request.

pub mod config;
pub mod file;
pub mod hex;
pub mod limits;
pub mod network;
pub mod secret;

pub mod shard;
pub mod tls;

pub mod http1;

pub mod api;
pub mod sigv4;

pub mod policy;

pub mod fleet;

pub mod keystore;
pub mod pipeline;

pub mod key_manager;
pub mod sched;

pub mod audit;
pub mod telemetry;

pub mod admin;
pub mod control;

pub mod cli;
