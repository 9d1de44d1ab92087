//! The control plane: everything that is not on a request's way.

pub mod config;
