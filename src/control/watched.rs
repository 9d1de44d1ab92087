//! Counts how often changed files were taken over or refused.

use std::sync::atomic::AtomicU64;

/// What became of files that changed, for metrics.
#[derive(Debug, Default)]
pub struct Watched {
    /// Contents that were taken over.
    pub taken: AtomicU64,
    /// Contents that were refused; each is counted once.
    pub refused: AtomicU64,
}
