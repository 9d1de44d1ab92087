//! The control plane, on the main thread and its helpers: everything that is not on a request's
//! way.

pub mod audit;
pub mod build;
pub mod expected;
pub mod lifecycle;
mod probes;
mod reload;
mod shards;
mod start;
pub mod state;
pub mod system;
mod watchdog;
