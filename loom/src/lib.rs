//! `src/sched` as it is, over loom's threads, locks and atomics, with bounds small enough to be
//! tried out and with sessions that do what the model says. The models stand in `tests/`.

pub mod key_manager;
pub mod limits;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/sched/mod.rs"]
pub mod sched;
pub mod sync;
