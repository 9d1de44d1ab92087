//! A shard: one pinned thread, one executor, its own listener on the shared port. Shards share
//! nothing on the way of a request but what is immutable (key stores, TLS configuration) and the
//! key managers' queues.

mod acceptor;
mod clock;
mod connection;
mod connection_table;
mod context;
mod handshake;
mod handshake_log;
mod listener;
mod origin;
pub mod proxy_protocol;
mod round_trip;
mod stop;
mod thread;
mod timeouts;
mod yielding;

pub use listener::{Listen, adopt};
pub use origin::Balancers;
pub use stop::Stop;
pub use thread::{ShardSeed, ShardThread};
pub use yielding::preempt_with;
