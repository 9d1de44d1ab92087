//! The block list: keys and key stores that an operator has cut off, whatever AWS asks.
//!
//! Pure: a value that is replaced whole. Time is passed in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits::BLOCKS_MAX;

/// One thing that is blocked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Path prefix of the key store.
    pub key_store: String,
    /// External key id; the whole key store if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Why, in the operator's words.
    pub reason: String,
    /// Who blocked it: the user at the control socket.
    pub who: String,
    /// When it was blocked, seconds since 1970.
    pub since: i64,
    /// When it ends by itself, seconds since 1970; never if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

impl Block {
    fn is_over(&self, now: i64) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// All that is blocked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockList {
    /// By key store, then by key; `None` is the whole key store.
    stores: BTreeMap<String, BTreeMap<Option<String>, Block>>,
}

/// A block list has no place for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl BlockList {
    /// Of these blocks; of two for the same thing the later one.
    pub fn of(blocks: impl IntoIterator<Item = Block>) -> BlockList {
        let mut list = BlockList::default();
        blocks.into_iter().for_each(|block| list.insert(block));
        list
    }

    fn insert(&mut self, block: Block) {
        let keys = self.stores.entry(block.key_store.clone()).or_default();
        keys.insert(block.key.clone(), block);
    }

    /// What blocks this key at `now` (seconds since 1970): the key's own block, or its key store's.
    pub fn find(&self, key_store: &str, key: &str, now: i64) -> Option<&Block> {
        if self.stores.is_empty() {
            return None;
        }
        let keys = self.stores.get(key_store)?;
        let own = keys.values().find(|block| block.key.as_deref() == Some(key));
        let whole = keys.get(&None);
        whole.into_iter().chain(own).find(|block| !block.is_over(now))
    }

    /// With one block more, which takes the place of one for the same thing.
    ///
    /// # Errors
    /// When there are [`BLOCKS_MAX`] already.
    pub fn with(&self, block: Block, now: i64) -> Result<BlockList, Full> {
        let mut list = BlockList::of(self.active(now).cloned());
        list.insert(block);
        if list.count() > BLOCKS_MAX { Err(Full) } else { Ok(list) }
    }

    /// Without the block of this key, or of this whole key store; `None` when there is none. A
    /// key store's block is not one of its keys'.
    pub fn without(&self, key_store: &str, key: Option<&str>, now: i64) -> Option<BlockList> {
        let is_it = |block: &&Block| block.key_store == key_store && block.key.as_deref() == key;
        self.active(now).find(is_it)?;
        Some(BlockList::of(self.active(now).filter(|block| !is_it(block)).cloned()))
    }

    /// All, also those that are over.
    pub fn all(&self) -> impl Iterator<Item = &Block> {
        self.stores.values().flat_map(BTreeMap::values)
    }

    /// Those that are not over at `now`, in order of key stores and keys.
    pub fn active(&self, now: i64) -> impl Iterator<Item = &Block> {
        self.stores.values().flat_map(BTreeMap::values).filter(move |block| !block.is_over(now))
    }

    /// Those that are over at `now`.
    pub fn ended(&self, now: i64) -> impl Iterator<Item = &Block> {
        self.stores.values().flat_map(BTreeMap::values).filter(move |block| block.is_over(now))
    }

    /// How many there are, also those that are over.
    pub fn count(&self) -> usize {
        self.stores.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(key_store: &str, key: Option<&str>, until: Option<i64>) -> Block {
        Block {
            key_store: key_store.to_owned(),
            key: key.map(str::to_owned),
            reason: "leak".to_owned(),
            who: "uid 0".to_owned(),
            since: 100,
            until,
        }
    }

    #[test]
    fn a_key_is_blocked_by_itself_and_by_its_key_store() {
        let list = BlockList::of([block("/a", Some("foo"), None), block("/b", None, None)]);
        let blocked = |key_store, key| list.find(key_store, key, 200).is_some();
        assert!(blocked("/a", "foo") && !blocked("/a", "bar"));
        assert!(blocked("/b", "foo") && blocked("/b", "bar"));
        assert!(!blocked("", "foo") && !blocked("/c", "foo"));
    }

    #[test]
    fn a_block_ends_when_it_says_and_an_older_one_goes_on() {
        let list = BlockList::of([block("/a", None, Some(150)), block("/a", Some("foo"), None)]);
        assert!(list.find("/a", "bar", 149).is_some());
        assert!(list.find("/a", "bar", 150).is_none());
        assert!(list.find("/a", "foo", 150).is_some());
        assert_eq!(list.active(149).count(), 2);
        assert_eq!(list.active(150).count(), 1);
    }

    #[test]
    fn unblocking_takes_exactly_what_was_blocked() {
        let list = BlockList::of([block("/a", None, None), block("/a", Some("foo"), None)]);
        let left = list.without("/a", None, 200).unwrap();
        assert!(left.find("/a", "foo", 200).is_some() && left.find("/a", "bar", 200).is_none());
        assert_eq!(left.without("/a", None, 200), None);
        assert_eq!(left.without("/a", Some("foo"), 200), Some(BlockList::default()));
    }

    #[test]
    fn there_is_a_bound_and_what_is_over_does_not_count() {
        let full = |until| {
            let keys = (0..BLOCKS_MAX).map(|number| number.to_string());
            BlockList::of(keys.map(|key| block("/a", Some(&key), until)))
        };
        let more = || block("/a", Some("more"), None);
        assert_eq!(full(None).with(more(), 200), Err(Full));
        assert!(full(None).with(block("/a", Some("7"), Some(300)), 200).is_ok(), "in its place");
        assert_eq!(full(Some(150)).with(more(), 200).map(|list| list.active(200).count()), Ok(1));
    }
}
