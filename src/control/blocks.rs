//! The block list of the running service: in force on every shard at once, and kept over restarts.
//!
//! It is what was blocked here and what is blocked in the fleet, together. Of two blocks for the
//! same thing the one that lasts longer is in force, so that neither takes the other away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::state_dir::{BLOCKS_FILE as FILE, StateDir};
use crate::limits::{BLOCKS_FILE_BYTES_MAX, STATE_RETRY_INTERVAL};
use crate::policy::blocklist::{Block, BlockList, Full};

/// Of the file's form. Another one is not understood, and xksd does not start.
const VERSION: u32 = 2;
/// Without a digest.
const VERSION_WITHOUT_DIGEST: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    blocks: Vec<Block>,
    /// SHA-256 of the blocks as JSON without spaces: one name that a disk has changed would block
    /// something else. It keeps nobody out who may write the file.
    #[serde(default)]
    sha256: String,
}

/// What is blocked, and the file of it.
pub struct Blocks {
    /// In force.
    list: Arc<ArcSwap<BlockList>>,
    /// What was blocked here: the file's.
    local: ArcSwap<BlockList>,
    /// What is blocked in the fleet, which keeps it.
    fleet: ArcSwap<BlockList>,
    dir: Arc<StateDir>,
    /// Held while the list changes. When to try again to save what is not on disk.
    unsaved_until: Mutex<Option<Instant>>,
}

/// Something was blocked, and what its file says.
#[derive(Debug, PartialEq, Eq)]
pub enum Saving {
    /// It is on disk.
    Saved,
    /// It is in force and not on disk: why.
    NotSaved(String),
}

impl Blocks {
    /// As they were saved.
    ///
    /// # Errors
    /// A sentence for the operator. A list that cannot be read is never taken for an empty one.
    pub fn load(dir: Arc<StateDir>) -> Result<Blocks, String> {
        let had = dir.has_had_blocks()?;
        let list = match dir.read(FILE, BLOCKS_FILE_BYTES_MAX)? {
            None => none(&dir, had)?,
            Some(bytes) => parse(&bytes).map_err(|why| {
                format!(
                    "the block list in {FILE} of the state directory cannot be read: {why}. \
                     xksd does not start without it: it says what must not be answered"
                )
            })?,
        };
        if !had {
            dir.mark_blocks()?;
        }
        Ok(Blocks {
            list: Arc::new(ArcSwap::from_pointee(list.clone())),
            local: ArcSwap::from_pointee(list),
            fleet: ArcSwap::default(),
            dir,
            unsaved_until: Mutex::default(),
        })
    }

    /// For the shards.
    pub fn list(&self) -> Arc<ArcSwap<BlockList>> {
        self.list.clone()
    }

    /// What is blocked at `now` (seconds since 1970).
    pub fn active(&self, now: i64) -> Vec<Block> {
        self.list.load().active(now).cloned().collect()
    }

    /// What is blocked on this instance by itself at `now`.
    pub fn of_instance(&self, now: i64) -> Vec<Block> {
        self.local.load().active(now).cloned().collect()
    }

    /// What is blocked in the fleet at `now`.
    pub fn of_fleet(&self, now: i64) -> Vec<Block> {
        self.fleet.load().active(now).cloned().collect()
    }

    /// From now on this is what is blocked in the fleet.
    pub fn set_fleet(&self, list: BlockList) {
        let _unsaved = self.lock();
        self.fleet.store(Arc::new(list));
        self.put_in_force();
    }

    fn set_local(&self, list: BlockList) {
        self.local.store(Arc::new(list));
        self.put_in_force();
    }

    /// To be called with the lock held.
    fn put_in_force(&self) {
        let (local, fleet) = (self.local.load(), self.fleet.load());
        let mut all: Vec<Block> = local.all().chain(fleet.all()).cloned().collect();
        // The later one of the list counts: none lasts longer than one without an end.
        all.sort_by_key(|block| block.until.unwrap_or(i64::MAX));
        self.list.store(Arc::new(BlockList::of(all)));
    }

    /// What is blocked now.
    pub fn in_force(&self) -> Vec<Block> {
        self.active(unix_seconds())
    }

    /// Blocks, at once, and saves it. Where it cannot be saved it is in force all the same, and
    /// [`Blocks::tick`] tries again.
    ///
    /// # Errors
    /// When there is no place for one more.
    pub fn block(&self, block: Block) -> Result<Saving, Full> {
        let mut unsaved = self.lock();
        let now = block.since;
        let list = self.local.load().with(block, now)?;
        self.set_local(list);
        Ok(self.save(&mut unsaved, now))
    }

    /// Saves the list without a block, and then takes that out of force.
    ///
    /// # Errors
    /// When there is no such block, or it cannot be saved: then it stays in force.
    pub fn unblock(&self, key_store: &str, key: Option<&str>, now: i64) -> Result<(), String> {
        let _unsaved = self.lock();
        let list = self.local.load().without(key_store, key, now);
        let list = list.ok_or_else(|| "it is not blocked".to_owned())?;
        let saved = self.dir.write(FILE, &text(list.active(now)));
        saved.map_err(|why| format!("it stays blocked, because {why}"))?;
        self.set_local(list);
        Ok(())
    }

    /// To be called now and then: gives the blocks that have ended by themselves, and saves again
    /// what could not be saved.
    pub fn tick(&self, now: i64) -> Vec<Block> {
        let list = self.list.load();
        if list.ended(now).next().is_none() && self.lock().is_none() {
            return Vec::new();
        }
        let mut unsaved = self.lock();
        let list = self.list.load_full();
        let ended: Vec<Block> = list.ended(now).cloned().collect();
        if !ended.is_empty() {
            let active = |list: &BlockList| BlockList::of(list.active(now).cloned());
            self.fleet.store(Arc::new(active(&self.fleet.load())));
            self.set_local(active(&self.local.load()));
        }
        if !ended.is_empty() || unsaved.is_some_and(|at| at <= Instant::now()) {
            self.save(&mut unsaved, now);
        }
        ended
    }

    /// Whether some change is not on disk yet.
    pub fn is_unsaved(&self) -> bool {
        self.lock().is_some()
    }

    fn save(&self, unsaved: &mut Option<Instant>, now: i64) -> Saving {
        match self.dir.write(FILE, &text(self.local.load().active(now))) {
            Ok(()) => {
                *unsaved = None;
                Saving::Saved
            }
            Err(why) => {
                *unsaved = Some(Instant::now() + STATE_RETRY_INTERVAL);
                Saving::NotSaved(why)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.unsaved_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn unix_seconds() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// What is blocked, for a person.
pub(super) fn name(key_store: &str, key: Option<&str>) -> String {
    match key {
        Some(key) => format!("key {key:?} of key store {key_store:?}"),
        None => format!("key store {key_store:?}"),
    }
}

/// The list of a directory without one: empty, unless it had one. From now on there is one.
fn none(dir: &StateDir, had: bool) -> Result<BlockList, String> {
    if had {
        return Err(format!(
            "the block list {FILE} of the state directory is missing. xksd does not start without \
             it: it says what must not be answered. Restore it; or, if you are sure that nothing \
             is to be blocked, run: rm {}",
            dir.marker().display()
        ));
    }
    dir.write(FILE, &text(std::iter::empty()))?;
    Ok(BlockList::default())
}

fn digest(blocks: &[Block]) -> String {
    let text = serde_json::to_vec(blocks).unwrap_or_default();
    crate::hex::sha256_hex(&text)
}

/// Reads the file's text.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &[u8]) -> Result<BlockList, String> {
    let saved: Saved = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    match saved.version {
        VERSION if saved.sha256 == digest(&saved.blocks) => {}
        VERSION => return Err("it was changed or damaged: its sha256 is another one".to_owned()),
        VERSION_WITHOUT_DIGEST => {}
        other => return Err(format!("version {other} is not known to this xksd")),
    }
    let count = saved.blocks.len();
    let list = BlockList::of(saved.blocks);
    if list.count() < count {
        return Err("the same key or key store stands in it twice".to_owned());
    }
    Ok(list)
}

/// The text of a list that [`parse`] reads.
pub fn text<'a>(blocks: impl Iterator<Item = &'a Block>) -> Vec<u8> {
    let blocks: Vec<Block> = blocks.cloned().collect();
    let saved = Saved { version: VERSION, sha256: digest(&blocks), blocks };
    let mut text = serde_json::to_vec_pretty(&saved).unwrap_or_default();
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(key: &str, until: Option<i64>) -> Block {
        let (key_store, key) = ("/a".to_owned(), Some(key.to_owned()));
        Block { key_store, key, reason: "leak".into(), who: "uid 0".into(), since: 100, until }
    }

    fn load(parent: &tempfile::TempDir) -> Result<Blocks, String> {
        Blocks::load(Arc::new(StateDir::open(&parent.path().join("state"))?))
    }

    #[test]
    fn blocks_survive_and_end_when_they_say() {
        let parent = tempfile::tempdir().unwrap();
        let blocks = load(&parent).unwrap();
        assert_eq!(blocks.block(block("foo", None)), Ok(Saving::Saved));
        assert_eq!(blocks.block(block("bar", Some(200))), Ok(Saving::Saved));
        assert_eq!(blocks.tick(199), []);
        drop(blocks);
        let blocks = load(&parent).unwrap();
        assert_eq!(blocks.active(199), [block("bar", Some(200)), block("foo", None)]);
        assert_eq!(blocks.tick(200), [block("bar", Some(200))]);
        assert_eq!(blocks.tick(200), [], "told once");
        assert_eq!(blocks.unblock("/a", Some("foo"), 200), Ok(()));
        assert_eq!(blocks.unblock("/a", Some("foo"), 200), Err("it is not blocked".to_owned()));
        drop(blocks);
        assert_eq!(load(&parent).unwrap().active(0), []);
    }

    #[test]
    fn whatever_marks_a_directory_before_its_first_start_the_list_is_missed_after_it() {
        let parent = tempfile::tempdir().unwrap();
        let file = |name: &str| parent.path().join("state").join(name);
        drop(StateDir::open(&parent.path().join("state")).unwrap());
        std::fs::write(file("initialised"), "by configuration management\n").unwrap();
        assert_eq!(load(&parent).unwrap().active(0), []);
        std::fs::remove_file(file(FILE)).unwrap();
        let why = load(&parent).err().unwrap();
        assert!(why.contains("is missing") && why.contains("initialised"), "{why}");
    }

    #[test]
    fn what_is_blocked_here_and_in_the_fleet_holds_as_long_as_either() {
        let parent = tempfile::tempdir().unwrap();
        let blocks = load(&parent).unwrap();
        blocks.block(block("foo", Some(200))).unwrap();
        blocks.set_fleet(BlockList::of([block("foo", None), block("bar", Some(150))]));
        assert_eq!(blocks.active(100), [block("bar", Some(150)), block("foo", None)]);
        assert_eq!(blocks.tick(150), [block("bar", Some(150))]);
        blocks.block(block("foo", Some(300))).unwrap();
        assert_eq!(blocks.active(250), [block("foo", None)], "a shorter one here changes nothing");
        blocks.set_fleet(BlockList::default());
        assert_eq!(blocks.active(250), [block("foo", Some(300))], "it goes on here");
        assert_eq!(blocks.unblock("/a", Some("foo"), 250), Ok(()));
        assert_eq!(blocks.active(250), []);
        blocks.set_fleet(BlockList::of([block("foo", None)]));
        assert!(blocks.unblock("/a", Some("foo"), 250).is_err(), "it is the fleet's");
        drop(blocks);
        assert_eq!(load(&parent).unwrap().active(0), [], "the fleet keeps its own");
    }

    #[test]
    fn where_it_cannot_be_saved_a_block_is_in_force_and_stays() {
        let parent = tempfile::tempdir().unwrap();
        let blocks = load(&parent).unwrap();
        let in_the_way = parent.path().join("state/blocks.new");
        std::fs::create_dir(&in_the_way).unwrap();
        assert!(matches!(blocks.block(block("foo", None)), Ok(Saving::NotSaved(_))));
        assert!(blocks.is_unsaved() && blocks.active(100).len() == 1);
        assert!(blocks.unblock("/a", Some("foo"), 100).is_err());
        assert_eq!(blocks.active(100).len(), 1, "what is not saved is not unblocked");
        std::fs::remove_dir(&in_the_way).unwrap();
        *blocks.lock() = Some(Instant::now());
        blocks.tick(100);
        assert!(!blocks.is_unsaved());
        drop(blocks);
        assert_eq!(load(&parent).unwrap().active(100).len(), 1);
    }

    #[test]
    fn a_list_that_cannot_be_read_is_not_an_empty_one() {
        let parent = tempfile::tempdir().unwrap();
        drop(load(&parent).unwrap());
        let one = serde_json::to_string(&block("foo", None)).unwrap();
        let twice = format!("{{\"version\":1,\"blocks\":[{one},{one}]}}");
        for wrong in ["", "{", "[]", "{\"version\":2,\"blocks\":[]}", "{\"blocks\":[]}", &twice] {
            std::fs::write(parent.path().join("state/blocks.json"), wrong).unwrap();
            assert!(load(&parent).err().unwrap().contains("cannot be read"), "{wrong}");
        }
    }
}
