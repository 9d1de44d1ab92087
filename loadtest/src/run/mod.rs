//! A run from its first connection to its report, and a search that makes many of them.

pub mod execute;
pub mod search;
pub mod settings;

mod collector;
mod summary;
