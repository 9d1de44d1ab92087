//! The control plane, on the main thread and its helpers: configuration, start and stop, reload, health probes, admin listener.

pub mod system;
