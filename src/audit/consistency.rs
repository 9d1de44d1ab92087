//! Consistency proofs: that a tree goes on from a smaller one. RFC 6962, 2.1.2.
//!
//! Pure. To make one takes the smaller tree's [`Frontier`] and the leaves behind it, so that a log
//! that grows need not be read from its beginning each time.

use super::tree::{Frontier, Hash, Leaves, node_hash, root, split};

/// "The client MUST NOT send more than 63 consistency proof lines", tlog-witness.
pub const PROOF_HASHES_MAX: usize = 63;

/// The proof that the tree over the first `size` leaves goes on from `old`: `PROOF(m, D[n])`, RFC
/// 6962, 2.1.2. `None` where `old` is larger.
///
/// # Errors
/// As `leaves` fails.
pub fn consistency_proof<L: Leaves>(
    old: &Frontier,
    leaves: &mut L,
    size: u64,
) -> Result<Option<Vec<Hash>>, L::Error> {
    let old_size = old.size();
    if old_size > size {
        return Ok(None);
    }
    let mut proof = Vec::new();
    let mut tree = 0..size;
    // From the root to the last leaf of the old tree; of an empty one there is nothing to prove.
    while old_size > 0 && tree.end != old_size {
        let middle = tree.start + split(tree.end - tree.start);
        if old_size <= middle {
            proof.push(root(leaves, middle..tree.end)?);
            tree.end = middle;
        } else {
            proof.extend(old.subtree_at(tree.start));
            tree.start = middle;
        }
    }
    if tree.start > 0 {
        // Else what is left is the whole old tree, whose root the other side knows.
        proof.extend(old.subtree_at(tree.start));
    }
    proof.reverse();
    Ok(Some(proof))
}

/// Whether `proof` shows that the tree of `size` leaves goes on from that of `old_size`: RFC 9162,
/// 2.1.4.2. Any tree goes on from the empty one, without a proof.
pub fn is_consistent(
    (old_size, old_root): (u64, &Hash),
    (size, tree_root): (u64, &Hash),
    proof: &[Hash],
) -> bool {
    if old_size == 0 || old_size == size {
        return proof.is_empty() && (old_size == 0 || old_root == tree_root);
    }
    if old_size > size {
        return false;
    }
    // "If first is an exact power of 2, then prepend first_hash to the consistency_path array."
    let mut path = old_size.is_power_of_two().then_some(old_root).into_iter().chain(proof);
    let Some(&begin) = path.next() else { return false };
    let (mut at, mut last) = (old_size - 1, size - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let (mut of_old, mut of_new) = (begin, begin);
    for hash in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            of_old = node_hash(hash, &of_old);
            of_new = node_hash(hash, &of_new);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            of_new = node_hash(&of_new, hash);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && of_old == *old_root && of_new == *tree_root
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::audit::tree::leaf_hash;

    struct InMemory {
        leaves: Vec<Hash>,
        first_read: u64,
    }

    impl Leaves for InMemory {
        type Error = Infallible;
        fn leaf(&mut self, index: u64) -> Result<Hash, Infallible> {
            self.first_read = self.first_read.min(index);
            Ok(self.leaves[index as usize])
        }
    }

    fn grown(leaves: &[Hash]) -> Frontier {
        let mut tree = Frontier::default();
        leaves.iter().for_each(|leaf| tree.append(*leaf));
        tree
    }

    #[test]
    fn every_tree_goes_on_from_every_smaller_one_and_from_no_other() {
        let leaves: Vec<Hash> = (0..70u8).map(|i| leaf_hash(&[i])).collect();
        for size in 0..=leaves.len() {
            let new = grown(&leaves[..size]).root();
            for old_size in 0..=size {
                let old = grown(&leaves[..old_size]);
                let mut all = InMemory { leaves: leaves.clone(), first_read: u64::MAX };
                let sizes = (old_size as u64, size as u64);
                let proof = consistency_proof(&old, &mut all, sizes.1).unwrap().unwrap();
                assert!(all.first_read >= sizes.0, "only what is new is read: {sizes:?}");
                assert!(proof.len() <= PROOF_HASHES_MAX);
                let holds = |old: &Hash, new: &Hash, proof: &[Hash]| {
                    is_consistent((sizes.0, old), (sizes.1, new), proof)
                };
                let (old, other) = (old.root(), leaf_hash(b"other"));
                assert!(holds(&old, &new, &proof), "{sizes:?}");
                if old_size > 0 {
                    assert!(!holds(&other, &new, &proof), "{sizes:?}");
                }
                if old_size > 0 && old_size < size {
                    assert!(!holds(&old, &other, &proof), "{sizes:?}");
                }
                for at in 0..proof.len() {
                    let (mut wrong, mut short) = (proof.clone(), proof.clone());
                    wrong[at] = other;
                    short.remove(at);
                    assert!(!holds(&old, &new, &wrong) && !holds(&old, &new, &short), "{sizes:?}");
                }
                assert!(!holds(&old, &new, &[&proof[..], &[other]].concat()), "{sizes:?}");
            }
        }
        let mut all = InMemory { leaves: leaves.clone(), first_read: 0 };
        assert_eq!(consistency_proof(&grown(&leaves), &mut all, 69), Ok(None));
    }
}
