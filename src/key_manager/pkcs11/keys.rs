//! Keys found on the token, shared by the sessions of an engine.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use cryptoki_sys::CK_OBJECT_HANDLE;

use super::attributes::Attributes;
use crate::limits::{KEY_REFUSAL_AGE_MAX, MISSING_KEYS_REMEMBERED};

/// A key as it was found.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) handle: CK_OBJECT_HANDLE,
    pub(super) attributes: Attributes,
    /// When the attributes were read.
    pub(super) read_at: Instant,
}

/// Handles and attributes by label.
#[derive(Default)]
pub(super) struct KeyCache {
    inner: RwLock<Inner>,
    /// Grows when something known becomes void: then what the sessions know by themselves is, too.
    version: AtomicU64,
}

#[derive(Default)]
struct Inner {
    keys: HashMap<Arc<str>, Key>,
    /// Handles that were a key's until a session was lost.
    doubted: HashMap<Arc<str>, CK_OBJECT_HANDLE>,
    /// Labels without a key: when that was found out, and what the operator sees.
    missing: HashMap<Arc<str>, (Instant, String)>,
}

impl KeyCache {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to `count` keys that are known, with their labels, but not that of `except`.
    pub(super) fn others(&self, except: &str, count: usize) -> Vec<(Arc<str>, Key)> {
        let inner = self.read();
        let others = inner.keys.iter().filter(|(label, _)| ***label != *except);
        others.map(|(label, key)| (label.clone(), key.clone())).take(count).collect()
    }

    /// To be asked before a key is looked up that [`KeyCache::insert`] shall take.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn invalidate(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Keeps the key, unless handles have been declared void since `version`.
    pub(super) fn insert(&self, label: &Arc<str>, key: &Key, version: u64) {
        let mut inner = self.write();
        if self.version() == version {
            inner.missing.remove(label);
            inner.doubted.remove(label);
            let before = inner.keys.insert(label.clone(), key.clone());
            let same =
                |before: Key| before.handle == key.handle && before.attributes == key.attributes;
            if !before.is_none_or(same) {
                self.invalidate();
            }
        }
    }

    pub(super) fn remove(&self, label: &str) {
        let mut inner = self.write();
        inner.doubted.remove(label);
        if inner.keys.remove(label).is_some() {
            self.invalidate();
        }
    }

    /// All handles are void: with the login they went, and the same number may be another key's.
    pub(super) fn clear(&self) {
        let mut inner = self.write();
        *inner = Inner::default();
        self.invalidate();
    }

    /// A session was lost. PKCS#11: "if a particular session can use a particular handle to access
    /// a particular object, then that session will continue to be able to use that handle to access
    /// that object as long as the session continues to exist". Whether others exist is not known,
    /// and in those to come the same number may be another key's: no handle is used before the
    /// module has said again whose it is.
    pub(super) fn doubt(&self) {
        let Inner { keys, doubted, missing } = &mut *self.write();
        doubted.extend(keys.drain().map(|(label, key)| (label, key.handle)));
        missing.clear();
        self.invalidate();
    }

    /// The key as it was found, unless its handle has become void.
    pub(super) fn get(&self, label: &str) -> Option<Key> {
        self.read().keys.get(label).cloned()
    }

    /// Of a key as it was found, whichever.
    pub(super) fn any_handle(&self) -> Option<CK_OBJECT_HANDLE> {
        self.read().keys.values().next().map(|key| key.handle)
    }

    /// The handle that was this key's before a session was lost: to be read (one call), where a
    /// search takes five.
    pub(super) fn doubted(&self, label: &str) -> Option<CK_OBJECT_HANDLE> {
        self.read().doubted.get(label).copied()
    }

    /// The key is to be searched for.
    pub(super) fn forget_doubted(&self, label: &str) {
        self.write().doubted.remove(label);
    }

    /// There is no key of this label; `detail` for the operator.
    pub(super) fn insert_missing(&self, label: &Arc<str>, detail: &str, now: Instant) {
        let mut inner = self.write();
        if inner.missing.len() >= MISSING_KEYS_REMEMBERED {
            inner.missing.retain(|_, (found, _)| {
                now.saturating_duration_since(*found) < KEY_REFUSAL_AGE_MAX
            });
        }
        if inner.missing.len() < MISSING_KEYS_REMEMBERED {
            inner.missing.insert(label.clone(), (now, detail.to_owned()));
        }
    }

    /// What the operator sees of a label that was searched for in vain a moment ago.
    pub(super) fn missing(&self, label: &str, now: Instant) -> Option<String> {
        let inner = self.read();
        let (found, detail) = inner.missing.get(label)?;
        (now.saturating_duration_since(*found) < KEY_REFUSAL_AGE_MAX).then(|| detail.clone())
    }
}

/// What one session knows of the keys: looked at for every job, so without a lock, and without a
/// reference count that others count too.
#[derive(Default)]
pub(super) struct KnownKeys {
    keys: HashMap<Arc<str>, Key>,
    version: u64,
}

impl KnownKeys {
    /// What this session knows, or else the others do.
    pub(super) fn get(&mut self, shared: &KeyCache, label: &Arc<str>) -> Option<&Key> {
        // Before the look at the shared ones: what becomes void in between is noticed the next
        // time.
        let version = shared.version();
        if version != self.version {
            self.keys.clear();
            self.version = version;
        }
        if !self.keys.contains_key(label) {
            self.renew(shared, label);
        }
        self.keys.get(label)
    }

    /// What the others know by now.
    pub(super) fn renew(&mut self, shared: &KeyCache, label: &Arc<str>) -> Option<&Key> {
        let key = shared.read().keys.get(label).cloned()?;
        self.keys.insert(label.clone(), key);
        self.keys.get(label)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(handle: CK_OBJECT_HANDLE) -> Key {
        Key { handle, attributes: Attributes::none(), read_at: Instant::now() }
    }

    fn handle(
        known: &mut KnownKeys,
        shared: &KeyCache,
        label: &Arc<str>,
    ) -> Option<CK_OBJECT_HANDLE> {
        known.get(shared, label).map(|key| key.handle)
    }

    #[test]
    fn a_session_forgets_what_another_has_found_void() {
        let (shared, label): (_, Arc<str>) = (KeyCache::default(), "foo".into());
        let (mut one, mut other) = (KnownKeys::default(), KnownKeys::default());
        assert_eq!(handle(&mut one, &shared, &label), None);
        shared.insert(&label, &key(7), shared.version());
        for known in [&mut one, &mut other] {
            assert_eq!(handle(known, &shared, &label), Some(7));
        }
        // Another handle under the same label: the key was exchanged.
        shared.insert(&label, &key(8), shared.version());
        assert_eq!(handle(&mut one, &shared, &label), Some(8));
        shared.remove(&label);
        assert_eq!(handle(&mut one, &shared, &label), None);
        assert_eq!(handle(&mut other, &shared, &label), None);
        shared.insert(&label, &key(9), shared.version());
        assert_eq!(handle(&mut other, &shared, &label), Some(9));
        let version = shared.version();
        shared.clear();
        assert_eq!(handle(&mut other, &shared, &label), None);
        // Looked up before the handles became void.
        shared.insert(&label, &key(9), version);
        assert_eq!(handle(&mut other, &shared, &label), None);
    }

    #[test]
    fn handles_of_a_lost_session_are_doubted_until_they_are_read_again() {
        let (shared, label): (_, Arc<str>) = (KeyCache::default(), "foo".into());
        let mut known = KnownKeys::default();
        shared.insert(&label, &key(7), shared.version());
        assert_eq!((handle(&mut known, &shared, &label), shared.doubted("foo")), (Some(7), None));
        let version = shared.version();
        // However many sessions are lost: nobody uses it, and everybody knows what to read.
        for _ in 0..2 {
            shared.doubt();
            assert_eq!(
                (handle(&mut known, &shared, &label), shared.doubted("foo")),
                (None, Some(7))
            );
        }
        // Read before the loss, which says nothing of the time after it.
        shared.insert(&label, &key(7), version);
        assert_eq!((handle(&mut known, &shared, &label), shared.doubted("foo")), (None, Some(7)));
        shared.insert(&label, &key(7), shared.version());
        assert_eq!((handle(&mut known, &shared, &label), shared.doubted("foo")), (Some(7), None));
        type Forget = fn(&KeyCache);
        let ways: [Forget; 3] =
            [|shared| shared.forget_doubted("foo"), |shared| shared.remove("foo"), KeyCache::clear];
        for forget in ways {
            shared.insert(&label, &key(7), shared.version());
            shared.doubt();
            forget(&shared);
            assert_eq!((handle(&mut known, &shared, &label), shared.doubted("foo")), (None, None));
        }
    }

    #[test]
    fn a_key_read_again_is_no_reason_to_forget() {
        let (shared, label): (_, Arc<str>) = (KeyCache::default(), "foo".into());
        let mut known = KnownKeys::default();
        shared.insert(&label, &key(7), shared.version());
        let first = known.get(&shared, &label).expect("known").read_at;
        let version = shared.version();
        shared.insert(&label, &key(7), version);
        assert_eq!(shared.version(), version);
        assert_eq!(known.get(&shared, &label).expect("known").read_at, first, "its own");
        assert!(known.renew(&shared, &label).expect("known").read_at >= first);
        // What is not there to be removed changes nothing.
        shared.remove("bar");
        assert_eq!(shared.version(), version);
    }

    #[test]
    fn missing_keys_are_remembered_for_a_while_and_in_bounds() {
        let (shared, now) = (KeyCache::default(), Instant::now());
        for n in 0..MISSING_KEYS_REMEMBERED + 10 {
            shared.insert_missing(&n.to_string().into(), "none", now);
        }
        assert_eq!(shared.read().missing.len(), MISSING_KEYS_REMEMBERED);
        assert_eq!(shared.missing("0", now).as_deref(), Some("none"));
        assert_eq!(
            shared.missing("0", now + KEY_REFUSAL_AGE_MAX - Duration::from_nanos(1)).as_deref(),
            Some("none")
        );
        assert_eq!(shared.missing("0", now + KEY_REFUSAL_AGE_MAX), None);
        // The old ones make room.
        shared.insert_missing(&"late".into(), "none", now + KEY_REFUSAL_AGE_MAX);
        assert_eq!(shared.read().missing.len(), 1);
        // Found meanwhile.
        shared.insert(&"late".into(), &key(7), shared.version());
        assert_eq!(shared.missing("late", now + KEY_REFUSAL_AGE_MAX), None);
        shared.insert_missing(&"other".into(), "none", now);
        shared.clear();
        assert_eq!(shared.missing("other", now), None);
    }
}
