//! A shard.
pub mod watch;
