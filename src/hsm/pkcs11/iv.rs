//! IVs from the HSM's generator, drawn in blocks, each used once.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::limits::{IV_BLOCK, IV_BLOCKS_REMEMBERED, IV_BYTES};

/// One IV.
pub(super) type Iv = [u8; IV_BYTES];

/// What the generator gave of late. A generator that is stuck, or restarts from the same state, gives a block again: an IV used twice
/// under one key ends the secrecy of AES-GCM, so nothing is encrypted with it.
#[derive(Default)]
pub(super) struct IvWatch {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// The first IV of each block stands for the block.
    first: HashSet<Iv>,
    order: VecDeque<Iv>,
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
        if block.iter().any(|iv| seen.first.contains(iv)) {
            return Err("C_GenerateRandom: an IV that was drawn before");
        }
        if seen.order.len() == IV_BLOCKS_REMEMBERED
            && let Some(oldest) = seen.order.pop_front()
        {
            seen.first.remove(&oldest);
        }
        seen.first.insert(*first);
        seen.order.push_back(*first);
        Ok(*first)
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
        (0..IV_BLOCK as u32).flat_map(|n| [[1, 0, 0, 0], seed.to_be_bytes(), n.to_be_bytes()].concat()).collect()
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
        assert_eq!(supply.refill(&vec![0; IvSupply::block_bytes()], &watch), Err("C_GenerateRandom: an IV of zeros"));
        assert_eq!(supply.refill(&vec![7; IvSupply::block_bytes()], &watch), Err("C_GenerateRandom: the same IV twice"));
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
        assert_eq!(IvSupply::default().refill(&random(1), &watch), Err("C_GenerateRandom: an IV that was drawn before"));
        // The same stream, drawn from half a block earlier.
        let shifted: Vec<u8> = [&random(2)[IvSupply::block_bytes() / 2..], &random(1)[..IvSupply::block_bytes() / 2]].concat();
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
        assert_eq!(watch.seen.lock().unwrap().first.len(), IV_BLOCKS_REMEMBERED);
        assert!(supply.refill(&random(1), &watch).is_err());
        supply.refill(&random(0), &watch).expect("forgotten");
    }
}
