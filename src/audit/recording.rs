//! Whether there is a trail: from the start, or since a reload has begun one. It then goes on until
//! the process ends.

use std::sync::{Arc, OnceLock};

use super::trail::{Trail, Wakers};

/// Where shards find the trail.
pub struct Recording {
    trail: OnceLock<Trail>,
    wakers: Arc<Wakers>,
}

impl Recording {
    /// None yet, for so many shards.
    pub fn new(shards: usize) -> Recording {
        Recording { trail: OnceLock::new(), wakers: Arc::new(Wakers::new(shards)) }
    }

    /// The trail, if there is one.
    pub fn trail(&self) -> Option<&Trail> {
        self.trail.get()
    }

    /// Of the shards, for who starts the trail.
    pub fn wakers(&self) -> &Arc<Wakers> {
        &self.wakers
    }

    /// From now on every request has its record in this trail, also one that is under way. There is
    /// one at most.
    pub fn begin(&self, trail: Trail) {
        let _ = self.trail.set(trail);
    }
}
