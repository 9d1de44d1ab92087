//! The control plane, on the main thread and its helpers: everything that is not on a request's
//! way.

pub(crate) mod probes;
pub mod reload;
pub mod run;
pub mod service;
pub mod system;
