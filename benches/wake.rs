//! Two threads that wake each other in turn, on one core and on two: what the way to a lane and
//! back costs at least, whatever is handed over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use criterion::Criterion;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub fn benches(c: &mut Criterion) {
    let allowed = sched_getaffinity(None).expect("the cores of this process");
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
    let (Some(&first), Some(&last)) = (cores.first(), cores.last()) else { return };
    let mut group = c.benchmark_group("wake");
    for (name, cores) in [("one core", [first, first]), ("two cores", [first, last])] {
        group.bench_function(format!("there and back, {name}"), |b| {
            b.iter_custom(|rounds| there_and_back(rounds, cores));
        });
    }
}

fn there_and_back(rounds: u64, cores: [usize; 2]) -> Duration {
    let turn = &AtomicU64::new(0);
    thread::scope(|scope| {
        let asking = scope.spawn(move || {
            stay_on(cores[0]);
            let asking = thread::current();
            let answering = scope.spawn(move || {
                stay_on(cores[1]);
                (0..rounds).for_each(|round| pass(turn, 2 * round + 1, &asking));
            });
            let begin = Instant::now();
            for round in 0..rounds {
                pass(turn, 2 * round, answering.thread());
            }
            wait_for(turn, 2 * rounds);
            begin.elapsed()
        });
        asking.join().expect("it does not panic")
    })
}

/// Waits for its turn, then wakes the other one.
fn pass(turn: &AtomicU64, mine: u64, other: &Thread) {
    wait_for(turn, mine);
    turn.store(mine + 1, Ordering::Release);
    other.unpark();
}

fn wait_for(turn: &AtomicU64, mine: u64) {
    while turn.load(Ordering::Acquire) < mine {
        thread::park();
    }
}

fn stay_on(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).expect("an allowed core");
}
