//! Random numbers by seed: the same seed, the same decisions.

use std::sync::atomic::{AtomicU64, Ordering};

/// A stream of pseudo-random numbers (SplitMix64). The state is a counter, so that drawing needs no
/// lock, and the numbers are the same in every version of this program.
#[derive(Debug)]
pub struct Stream(AtomicU64);

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Stream {
    /// The stream of `seed`; streams of different `names` under one seed have nothing to do with
    /// each other.
    pub fn new(seed: u64, names: [u64; 2]) -> Stream {
        Stream(AtomicU64::new(names.iter().fold(mix(seed.wrapping_add(STEP)), |state, name| {
            mix(state ^ mix(name.wrapping_add(STEP)))
        })))
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        mix(self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP))
    }

    /// The next number, in 0 ≤ x < 1.
    pub fn unit(&self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with this probability. Draws exactly one number, whatever the probability, so that what
    /// follows stays the same.
    pub fn happens(&self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A number of the normal distribution (mean 0, deviation 1). Draws two.
    pub fn normal(&self) -> f64 {
        // 1 - x: the logarithm of 0 must not be asked for.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// What one session (or the process, for calls without a session) draws from: one stream a purpose,
/// so that switching a fault on does not change the wire times that follow.
#[derive(Debug)]
pub struct Streams {
    /// Wire times.
    pub wire: Stream,
    /// Whether a fault hits.
    pub faults: Stream,
    /// Which bit is flipped, and whether.
    pub data: Stream,
}

impl Streams {
    /// Those of the session of this ordinal; 0 is the process.
    pub fn new(seed: u64, ordinal: u64) -> Streams {
        let stream = |purpose| Stream::new(seed, [ordinal, purpose]);
        Streams { wire: stream(1), faults: stream(2), data: stream(3) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(seed: u64, ordinal: u64) -> Vec<u64> {
        let streams = Streams::new(seed, ordinal);
        (0..4)
            .flat_map(|_| [streams.wire.next(), streams.faults.next(), streams.data.next()])
            .collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        assert_eq!(first(7, 1), first(7, 1));
        assert_ne!(first(7, 1), first(7, 2));
        assert_ne!(first(7, 1), first(8, 1));
    }

    #[test]
    fn certain_and_impossible_are_exact() {
        let stream = Stream::new(1, [0, 0]);
        assert!((0..10_000).all(|_| stream.happens(1.0)));
        assert!(!(0..10_000).any(|_| stream.happens(0.0)));
    }

    #[test]
    fn half_is_about_half_and_normal_is_about_normal() {
        let stream = Stream::new(3, [0, 0]);
        let hits = (0..10_000).filter(|_| stream.happens(0.5)).count();
        assert!((4_700..5_300).contains(&hits), "{hits}");
        let below = (0..10_000).filter(|_| stream.normal() < 2.326).count();
        assert!((9_850..9_950).contains(&below), "{below}");
    }
}
