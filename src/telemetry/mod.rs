//! What is seen from outside: counters and latency histograms of each shard, the log, and spans.
//! Knows nothing of the other modules.
//!
//! A shard writes only its own [`ShardMetrics`], so its locks are never waited for but while
//! someone reads them.

pub mod host;
pub mod limiter;
pub mod log;
pub mod metrics;
pub mod names;
pub mod prometheus;
mod request_line;
pub mod spans;

pub use limiter::LogLimiter;
pub use log::{Level, Log};
pub use metrics::{Latencies, RequestKey, ShardMetrics};
pub use request_line::RequestLine;
