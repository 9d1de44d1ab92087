//! The last hour, for the page: a sample every ten seconds, in memory of a fixed size. Taken here,
//! from the shards' counters: no request waits for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::control::state::State;
use crate::telemetry::Latencies;
use crate::telemetry::metrics::{Requests, Totals};

const INTERVAL: Duration = Duration::from_secs(10);
/// One hour.
const SAMPLES_MAX: usize = 360;
/// What KMS counts as retryable.
const RETRYABLE: [&str; 3] =
    ["InternalException", "DependencyTimeoutException", "ThrottlingException"];

/// The samples.
pub(super) struct History {
    samples: Mutex<Samples>,
}

/// Oldest first once it is turned.
struct Samples {
    kept: Box<[Option<Sample>; SAMPLES_MAX]>,
    next: usize,
}

/// What happened between two looks.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    seconds: f64,
    successes: u64,
    retryable_errors: u64,
    other_errors: u64,
    /// None where there was no request.
    p50_us: Option<u64>,
    p99_us: Option<u64>,
    p99_9_us: Option<u64>,
    /// Jobs that waited at its end.
    queued: usize,
}

#[derive(Serialize)]
struct Shown {
    interval_seconds: u64,
    samples: Vec<Sample>,
}

impl History {
    /// Takes samples until the process ends.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(state: Arc<State>) -> io::Result<Arc<History>> {
        let samples = Samples { kept: Box::new([None; SAMPLES_MAX]), next: 0 };
        let history = Arc::new(History { samples: Mutex::new(samples) });
        let kept = history.clone();
        let run = move || {
            let mut last = Look::at(&state);
            loop {
                thread::sleep(INTERVAL);
                let now = Look::at(&state);
                kept.lock().push(Sample::between(&last, &now));
                last = now;
            }
        };
        thread::Builder::new().name("xksd-history".into()).spawn(run)?;
        Ok(history)
    }

    fn lock(&self) -> MutexGuard<'_, Samples> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As JSON, the oldest sample first.
    pub(super) fn to_json(&self) -> String {
        let samples = self.lock().in_order();
        let shown = Shown { interval_seconds: INTERVAL.as_secs(), samples };
        let mut text = serde_json::to_string(&shown).unwrap_or_default();
        text.push('\n');
        text
    }
}

impl Samples {
    /// In the place of the oldest.
    fn push(&mut self, sample: Sample) {
        self.kept[self.next] = Some(sample);
        self.next = (self.next + 1) % SAMPLES_MAX;
    }

    fn in_order(&self) -> Vec<Sample> {
        let (newer, older) = self.kept.split_at(self.next);
        older.iter().chain(newer).copied().flatten().collect()
    }
}

/// The counters at one time.
struct Look {
    at: Instant,
    successes: u64,
    retryable_errors: u64,
    other_errors: u64,
    latency: Histogram<u64>,
    queued: usize,
}

impl Look {
    fn at(state: &State) -> Look {
        let managers = state.managers.load();
        let pools = managers.iter().filter_map(|manager| manager.sessions());
        let queued = pools.map(|stats| stats.queued.iter().sum::<usize>()).sum();
        Look::of(&Totals::of(&state.metrics).requests, queued)
    }

    fn of(requests: &Requests, queued: usize) -> Look {
        let mut latency = Latencies::default().total;
        for latencies in requests.latencies.values() {
            latency.add(&latencies.total).expect("all histograms have the same bounds");
        }
        let (mut successes, mut retryable_errors, mut other_errors) = (0, 0, 0);
        for (key, count) in &requests.answered {
            match key.error {
                "none" => successes += count,
                error if RETRYABLE.contains(&error) => retryable_errors += count,
                _ => other_errors += count,
            }
        }
        let at = Instant::now();
        Look { at, successes, retryable_errors, other_errors, latency, queued }
    }
}

impl Sample {
    fn between(last: &Look, now: &Look) -> Sample {
        let mut latency = now.latency.clone();
        latency.subtract(&last.latency).expect("counters only grow");
        let quantile = |q| (!latency.is_empty()).then(|| latency.value_at_quantile(q));
        Sample {
            seconds: now.at.duration_since(last.at).as_secs_f64(),
            successes: now.successes - last.successes,
            retryable_errors: now.retryable_errors - last.retryable_errors,
            other_errors: now.other_errors - last.other_errors,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p99_9_us: quantile(0.999),
            queued: now.queued,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{RequestKey, ShardMetrics};

    fn answer(shard: &ShardMetrics, error: &'static str, ms: u64) {
        let key = RequestKey { key_store: "/a".into(), operation: "encrypt", error };
        shard.request(&key, Duration::from_millis(ms), None);
    }

    #[test]
    fn a_sample_is_what_happened_since_the_one_before() {
        let shard = ShardMetrics::default();
        answer(&shard, "none", 200);
        let first = Look::of(&shard.requests(), 0);
        for error in ["none", "ThrottlingException", "KeyNotFoundException", "none"] {
            answer(&shard, error, 4);
        }
        let second = Look::of(&shard.requests(), 7);
        let sample = Sample::between(&first, &second);
        assert_eq!(
            (sample.successes, sample.retryable_errors, sample.other_errors, sample.queued),
            (2, 1, 1, 7)
        );
        assert!(sample.p99_9_us.is_some_and(|us| us < 4_100), "{sample:?}");
        assert_eq!(Sample::between(&second, &second).p50_us, None);
    }

    #[test]
    fn the_oldest_gives_way() {
        let look = Look::of(&Requests::default(), 0);
        let mut samples = Samples { kept: Box::new([None; SAMPLES_MAX]), next: 0 };
        for queued in 0..SAMPLES_MAX + 3 {
            samples.push(Sample { queued, ..Sample::between(&look, &look) });
        }
        let queued: Vec<usize> = samples.in_order().iter().map(|sample| sample.queued).collect();
        assert_eq!(queued, (3..SAMPLES_MAX + 3).collect::<Vec<_>>());
    }
}
