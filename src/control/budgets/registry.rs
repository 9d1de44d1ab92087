//! All keys whose encryptions are counted, those that no configuration names any more among them.

use std::collections::HashMap;
use std::time::Instant;

use super::configured::Configured;
use super::file::{KeyName, SavedKey};
use super::key::CountedKey;

/// The keys, by name: no two of one name have a key manager in common.
#[derive(Default)]
pub(super) struct Registry(HashMap<KeyName, Vec<CountedKey>>);

impl Registry {
    /// As they were saved.
    pub(super) fn load(saved: Vec<SavedKey>) -> Registry {
        let mut registry = Registry::default();
        for key in saved.into_iter().map(CountedKey::saved) {
            registry.0.entry(key.name.clone()).or_default().push(key);
        }
        registry
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &CountedKey> {
        self.0.values().flatten()
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut CountedKey> {
        self.0.values_mut().flatten()
    }

    /// The key of this name in this key manager.
    pub(super) fn find(&self, key_manager: &str, name: &KeyName) -> Option<&CountedKey> {
        self.0.get(name)?.iter().find(|key| key.key_managers.contains(key_manager))
    }

    /// Takes over what a configuration says. `is_configured`: whether there is a key manager of
    /// this name.
    ///
    /// What was one key stays one, and what turns out to be one is: the material does not change
    /// because a replica was taken out. A key that is new may be one of a key manager that is gone,
    /// which has another name now. So too many may be counted where a name or label is used again
    /// for another key, and never too few.
    pub(super) fn expect(
        &mut self,
        keys: Vec<Configured>,
        is_configured: impl Fn(&str) -> bool,
        now: i64,
    ) {
        for key in self.all_mut() {
            key.is_configured = false;
            key.encrypts = Default::default();
        }
        // By name, what keys of key managers that are gone had encrypted.
        let mut taken_over: HashMap<KeyName, u64> = HashMap::new();
        for Configured { key_managers, name, encrypts } in keys {
            let known = self.0.entry(name.clone()).or_default();
            let is_this = |other: &CountedKey| !other.key_managers.is_disjoint(&key_managers);
            let mut found = take(known, is_this);
            if found.is_none() {
                found = take(known, |key| !key.key_managers.iter().any(|name| is_configured(name)));
                if let Some(gone) = &found {
                    taken_over.insert(name.clone(), gone.budget.taken());
                }
            }
            let key = found.get_or_insert_with(|| {
                let new = CountedKey::new(key_managers.clone(), name.clone(), now);
                new.budget.add(taken_over.get(&name).copied().unwrap_or(0));
                new
            });
            key.key_managers.extend(key_managers);
            key.is_configured = true;
            key.encrypts.merge(encrypts);
            known.extend(found);
        }
    }

    /// What the file is to say so that each key has a block.
    pub(super) fn next(&mut self, now: Instant) -> Vec<SavedKey> {
        let save = |key: &mut CountedKey| {
            let reserved = key.next_reserved(now);
            key.to_save(reserved)
        };
        sorted(self.all_mut().map(save).collect())
    }

    /// The file says so now.
    pub(super) fn saved(&mut self, keys: &[SavedKey], now: Instant) {
        for saved in keys {
            let Some(known) = self.0.get_mut(&saved.name()) else { continue };
            // Meanwhile it may have turned out to be the same as others.
            let is_it = |key: &&mut CountedKey| {
                saved.key_managers.iter().any(|name| key.key_managers.contains(name))
            };
            if let Some(key) = known.iter_mut().find(is_it) {
                key.set_reserved(saved.encryptions, now);
            }
        }
    }

    /// How often each has encrypted, once none does any more.
    pub(super) fn settled(&mut self) -> Vec<SavedKey> {
        let save = |key: &mut CountedKey| {
            key.settle_absorbed();
            key.to_save(key.budget.taken())
        };
        sorted(self.all_mut().map(save).collect())
    }
}

/// Takes out those that are one key, as one.
fn take(known: &mut Vec<CountedKey>, is_it: impl FnMut(&CountedKey) -> bool) -> Option<CountedKey> {
    let (same, others): (Vec<_>, Vec<_>) = std::mem::take(known).into_iter().partition(is_it);
    *known = others;
    same.into_iter().reduce(|mut one, other| {
        one.absorb(other);
        one
    })
}

fn sorted(mut keys: Vec<SavedKey>) -> Vec<SavedKey> {
    keys.sort_by(|a, b| (a.name(), &a.key_managers).cmp(&(b.name(), &b.key_managers)));
    keys
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn foo() -> KeyName {
        KeyName { label: "foo".into(), version: None }
    }

    fn configured(managers: &[u8]) -> Configured {
        let key_managers = managers.iter().map(u8::to_string).collect();
        Configured { key_managers, name: foo(), ..Configured::default() }
    }

    fn expect(registry: &mut Registry, groups: &[&[u8]]) {
        let keys = groups.iter().map(|managers| configured(managers)).collect();
        let there: BTreeSet<String> =
            groups.iter().flat_map(|group| group.iter().map(u8::to_string)).collect();
        registry.expect(keys, |name| there.contains(name), 0);
    }

    fn taken(registry: &Registry, manager: &str) -> Option<u64> {
        registry.find(manager, &foo()).map(|key| key.budget.taken())
    }

    #[test]
    fn a_key_is_known_again_whatever_becomes_of_its_key_managers() {
        let mut registry = Registry::default();
        expect(&mut registry, &[&[1, 2], &[3]]);
        registry.find("1", &foo()).unwrap().budget.add(10);
        registry.find("3", &foo()).unwrap().budget.add(100);
        expect(&mut registry, &[&[2], &[1], &[3]]);
        assert_eq!(registry.all().count(), 2, "the material of 1 and 2 is still the same");
        assert_eq!((taken(&registry, "2"), taken(&registry, "3")), (Some(10), Some(100)));
        expect(&mut registry, &[&[4], &[3]]);
        assert_eq!(taken(&registry, "4"), Some(10), "1 and 2 are gone: 4 may be one of them");
        let mut renamed = Registry::load(registry.settled());
        expect(&mut renamed, &[&[5], &[6]]);
        let both = (taken(&renamed, "5"), taken(&renamed, "6"));
        assert_eq!(both, (Some(110), Some(110)), "either may be either");
        expect(&mut registry, &[&[4, 3]]);
        assert_eq!((registry.all().count(), taken(&registry, "3")), (1, Some(110)));
        expect(&mut registry, &[]);
        assert_eq!(taken(&registry, "3"), Some(110), "it may come back");
        assert!(registry.all().all(|key| !key.needs_block()));
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let mut registry = Registry::default();
        expect(&mut registry, &[&[1, 2], &[3]]);
        registry.find("1", &foo()).unwrap().budget.add(10);
        let next = registry.next(Instant::now());
        assert!(next[0].encryptions > 10 && next[1].encryptions > 0);
        assert_eq!(registry.find("1", &foo()).unwrap().budget.reserved(), 0, "not on disk yet");
        registry.saved(&next, Instant::now());
        assert!(registry.all().all(|key| !key.needs_block()));
        let crashed = Registry::load(next.clone());
        assert_eq!(taken(&crashed, "2"), Some(next[0].encryptions));
        let ended = Registry::load(registry.settled());
        assert_eq!((taken(&ended, "2"), taken(&ended, "3")), (Some(10), Some(0)));
    }

    proptest! {
        /// However key managers are grouped, regrouped, crash and come back: a key's count is never
        /// below what was encrypted with it through any of them.
        #[test]
        fn no_encryption_is_forgotten(
            steps in prop::collection::vec(
                (prop::collection::vec(0u8..4, 6), prop::collection::vec((0u8..6, 1u64..50), 0..6),
                 any::<bool>()),
                1..12,
            ),
        ) {
            let mut registry = Registry::default();
            // What was encrypted through each key manager, and which of them ever were one key.
            let mut made = [0u64; 6];
            let mut same: Vec<BTreeSet<u8>> = (0..6).map(|n| BTreeSet::from([n])).collect();
            for (groups, encryptions, crash) in steps {
                let group = |g| Vec::from_iter((0..6).filter(|&m| groups[m as usize] == g));
                let groups = Vec::from_iter((0..4u8).map(group).filter(|group| !group.is_empty()));
                for group in &groups {
                    let (whole, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut same)
                        .into_iter()
                        .partition(|one| group.iter().any(|manager| one.contains(manager)));
                    same = rest;
                    same.push(whole.into_iter().flatten().collect());
                }
                expect(&mut registry, &Vec::from_iter(groups.iter().map(Vec::as_slice)));
                let next = registry.next(Instant::now());
                registry.saved(&next, Instant::now());
                for (manager, count) in encryptions {
                    registry.find(&manager.to_string(), &foo()).unwrap().budget.add(count);
                    made[manager as usize] += count;
                }
                if crash {
                    registry = Registry::load(next);
                }
                for one in &same {
                    let sum: u64 = one.iter().map(|&manager| made[manager as usize]).sum();
                    let manager = one.first().unwrap().to_string();
                    prop_assert!(taken(&registry, &manager).unwrap() >= sum);
                }
            }
        }
    }
}
