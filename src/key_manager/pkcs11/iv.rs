//! IVs from the HSM's generator, drawn in blocks, each used once.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use crate::limits::{IV_BLOCK, IV_BLOCKS_REMEMBERED, IV_BYTES, IV_BYTES_MAX, MADE_IVS_REMEMBERED};

/// One IV of the generator's.
pub(super) type Iv = [u8; IV_BYTES];

/// An IV of any length the API has, without an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct AnyIv {
    bytes: [u8; IV_BYTES_MAX],
    length: usize,
}

impl AnyIv {
    /// `length` zeros, or as many as there may be.
    pub(super) fn zeros(length: usize) -> AnyIv {
        AnyIv { bytes: [0; IV_BYTES_MAX], length: length.min(IV_BYTES_MAX) }
    }

    /// `None` when it is too long.
    pub(super) fn copy_of(iv: &[u8]) -> Option<AnyIv> {
        let mut copy = AnyIv::zeros(iv.len());
        (copy.length == iv.len()).then(|| copy.as_mut().copy_from_slice(iv))?;
        Some(copy)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }

    fn is_zero(&self) -> bool {
        self.as_slice().iter().all(|byte| *byte == 0)
    }
}

impl From<Iv> for AnyIv {
    fn from(iv: Iv) -> AnyIv {
        let mut copy = AnyIv::zeros(IV_BYTES);
        copy.as_mut().copy_from_slice(&iv);
        copy
    }
}

/// The last so many values.
struct Seen<T> {
    values: HashSet<T>,
    order: VecDeque<T>,
}

impl<T> Default for Seen<T> {
    fn default() -> Seen<T> {
        Seen { values: HashSet::default(), order: VecDeque::default() }
    }
}

impl<T: Copy + Eq + Hash> Seen<T> {
    fn remember(&mut self, value: T, values_max: usize) {
        if self.order.len() == values_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
        self.values.insert(value);
        self.order.push_back(value);
    }
}

/// What the generator gave of late. A generator that is stuck, or restarts from the same state,
/// gives a block again: an IV used twice under one key ends the secrecy of AES-GCM, so nothing is
/// encrypted with it.
#[derive(Default)]
pub(super) struct IvWatch {
    /// The first IV of each block stands for the block. One lock for all sessions: taken once a
    /// block.
    seen: Mutex<Seen<Iv>>,
}

impl IvWatch {
    /// The block's first IV if the block may be used; what is wrong with the generator otherwise.
    fn admit(&self, block: &[Iv]) -> Result<Iv, &'static str> {
        if block.contains(&[0; IV_BYTES]) {
            return Err("C_GenerateRandom: an IV of zeros");
        }
        let distinct: HashSet<&Iv> = block.iter().collect();
        let Some(first) = block.first().filter(|_| distinct.len() == block.len()) else {
            return Err("C_GenerateRandom: the same IV twice");
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if block.iter().any(|iv| seen.values.contains(iv)) {
            return Err("C_GenerateRandom: an IV that was drawn before");
        }
        seen.remember(*first, IV_BLOCKS_REMEMBERED);
        Ok(*first)
    }
}

/// Locks of [`MadeIvWatch`]: many, so that sessions that encrypt at the same moment practically
/// never want the same one.
const WATCH_PARTS: usize = 64;

/// The IVs that the HSM itself made of late, under whatever key. What it encrypted with an IV of
/// zeros or one that it used before is thrown away unseen: a stuck generator, or a profile that the
/// module does not fit, must not cost a key its secrecy.
pub(super) struct MadeIvWatch {
    parts: [Mutex<Seen<AnyIv>>; WATCH_PARTS],
}

impl Default for MadeIvWatch {
    fn default() -> MadeIvWatch {
        MadeIvWatch { parts: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl MadeIvWatch {
    /// What is wrong with it otherwise.
    pub(super) fn admit(&self, iv: &AnyIv) -> Result<(), &'static str> {
        if iv.is_zero() {
            return Err("C_Encrypt: an IV of zeros: wrong profile?");
        }
        // A generator that gives the same IV again gives it to the same part.
        let part = &self.parts[usize::from(iv.bytes[0]) % WATCH_PARTS];
        let mut seen = part.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.values.contains(iv) {
            return Err("C_Encrypt: the HSM made an IV that it had made before");
        }
        seen.remember(*iv, MADE_IVS_REMEMBERED / WATCH_PARTS);
        Ok(())
    }
}

/// A session's supply; what is left of a block dies with the session.
#[derive(Default)]
pub(super) struct IvSupply {
    block: Vec<Iv>,
}

impl IvSupply {
    /// The next IV if there is one left.
    pub(super) fn next(&mut self) -> Option<Iv> {
        self.block.pop()
    }

    /// A new block, out of `random`, which holds [`IvSupply::block_bytes`]; and its first IV.
    pub(super) fn refill(&mut self, random: &[u8], watch: &IvWatch) -> Result<Iv, &'static str> {
        let (block, _) = random.as_chunks::<IV_BYTES>();
        let first = watch.admit(block)?;
        self.block = block[1..].to_vec();
        Ok(first)
    }

    /// Bytes to draw for one block.
    pub(super) const fn block_bytes() -> usize {
        IV_BLOCK * IV_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u32) -> Vec<u8> {
        (0..IV_BLOCK as u32)
            .flat_map(|n| [[1, 0, 0, 0], seed.to_be_bytes(), n.to_be_bytes()].concat())
            .collect()
    }

    #[test]
    fn each_iv_is_given_once() {
        let watch = IvWatch::default();
        let mut supply = IvSupply::default();
        assert_eq!(supply.next(), None);
        let mut given = HashSet::new();
        for seed in 0..2 {
            assert!(given.insert(supply.refill(&random(seed), &watch).expect("good")));
            for _ in 1..IV_BLOCK {
                assert!(given.insert(supply.next().expect("one of the block")));
            }
            assert_eq!(supply.next(), None);
        }
        assert_eq!(given.len(), 2 * IV_BLOCK);
    }

    #[test]
    fn a_generator_that_is_not_one_is_refused() {
        let watch = IvWatch::default();
        let mut supply = IvSupply::default();
        assert_eq!(
            supply.refill(&vec![0; IvSupply::block_bytes()], &watch),
            Err("C_GenerateRandom: an IV of zeros")
        );
        assert_eq!(
            supply.refill(&vec![7; IvSupply::block_bytes()], &watch),
            Err("C_GenerateRandom: the same IV twice")
        );
        assert!(supply.refill(&[], &watch).is_err());
        let mut zero_at_the_end = random(1);
        let end = zero_at_the_end.len();
        zero_at_the_end[end - IV_BYTES..].fill(0);
        assert!(supply.refill(&zero_at_the_end, &watch).is_err());
        assert_eq!(supply.next(), None);
    }

    #[test]
    fn a_block_that_comes_again_is_refused_also_in_another_session() {
        let watch = IvWatch::default();
        IvSupply::default().refill(&random(1), &watch).expect("first time");
        assert_eq!(
            IvSupply::default().refill(&random(1), &watch),
            Err("C_GenerateRandom: an IV that was drawn before")
        );
        // The same stream, drawn from half a block earlier.
        let shifted: Vec<u8> =
            [&random(2)[IvSupply::block_bytes() / 2..], &random(1)[..IvSupply::block_bytes() / 2]]
                .concat();
        assert!(IvSupply::default().refill(&shifted, &watch).is_err());
    }

    #[test]
    fn memory_is_bounded() {
        let watch = IvWatch::default();
        let mut supply = IvSupply::default();
        for seed in 0..=IV_BLOCKS_REMEMBERED as u32 {
            supply.refill(&random(seed), &watch).expect("all different");
        }
        assert_eq!(watch.seen.lock().unwrap().order.len(), IV_BLOCKS_REMEMBERED);
        assert_eq!(watch.seen.lock().unwrap().values.len(), IV_BLOCKS_REMEMBERED);
        assert!(supply.refill(&random(1), &watch).is_err());
        supply.refill(&random(0), &watch).expect("forgotten");
    }

    #[test]
    fn what_the_hsm_makes_is_neither_zero_nor_made_before() {
        let watch = MadeIvWatch::default();
        let iv = |bytes: &[u8]| AnyIv::copy_of(bytes).expect("short enough");
        for length in [12, 16] {
            assert_eq!(
                watch.admit(&AnyIv::zeros(length)),
                Err("C_Encrypt: an IV of zeros: wrong profile?")
            );
            assert_eq!(watch.admit(&iv(&vec![7; length])), Ok(()));
            assert!(watch.admit(&iv(&vec![7; length])).is_err());
        }
        assert_eq!(watch.admit(&iv(&[&[7; 11][..], &[8]].concat())), Ok(()));
        assert!(watch.admit(&AnyIv::zeros(0)).is_err());
        assert_eq!(AnyIv::copy_of(&[1; IV_BYTES_MAX + 1]), None);
    }

    #[test]
    fn memory_of_made_ivs_is_bounded() {
        let watch = MadeIvWatch::default();
        let iv = |n: u32| {
            AnyIv::copy_of(&[&[9][..], &n.to_be_bytes(), &[0; 7]].concat()).expect("12 bytes")
        };
        let part = MADE_IVS_REMEMBERED / WATCH_PARTS;
        for n in 0..=part as u32 {
            watch.admit(&iv(n)).expect("all different");
        }
        assert_eq!(watch.parts[9].lock().unwrap().values.len(), part);
        assert!(watch.admit(&iv(1)).is_err());
        watch.admit(&iv(0)).expect("forgotten");
    }
}
