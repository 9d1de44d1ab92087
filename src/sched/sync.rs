//! What the hand-over between threads is made of. The crate `loom/` compiles this folder with
//! loom's in its place, and so tries every order in which threads can take their steps.

#[cfg(not(loom))]
mod real {
    pub(in crate::sched) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
    pub(in crate::sched) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(in crate::sched) use std::thread::{Builder, JoinHandle};

    pub(in crate::sched) use futures_util::task::AtomicWaker;

    /// The clock of the lanes and the shards' inboxes; loom's stands still, since an order that
    /// cannot be repeated cannot be checked.
    pub(in crate::sched) fn now() -> std::time::Instant {
        std::time::Instant::now()
    }
}

#[cfg(loom)]
pub(super) use crate::sync::*;
#[cfg(not(loom))]
pub(super) use real::*;
