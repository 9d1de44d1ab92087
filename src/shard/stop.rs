//! How a shard is asked to end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;

/// Tells a shard, from another thread, to take no more connections and end when the open ones are
/// done.
#[derive(Default)]
pub struct Stop {
    requested: AtomicBool,
    waker: AtomicWaker,
}

impl Stop {
    /// Asks for it.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether it was asked for; where not yet, `waker` hears of it.
    pub(super) fn poll_requested(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.requested.load(Ordering::Acquire)
    }
}
