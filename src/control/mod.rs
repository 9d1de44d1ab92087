//! The control plane, on the main thread and its helpers: everything that is not on a request's way.

pub mod config;
pub mod system;
