//! What the machine itself adds to every time that is measured: other work on the same cores puts
//! threads to sleep for longer than they ask.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const NAP: Duration = Duration::from_millis(2);
static WORST_US: AtomicU64 = AtomicU64::new(0);

/// Starts to measure: a thread on each core that naps and looks how late it wakes up.
pub fn watch() {
    static WATCHING: OnceLock<()> = OnceLock::new();
    WATCHING.get_or_init(|| {
        let allowed = sched_getaffinity(None).unwrap();
        for core in (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)) {
            std::thread::spawn(move || {
                let mut only = CpuSet::new();
                only.set(core);
                sched_setaffinity(None, &only).unwrap();
                loop {
                    let start = Instant::now();
                    std::thread::sleep(NAP);
                    let late = start.elapsed().saturating_sub(NAP).as_micros() as u64;
                    WORST_US.fetch_max(late, Relaxed);
                }
            });
        }
    });
}

/// The worst so far.
pub fn worst() -> Duration {
    Duration::from_micros(WORST_US.load(Relaxed))
}
