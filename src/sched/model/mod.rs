//! The scheduler's decisions for one key manager, pure: no thread, no lock, no clock. Callers pass
//! `now`; the payload is opaque.
//!
//! * **Queues**: one a shard, and in it a bounded FIFO for each key store. A batch comes out of one
//!   shard's queue, so that its outcomes are one wake of one shard. Whose jobs are next is a matter
//!   of fair shares, over all shards.
//! * **Lanes**: each has a home shard. It serves its home queue first; every [`HOME_RUN_MAX`]
//!   takes, and whenever its home is empty, it serves the other queues in turn. In turn and not the
//!   longest first: the longest is the one that floods, and a shard without home lanes (more shards
//!   than lanes) would starve behind it.
//! * **Admission**: what cannot be done by its deadline is refused at once, judged by the wait
//!   behind what is queued and by what a job is likely to take at most: at the bound every second
//!   job would end just after its deadline, and the HSM's work on it be lost. For the same reason a
//!   job is not begun that would be done too late while another one waits. While a lane is idle or
//!   nothing was measured everything is admitted: an estimate that only refusals could confirm
//!   never recovers.
//! * **Outage**: a lost session is mostly back within milliseconds, so jobs wait while no lane
//!   serves for up to [`SHORT_OUTAGE`]; then they are refused at once with the last fault, and
//!   those in the queue end at their deadlines.
//!
//! `queues` keeps who is next, `admission` lets jobs in, `dispatch` says which lane to wake and
//! which queue to serve, `reopening` what happens to lanes that lose their sessions or hang; all of
//! them work on `state`.

mod admission;
mod dispatch;
mod estimate;
mod queues;
mod reopening;
mod state;

#[cfg(test)]
mod fairness;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use admission::LATE_AT_ONCE_MAX;
pub use dispatch::{HOME_RUN_MAX, WAKE_WAIT};
pub use estimate::{BATCH_TIME, STALE_AFTER, ServiceTime};
pub use queues::{Entry, Share};
pub use reopening::{BACKOFF, STALL_AFTER_MIN, Tick};
pub use state::{
    Counts, IsCancelled, LaneId, Next, Refused, Report, SHORT_OUTAGE, Scheduler, Settings, Step,
    Totals,
};
