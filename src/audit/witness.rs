//! A witness of other logs: cosigns a checkpoint that goes on from the last one that it cosigned of
//! the same log, and never one that does not. C2SP tlog-witness.
//!
//! Knows no network. What it must not forget is given to who keeps it before anything is answered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, Verifier};
use super::consistency::{PROOF_HASHES_MAX, is_consistent};
use super::cosignature::{Cosigner, CosignerKey};
use super::note::{NotAccepted, split};
use super::tree::{Hash, empty_root};
use crate::hex::hex;

/// Of the saved form. Another one is not understood.
const VERSION: u32 = 1;

/// Newest cosigned note by origin.
type Latest = BTreeMap<String, String>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    checkpoints: Latest,
}

/// Puts what must not be forgotten on disk.
type Save = dyn Fn(&[u8]) -> Result<(), String> + Send + Sync;

/// What has been cosigned, whatever the key and the logs of the witness are by now.
pub struct Memory {
    latest: Mutex<Latest>,
    save: Box<Save>,
}

/// A witness, and what it has seen.
pub struct Witness {
    cosigner: Cosigner,
    logs: Vec<Verifier>,
    memory: Arc<Memory>,
}

/// What becomes of a checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is cosigned: the line.
    Cosigned(String),
    /// It cannot be read.
    Malformed(&'static str),
    /// Its log is not known.
    UnknownLog,
    /// Its log has not signed it.
    NotSigned,
    /// The old size is not that of the newest one that was cosigned, which this is.
    Conflict(u64),
    /// It does not go on from that.
    Inconsistent,
    /// It could not be saved.
    NotSaved(String),
}

impl Memory {
    /// `saved`: what was saved the last time, if it was. `save` returns when it is on disk.
    ///
    /// # Errors
    /// When `saved` cannot be read: who forgets what he has seen is no witness.
    pub fn new(saved: Option<&[u8]>, save: Box<Save>) -> Result<Memory, String> {
        let latest = saved.map_or(Ok(Latest::new()), parse_saved)?;
        Ok(Memory { latest: Mutex::new(latest), save })
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness {
    /// Cosigns what these logs have signed. Others with the same memory may be at it meanwhile.
    pub fn new(cosigner: Cosigner, logs: Vec<Verifier>, memory: Arc<Memory>) -> Witness {
        Witness { cosigner, logs, memory }
    }

    /// What verifies the cosignatures.
    pub fn key(&self) -> &CosignerKey {
        self.cosigner.key()
    }

    /// `add-checkpoint` with this body, at `time` (seconds since 1970).
    pub fn add_checkpoint(&self, body: &[u8], time: u64) -> Answer {
        let Some(request) = std::str::from_utf8(body).ok().and_then(parse_request) else {
            return Answer::Malformed("not a request of c2sp.org/tlog-witness");
        };
        let checkpoint = match self.open(request.note) {
            Ok(checkpoint) => checkpoint,
            Err(answer) => return answer,
        };
        let (size, root) = (checkpoint.size, checkpoint.root);
        if request.old_size > size {
            return Answer::Malformed("the old size is above the checkpoint's");
        }
        // Held until it is saved: nobody may go back behind what another one is answered.
        let mut latest = self.memory.latest();
        let before = latest.get(&checkpoint.origin).and_then(|note| of_note(note));
        let (old_size, old_root) =
            before.map_or((0, empty_root()), |before| (before.size, before.root));
        if request.old_size != old_size {
            return Answer::Conflict(old_size);
        }
        if size == 0 && root != empty_root()
            || !is_consistent((old_size, &old_root), (size, &root), &request.proof)
        {
            return Answer::Inconsistent;
        }
        let Some((text, signatures)) = split(request.note) else {
            return Answer::Malformed("not a signed checkpoint");
        };
        let line = self.cosigner.line(text, time);
        if size > old_size || !latest.contains_key(&checkpoint.origin) {
            let mut next = latest.clone();
            next.insert(checkpoint.origin, format!("{text}\n{signatures}{line}"));
            if let Err(why) = (self.memory.save)(&to_saved(&next)) {
                return Answer::NotSaved(why);
            }
            *latest = next;
        }
        Answer::Cosigned(line)
    }

    /// The newest checkpoint of the log with this SHA-256 of its origin, hex, with our cosignature.
    pub fn checkpoint(&self, origin_hash: &str) -> Option<String> {
        let latest = self.memory.latest();
        let (_, note) = latest.iter().find(|(origin, _)| hex_sha256(origin) == origin_hash)?;
        Some(note.clone())
    }

    /// The checkpoint of a note that one of the known keys has signed.
    fn open(&self, note: &str) -> Result<Checkpoint, Answer> {
        let origin = note.split('\n').next().unwrap_or_default();
        let mut answer = Answer::UnknownLog;
        let mut opened = None;
        for log in self.logs.iter().filter(|log| log.name() == origin) {
            answer = Answer::NotSigned;
            match log.open(note) {
                Ok(checkpoint) => opened = Some(checkpoint),
                Err(NotAccepted::NotSigned) => {}
                // Also beside the right signature of another key: such a note is malformed.
                Err(NotAccepted::WrongSignature | NotAccepted::OtherOrigin) => return Err(answer),
                Err(NotAccepted::Malformed) => {
                    return Err(Answer::Malformed("not a signed checkpoint"));
                }
            }
        }
        opened.ok_or(answer)
    }
}

struct Request<'a> {
    old_size: u64,
    proof: Vec<Hash>,
    note: &'a str,
}

/// "an old size line, zero or more consistency proof lines, and an empty line, followed by a
/// checkpoint", tlog-witness.
fn parse_request(text: &str) -> Option<Request<'_>> {
    let (head, note) = text.split_once("\n\n")?;
    let mut lines = head.split('\n');
    let digits = lines.next()?.strip_prefix("old ")?;
    let old_size: u64 = digits.parse().ok()?;
    let proof = lines
        .map(|line| STANDARD.decode(line).ok()?.try_into().ok())
        .collect::<Option<Vec<Hash>>>()?;
    let canonical = old_size.to_string() == digits && proof.len() <= PROOF_HASHES_MAX;
    canonical.then_some(Request { old_size, proof, note })
}

/// The body of such a request.
pub fn write_request(old_size: u64, proof: &[Hash], note: &str) -> String {
    let lines: String = proof.iter().map(|hash| STANDARD.encode(hash) + "\n").collect();
    format!("old {old_size}\n{lines}\n{note}")
}

/// What a note of ours says; its signatures were checked when it came.
fn of_note(note: &str) -> Option<Checkpoint> {
    Checkpoint::parse_text(split(note)?.0)
}

/// Reads what was saved.
///
/// # Errors
/// What is wrong with it.
fn parse_saved(bytes: &[u8]) -> Result<Latest, String> {
    let saved: Saved = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if saved.version != VERSION {
        return Err(format!("version {} is not known to this xksd", saved.version));
    }
    for (origin, note) in &saved.checkpoints {
        if of_note(note).is_none_or(|checkpoint| checkpoint.origin != *origin) {
            return Err(format!("what it has of {origin:?} is no checkpoint of it"));
        }
    }
    Ok(saved.checkpoints)
}

fn to_saved(latest: &Latest) -> Vec<u8> {
    let saved = Saved { version: VERSION, checkpoints: latest.clone() };
    serde_json::to_vec_pretty(&saved).unwrap_or_default()
}

fn hex_sha256(text: &str) -> String {
    hex(digest(&SHA256, text.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests;
