//! What one job costs on one session: a moving average, and what follows from it.

use std::time::{Duration, Instant};

use crate::limits::BATCH_JOBS_MAX;

/// A batch is as long as fits in this: the first outcome of a batch is not held back noticeably, and a batch is still several times what
/// waking a shard costs (0.6–2.5 µs, and up to some 250 µs until the woken task runs).
pub const BATCH_TIME: Duration = Duration::from_micros(200);

/// Weight of one new sample is 1 / this, once as many have been seen: with 32 lanes at 1 ms it follows a change within milliseconds.
const SAMPLES: u32 = 16;
/// A sample counts as at most this many times the present mean, so that one outlier out of the tail does not turn jobs away.
const OUTLIER: f64 = 8.0;
/// What was measured before a silence of this length counts no more: a key manager that gets no jobs because it was slow is measured by its
/// probes alone, every ten seconds, and the first that is fast again must do.
pub const STALE_AFTER: Duration = Duration::from_secs(5);

/// Of the deviation, in what a job is likely to take at most: as TCP's retransmission timer, RFC 6298.
const DEVIATIONS: f64 = 4.0;

/// Moving averages of the time one job takes on one session, and of how far from that single jobs are.
#[derive(Debug, Default)]
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
        if self.last.replace(now).is_some_and(|last| now.saturating_duration_since(last) >= STALE_AFTER) {
            (self.samples, self.deviation) = (0, 0.0);
        }
        let sample = time.as_nanos() as f64 / f64::from(jobs);
        // The first samples weigh alike: the very first one often pays for a cold key or connection.
        let weight = f64::from(jobs).min(f64::from(SAMPLES)) / f64::from(self.samples.saturating_add(jobs).min(SAMPLES));
        let sample = if self.nanoseconds == 0.0 { sample } else { sample.min(self.nanoseconds * OUTLIER) };
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
        self.mean().map_or(Duration::ZERO, |mean| mean + Duration::from_nanos((DEVIATIONS * self.deviation) as u64))
    }

    /// How many jobs a lane may take at once: one while nothing is known.
    pub fn batch(&self) -> usize {
        match self.mean() {
            Some(mean) => (BATCH_TIME.as_nanos() / mean.as_nanos().max(1)).clamp(1, BATCH_JOBS_MAX as u128) as usize,
            None => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        Instant::now()
    }

    fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    #[test]
    fn unknown_until_measured() {
        let mut s = ServiceTime::default();
        assert_eq!(s.mean(), None);
        assert_eq!(s.batch(), 1);
        s.record(0, us(5), now());
        assert_eq!(s.mean(), None);
        s.record(1, us(1000), now());
        assert_eq!(s.mean(), Some(us(1000)));
    }

    #[test]
    fn first_samples_weigh_alike_and_a_change_is_followed() {
        let mut s = ServiceTime::default();
        s.record(1, us(300), now());
        s.record(1, us(100), now());
        assert_eq!(s.mean(), Some(us(200)));
        for _ in 0..200 {
            s.record(1, us(5000), now());
        }
        let mean = s.mean().unwrap();
        assert!(mean > us(4900) && mean <= us(5000), "{mean:?}");
    }

    #[test]
    fn what_a_job_likely_takes_at_most_follows_the_spread() {
        let mut s = ServiceTime::default();
        assert_eq!(s.likely_most(), Duration::ZERO);
        (0..100).for_each(|_| s.record(1, us(1000), now()));
        assert_eq!(s.likely_most(), us(1000));
        (0..100).for_each(|i| s.record(1, us(if i % 2 == 0 { 800 } else { 1200 }), now()));
        assert!(s.likely_most() > us(1500) && s.likely_most() < us(2000), "{:?}", s.likely_most());
        // After a silence neither average counts any more.
        s.record(1, us(1000), now() + STALE_AFTER);
        assert_eq!(s.likely_most(), us(1000));
    }

    #[test]
    fn one_outlier_moves_it_little() {
        let mut s = ServiceTime::default();
        (0..100).for_each(|_| s.record(1, us(1000), now()));
        s.record(1, Duration::from_secs(60), now());
        assert!(s.mean().unwrap() < us(1500));
    }

    #[test]
    fn batch_is_as_long_as_its_time_and_bounded() {
        let batch = |t| {
            let mut s = ServiceTime::default();
            s.record(1, t, now());
            s.batch()
        };
        assert_eq!(batch(us(1000)), 1);
        assert_eq!(batch(us(101)), 1);
        assert_eq!(batch(us(100)), 2);
        assert_eq!(batch(us(42)), 4);
        assert_eq!(batch(us(12)), BATCH_JOBS_MAX);
        assert_eq!(batch(Duration::ZERO), BATCH_JOBS_MAX);
    }

    #[test]
    fn after_a_silence_one_sample_tells_that_it_is_fast_again() {
        for (silence, enough) in [(STALE_AFTER, true), (STALE_AFTER - us(1), false)] {
            let (mut s, mut at) = (ServiceTime::default(), now());
            (0..100).for_each(|_| s.record(1, us(40_000), at));
            at += silence;
            s.record(1, us(4000), at);
            assert_eq!(s.mean().unwrap() < us(8000), enough, "{:?}", s.mean());
        }
    }
}
