//! From shards to lanes and back: the hand-over between executors that must never block and PKCS#11
//! calls that always do.
//!
//! ```text
//! shard:  Inbox::submit ────► Pool (Scheduler under its lock) ────► lane thread: Session::execute
//!         PendingJob.await ◄── Inbox::deliver ◄── Mailbox (one wake a batch) ◄──┘
//! ```
//!
//! One way: `inbox` → `pool` → `lane` → `shared` → [`model`]; outcomes come back through `mailbox`.
//! [`model`] decides and is pure: callers pass the time, and it owns no thread. `pool` and `lane`
//! carry out what it decides. `inbox` is the shard's side and works under any single-threaded
//! executor. `snapshot` is what a request reads of a pool without its lock.

pub mod inbox;
mod lane;
mod lane_slot;
mod mailbox;
pub mod model;
pub mod pool;
mod shared;
mod snapshot;
mod sync;

#[cfg(test)]
mod tests;

pub use self::inbox::{Deliver, Inbox, PendingJob};
pub use self::mailbox::{Delivered, JobId, Mailbox};
pub use self::model::{Refused, Share};
pub use self::pool::{Pool, PoolSettings, PoolStats, sessions_opened};
pub use self::snapshot::Snapshot;
