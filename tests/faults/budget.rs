//! The promise that everything that was read is answered within the budget.
//!
//! The machine adds its part to every time that is measured: other work on the same cores puts
//! threads to sleep for longer than they ask. So that part is measured, and allowed for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use test_harness::Server;

/// `request_budget_ms`, the default.
pub const BUDGET: Duration = Duration::from_millis(200);
const NAP: Duration = Duration::from_millis(2);
static WORST_US: AtomicU64 = AtomicU64::new(0);

/// Starts to measure: a thread on each core that naps and looks how late it wakes up.
pub fn watch_noise() {
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
fn worst_noise() -> Duration {
    Duration::from_micros(WORST_US.load(Relaxed))
}

/// Fails where an answer of the server was late, by the server's own clock. Gives the latest.
pub fn kept(server: &Server) -> Duration {
    // The log is written behind the answers.
    std::thread::sleep(Duration::from_millis(100));
    let requests = server.requests();
    let time = |line: &serde_json::Value| {
        Duration::from_micros(line["total_us"].as_u64().expect("a number"))
    };
    let noise = worst_noise();
    let allowed = BUDGET + Duration::from_millis(50) + 2 * noise;
    let late: Vec<_> = requests.iter().filter(|line| time(line) > allowed).collect();
    assert!(
        late.is_empty(),
        "with up to {noise:?} of noise, late among {} answers: {late:#?}",
        requests.len()
    );
    requests.iter().map(time).max().expect("requests")
}
