//! What one job costs on one session: a moving average, and what follows from it.

use std::time::{Duration, Instant};

use crate::limits::BATCH_JOBS_MAX;

/// A batch is as long as fits in this: the first outcome of a batch is not held back noticeably,
/// and a batch is still several times what waking a shard costs (0.6–2.5 µs, and up to some 250 µs
/// until the woken task runs).
pub const BATCH_TIME: Duration = Duration::from_micros(200);

/// Weight of one new sample is 1 / this, once as many have been seen: with 32 lanes at 1 ms it
/// follows a change within milliseconds.
const SAMPLES: u32 = 16;
/// A sample counts as at most this many times the present mean, so that one outlier out of the tail
/// does not turn jobs away.
const OUTLIER: f64 = 8.0;
/// What was measured before a silence of this length counts no more: a key manager that gets no
/// jobs because it was slow is measured only by its probes, every ten seconds, and the first that
/// is fast again must do.
pub const STALE_AFTER: Duration = Duration::from_secs(5);

/// Of the deviation, in what a job is likely to take at most: as TCP's retransmission timer, RFC
/// 6298.
const DEVIATIONS: f64 = 4.0;

/// Moving averages of the time one job takes on one session, and of how far from that single jobs
/// are.
#[derive(Clone, Debug, Default)]
pub struct ServiceTime {
    nanoseconds: f64,
    deviation: f64,
    samples: u32,
    last: Option<Instant>,
}

impl ServiceTime {
    /// `jobs` were served in `time` together.
    pub fn record(&mut self, jobs: u32, time: Duration, now: Instant) {
        if jobs == 0 {
            return;
        }
        if self
            .last
            .replace(now)
            .is_some_and(|last| now.saturating_duration_since(last) >= STALE_AFTER)
        {
            (self.samples, self.deviation) = (0, 0.0);
        }
        let sample = time.as_nanos() as f64 / f64::from(jobs);
        // The first samples weigh alike: the very first one often pays for a cold key or
        // connection.
        let weight = f64::from(jobs).min(f64::from(SAMPLES))
            / f64::from(self.samples.saturating_add(jobs).min(SAMPLES));
        let sample =
            if self.nanoseconds == 0.0 { sample } else { sample.min(self.nanoseconds * OUTLIER) };
        if self.samples > 0 {
            self.deviation += ((sample - self.nanoseconds).abs() - self.deviation) * weight;
        }
        self.nanoseconds = (self.nanoseconds + (sample - self.nanoseconds) * weight).max(1.0);
        self.samples = self.samples.saturating_add(jobs).min(SAMPLES);
    }

    /// The mean; none while nothing has been measured.
    pub fn mean(&self) -> Option<Duration> {
        (self.samples > 0).then(|| Duration::from_nanos(self.nanoseconds as u64))
    }

    /// What hardly a job takes longer than; zero while nothing has been measured.
    pub fn likely_most(&self) -> Duration {
        self.mean().map_or(Duration::ZERO, |mean| {
            mean + Duration::from_nanos((DEVIATIONS * self.deviation) as u64)
        })
    }

    /// How many jobs a lane may take at once: one while nothing is known.
    pub fn batch(&self) -> usize {
        match self.mean() {
            Some(mean) => (BATCH_TIME.as_nanos() / mean.as_nanos().max(1))
                .clamp(1, BATCH_JOBS_MAX as u128) as usize,
            None => 1,
        }
    }
}

#[cfg(test)]
mod tests;
