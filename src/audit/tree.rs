//! The Merkle tree over all records: RFC 6962, section 2.1, with SHA-256.
//!
//! Pure. [`Frontier`] grows a tree record by record and keeps one hash for each bit of its size;
//! [`root`] and [`inclusion_proof`] work on all leaf hashes.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA256, digest};

/// A leaf's, a node's or a root's hash.
pub type Hash = [u8; HASH_BYTES];

/// SHA-256, bytes.
pub const HASH_BYTES: usize = 32;

/// "MTH({d(0)}) = SHA-256(0x00 || d(0))", RFC 6962, 2.1. A record is a line without its newline.
pub fn leaf_hash(record: &[u8]) -> Hash {
    sha256(&[&[0x00], record])
}

/// "MTH(D[n]) = SHA-256(0x01 || MTH(D[0:k]) || MTH(D[k:n]))", RFC 6962, 2.1.
pub(super) fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[0x01], left, right])
}

fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; HASH_BYTES];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// The hash of an empty tree: of no bytes at all.
pub(super) fn empty_root() -> Hash {
    let mut hash = [0; HASH_BYTES];
    hash.copy_from_slice(digest(&SHA256, b"").as_ref());
    hash
}

/// What must be kept of a tree to go on growing it: the roots of its complete subtrees, the largest
/// first, one for each bit that is set in its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    subtrees: Vec<Hash>,
}

impl Frontier {
    /// Number of records in the tree.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a record's leaf hash at the end.
    pub fn append(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // Each complete subtree of the same size is joined, as a carry in a binary addition.
        for _ in 0..self.size.trailing_ones() {
            let Some(left) = self.subtrees.pop() else { break };
            hash = node_hash(&left, &hash);
        }
        self.subtrees.push(hash);
        self.size += 1;
    }

    /// The root of the complete subtree that begins with this leaf, if one does.
    pub(super) fn subtree_at(&self, start: u64) -> Option<Hash> {
        let mut at = 0;
        // The largest first: its size is the highest bit that is left.
        self.subtrees.iter().copied().find(|_| {
            let found = at == start;
            at += 1 << (u64::BITS - 1 - (self.size - at).leading_zeros());
            found
        })
    }

    /// As lines of text: the size, then each subtree's root in base64.
    pub fn to_text(&self) -> String {
        let subtrees = self.subtrees.iter().map(|root| STANDARD.encode(root) + "\n");
        format!("{}\n{}", self.size, subtrees.collect::<String>())
    }

    /// What [`Frontier::to_text`] gave; `None` for any other text.
    pub fn parse(text: &str) -> Option<Frontier> {
        let mut lines = text.lines();
        let size: u64 = lines.next()?.parse().ok()?;
        let subtrees = lines
            .map(|line| STANDARD.decode(line).ok()?.try_into().ok())
            .collect::<Option<Vec<Hash>>>()?;
        let found = Frontier { size, subtrees };
        (found.subtrees.len() == size.count_ones() as usize && found.to_text() == text)
            .then_some(found)
    }

    /// The tree's root.
    pub fn root(&self) -> Hash {
        let mut smallest_first = self.subtrees.iter().rev();
        let Some(&last) = smallest_first.next() else { return empty_root() };
        smallest_first.fold(last, |right, left| node_hash(left, &right))
    }
}

/// Gives leaf hashes by index; fails as the place fails where they are kept.
pub trait Leaves {
    /// Why a leaf cannot be had.
    type Error;
    /// The hash of the leaf with this index.
    fn leaf(&mut self, index: u64) -> Result<Hash, Self::Error>;
}

/// The root of the tree over the leaves in `range`; of the empty tree if it is empty.
///
/// # Errors
/// As `leaves` fails.
pub fn root<L: Leaves>(leaves: &mut L, range: Range<u64>) -> Result<Hash, L::Error> {
    let mut frontier = Frontier::default();
    for index in range {
        frontier.append(leaves.leaf(index)?);
    }
    Ok(frontier.root())
}

/// The inclusion proof of leaf `index` in the tree over the first `size` leaves, from the leaf's
/// sibling to the root's child: `PATH(m, D[n])`, RFC 6962, 2.1.1. `None` when there is no such
/// leaf.
///
/// # Errors
/// As `leaves` fails.
pub fn inclusion_proof<L: Leaves>(
    leaves: &mut L,
    index: u64,
    size: u64,
) -> Result<Option<Vec<Hash>>, L::Error> {
    if index >= size {
        return Ok(None);
    }
    let mut proof = Vec::new();
    let mut tree = 0..size;
    while tree.end - tree.start > 1 {
        let middle = tree.start + split(tree.end - tree.start);
        let (path, sibling) = if index < middle {
            (tree.start..middle, middle..tree.end)
        } else {
            (middle..tree.end, tree.start..middle)
        };
        proof.push(root(leaves, sibling)?);
        tree = path;
    }
    proof.reverse();
    Ok(Some(proof))
}

/// "the largest power of two smaller than n", RFC 6962, 2.1; `size` is above 1.
pub(super) fn split(size: u64) -> u64 {
    1 << (u64::BITS - 1 - (size - 1).leading_zeros())
}

/// Whether `proof` shows that `leaf` has index `index` in the tree of `size` leaves with this root:
/// RFC 9162, 2.1.3.2.
pub fn is_included(leaf: Hash, index: u64, size: u64, proof: &[Hash], tree_root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last) = (index, size - 1);
    let mut hash = leaf;
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *tree_root
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::hex::hex;

    struct InMemory(Vec<Hash>);

    impl Leaves for InMemory {
        type Error = Infallible;
        fn leaf(&mut self, index: u64) -> Result<Hash, Infallible> {
            Ok(self.0[index as usize])
        }
    }

    /// RFC 6962's definition, word for word.
    fn defined(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let k = split(leaves.len() as u64) as usize;
                node_hash(&defined(&leaves[..k]), &defined(&leaves[k..]))
            }
        }
    }

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|i| leaf_hash(format!("record {i}").as_bytes())).collect()
    }

    /// The reference vectors of the Certificate Transparency implementations.
    #[test]
    fn known_roots() {
        let records: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let mut tree = Frontier::default();
        assert_eq!(
            hex(&tree.root()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        tree.append(leaf_hash(records[0]));
        assert_eq!(
            hex(&tree.root()),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
        records[1..].iter().for_each(|record| tree.append(leaf_hash(record)));
        assert_eq!(
            hex(&tree.root()),
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
        );
    }

    #[test]
    fn grows_into_the_tree_that_is_defined() {
        let all = leaves(130);
        let mut tree = Frontier::default();
        for (size, leaf) in all.iter().enumerate() {
            assert_eq!((tree.size(), tree.root()), (size as u64, defined(&all[..size])));
            tree.append(*leaf);
        }
    }

    #[test]
    fn a_frontier_is_read_as_it_is_written_and_grows_on() {
        let mut tree = Frontier::default();
        for leaf in leaves(40) {
            let text = tree.to_text();
            assert_eq!(Frontier::parse(&text), Some(tree.clone()));
            for wrong in [format!("{text}\n"), format!("0{text}"), format!("{text}A")] {
                assert_eq!(Frontier::parse(&wrong), None, "{wrong:?}");
            }
            tree.append(leaf);
        }
    }

    #[test]
    fn a_leaf_that_is_not_there_has_no_proof() {
        assert_eq!(inclusion_proof(&mut InMemory(leaves(3)), 3, 3), Ok(None));
        assert!(!is_included(leaves(1)[0], 1, 1, &[], &leaves(1)[0]));
        assert!(is_included(leaves(1)[0], 0, 1, &[], &leaves(1)[0]));
    }

    proptest! {
        #[test]
        fn what_is_in_the_tree_can_be_proved_and_nothing_else(
            size in 1u64..200, index in any::<prop::sample::Index>(), flip in any::<(u16, u8)>(),
        ) {
            let index = index.index(size as usize) as u64;
            let mut all = InMemory(leaves(size as usize));
            let proof = inclusion_proof(&mut all, index, size).unwrap().unwrap();
            let leaf = all.0[index as usize];
            let tree_root = root(&mut all, 0..size).unwrap();
            prop_assert!(is_included(leaf, index, size, &proof, &tree_root));
            prop_assert!(!is_included(leaf, (index + 1) % (size + 1), size, &proof, &tree_root));
            prop_assert!(!is_included(leaf_hash(b"other"), index, size, &proof, &tree_root));
            let mut longer = proof.clone();
            longer.push(leaf);
            prop_assert!(!is_included(leaf, index, size, &longer, &tree_root));
            if let Some(at) = (flip.0 as usize).checked_rem(proof.len() * HASH_BYTES) {
                let mut wrong = proof.clone();
                wrong[at / HASH_BYTES][at % HASH_BYTES] ^= flip.1 | 1;
                prop_assert!(!is_included(leaf, index, size, &wrong, &tree_root));
            }
        }
    }
}
