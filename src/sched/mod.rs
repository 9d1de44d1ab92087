//! From shards to lanes and back: the hand-over between executors that must never block and PKCS#11
//! calls that always do.
//!
//! ```text
//! shard:  Inbox::submit ──► Pool (Mutex<Core>: queues, lanes, estimates) ──► lane thread: Session::execute
//!         Ticket.await  ◄── Inbox::deliver ◄── Mailbox (one wake a batch) ◄──┘
//! ```
//!
//! [`model`] decides and is pure: it is told the time and owns no thread. [`pool`] and `lane` carry
//! out what it decides. [`inbox`] is the shard's side and works under any single-threaded executor.

mod gauge;
pub mod inbox;
mod lane;
pub mod model;
pub mod pool;
mod sync;

#[cfg(test)]
mod tests;

pub use self::gauge::Condition;
pub use self::inbox::{Deliver, Delivered, Inbox, Mailbox, Ticket, Token};
pub use self::model::Refused;
pub use self::pool::{Pool, PoolSettings, PoolStats, sessions_opened};
