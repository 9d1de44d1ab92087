//! The control plane, on the main thread and its helpers: everything that is not on a request's
//! way.

pub mod config;

mod admin;
mod ask;
mod changes;
mod metrics;
mod probes;
pub mod reload;
pub mod run;
pub mod service;
mod status;
pub mod system;
