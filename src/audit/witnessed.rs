//! How far a witness has cosigned this trail, and what it must be sent to go on.

use std::fs;
use std::io;

use super::checkpoint::Checkpoint;
use super::consistency::consistency_proof;
use super::cosignature::CosignerKey;
use super::layout::Layout;
use super::proof::HashFile;
use super::store::replace;
use super::tree::{Frontier, Leaves};
use super::witness::write_request;

/// What one witness has cosigned, as far as is known.
pub struct Witnessed {
    layout: Layout,
    key: CosignerKey,
    /// The tree that it cosigned last: a proof goes on from there.
    tree: Frontier,
}

impl Witnessed {
    /// As it was kept. Without that, the witness says at the first request how far it is.
    pub fn load(layout: Layout, key: CosignerKey) -> Witnessed {
        let kept = fs::read_to_string(layout.witness(&key.id())).ok();
        let tree = kept.and_then(|text| Frontier::parse(&text)).unwrap_or_default();
        Witnessed { layout, key, tree }
    }

    /// The body of `add-checkpoint` for this checkpoint; `None` where the witness has cosigned more
    /// records than it has.
    ///
    /// # Errors
    /// When the hashes cannot be read.
    pub fn request(&self, checkpoint: &Checkpoint, note: &str) -> io::Result<Option<String>> {
        let mut leaves = HashFile::open(&self.layout)?;
        let proof = consistency_proof(&self.tree, &mut leaves, checkpoint.size)?;
        Ok(proof.map(|proof| write_request(self.tree.size(), &proof, note)))
    }

    /// Records that it has cosigned.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The witness says that it is there, or what was kept is wrong: the tree is made of the hashes
    /// again.
    ///
    /// # Errors
    /// When the hashes cannot be read.
    pub fn is_at(&mut self, size: u64) -> io::Result<()> {
        self.tree = Frontier::default();
        self.grow(size)
    }

    fn grow(&mut self, size: u64) -> io::Result<()> {
        let mut leaves = HashFile::open(&self.layout)?;
        while self.tree.size() < size {
            self.tree.append(leaves.leaf(self.tree.size())?);
        }
        Ok(())
    }

    /// The lines of this witness in what it answered; they are right.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn accept(
        &mut self,
        checkpoint: &Checkpoint,
        note: &str,
        answer: &str,
    ) -> Result<String, String> {
        // "The client MUST ignore any cosignatures from unknown keys", tlog-witness.
        let is_ours = |line: &&str| self.key.cosigned_at(&format!("{note}{line}\n")).is_ok();
        let lines: String =
            answer.lines().filter(is_ours).map(|line| format!("{line}\n")).collect();
        if lines.is_empty() {
            return Err(format!("its answer has no cosignature of {}", self.key));
        }
        let failed = |error: io::Error| format!("the trail's hashes: {error}");
        self.grow(checkpoint.size).map_err(failed)?;
        let kept = self.layout.witness(&self.key.id());
        replace(&kept, self.tree.to_text().as_bytes()).map_err(failed)?;
        Ok(lines)
    }
}
