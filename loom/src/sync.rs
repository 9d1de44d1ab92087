//! What `src/sched/sync.rs` takes from the standard library, from loom.

use std::cell::Cell;
use std::sync::LazyLock;
use std::task::Waker;
use std::time::{Duration, Instant};

pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
pub use loom::sync::{Condvar, Mutex, MutexGuard};

thread_local! {
    /// Of one model: all its threads are loom's, on one thread of the system. The standard
    /// library's, so that to look at it is no step.
    static CLOCK: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Time stands still until [`advance`]: an order of steps must find the same whenever it is tried.
pub fn now() -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START + CLOCK.get()
}

/// The clock of this model goes on.
pub fn advance(time: Duration) {
    CLOCK.set(CLOCK.get() + time);
}

/// As `futures_util::task::AtomicWaker` in all that its callers rely on: a wake after a
/// registration reaches its waker.
#[derive(Default)]
pub struct AtomicWaker(Mutex<Option<Waker>>);

impl AtomicWaker {
    pub fn new() -> AtomicWaker {
        AtomicWaker::default()
    }

    pub fn register(&self, waker: &Waker) {
        let old = self.0.lock().unwrap().replace(waker.clone());
        drop(old);
    }

    pub fn wake(&self) {
        if let Some(waker) = self.take() {
            waker.wake();
        }
    }

    pub fn take(&self) -> Option<Waker> {
        self.0.lock().unwrap().take()
    }
}

#[derive(Debug)]
pub struct Builder(loom::thread::Builder);

impl Builder {
    #[expect(clippy::new_without_default)]
    pub fn new() -> Builder {
        Builder(loom::thread::Builder::new())
    }

    pub fn name(self, name: String) -> Builder {
        Builder(self.0.name(name))
    }

    /// Of no interest here.
    pub fn stack_size(self, _bytes: usize) -> Builder {
        self
    }

    pub fn spawn<T: Send + 'static>(
        self,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> std::io::Result<JoinHandle<T>> {
        self.0.spawn(run).map(JoinHandle)
    }
}

pub struct JoinHandle<T>(loom::thread::JoinHandle<T>);

impl<T> JoinHandle<T> {
    /// Not known: so that every thread is joined at the end.
    pub fn is_finished(&self) -> bool {
        false
    }

    pub fn join(self) -> std::thread::Result<T> {
        self.0.join()
    }
}
