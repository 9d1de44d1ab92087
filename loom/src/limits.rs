//! `src/limits.rs`, as far as `sched` asks for it, small.

pub use std::time::Duration;

pub const QUEUE_JOBS_A_SHARD_MAX: usize = 4;
pub const BATCH_JOBS_MAX: usize = 4;
pub const ABANDONED_LANES_PER_SESSION_MAX: usize = 2;
pub const SESSION_OPENINGS_MAX: usize = 1;
pub const PENDING_JOBS_A_SHARD_MAX: usize = 64;
pub const DEADLINE_TICK: Duration = Duration::from_millis(5);
