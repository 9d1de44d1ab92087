//! Which keys a configuration names, and how often each may encrypt at the most by its quotas.
//!
//! A key is a label in a key manager. Replicas of a key store hold the same key, and so do two key
//! managers over one token: what is counted is counted for all of them together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::file::KeyName;
use crate::config::{self, Config, Key, KeyStore, Kind};
use crate::key_manager::{Cipher, VersionState};
use crate::keystore::KeyManager;
use crate::policy::quota::Rate;

/// A request is tried so often at the most, each time with an encryption.
const TRIES_A_REQUEST_MAX: u64 = 2;

/// A key that a configuration names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Configured {
    /// Names of the key managers that hold it.
    pub(super) key_managers: BTreeSet<String>,
    pub(super) name: KeyName,
    pub(super) encrypts: Encrypts,
}

/// Where a key encrypts: as primary version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Encrypts {
    /// The keys as KMS knows them, for the operator.
    pub(super) keys: Vec<String>,
    /// Since when; `None` where that is not given for all.
    pub(super) promoted: Option<i64>,
    /// How fast; `None` where some have no quota.
    rate: Option<Rate>,
}

impl Encrypts {
    #[cfg(test)]
    pub(super) fn of(key: &str, promoted: Option<i64>, rate: Option<Rate>) -> Encrypts {
        Encrypts { keys: vec![key.to_owned()], promoted, rate }
    }

    /// How often it can have encrypted from when it was promoted to `until` (Unix seconds), if its
    /// quotas were never higher; `None` where that is not bounded.
    pub(super) fn bound(&self, until: i64) -> Option<u64> {
        let (Rate { requests_per_second, burst }, promoted) = (self.rate?, self.promoted?);
        let seconds = u64::try_from(until.saturating_sub(promoted)).unwrap_or(0);
        let requests = requests_per_second.saturating_mul(seconds).saturating_add(burst);
        Some(requests.saturating_mul(TRIES_A_REQUEST_MAX))
    }

    pub(super) fn merge(&mut self, other: Encrypts) {
        if other.keys.is_empty() {
            return;
        }
        if self.keys.is_empty() {
            *self = other;
            return;
        }
        self.keys.extend(other.keys);
        self.promoted = self.promoted.zip(other.promoted).map(|(one, other)| one.min(other));
        self.rate = self.rate.zip(other.rate).map(|(one, other)| sum(one, other));
    }
}

fn sum(one: Rate, other: Rate) -> Rate {
    Rate {
        requests_per_second: one.requests_per_second.saturating_add(other.requests_per_second),
        burst: one.burst.saturating_add(other.burst),
    }
}

fn smaller(one: Rate, other: Rate) -> Rate {
    Rate {
        requests_per_second: one.requests_per_second.min(other.requests_per_second),
        burst: one.burst.min(other.burst),
    }
}

/// The keys of all key stores. `managers`: those that run, which may keep versions themselves.
pub(super) fn keys(config: &Config, managers: &[Arc<KeyManager>]) -> Vec<Configured> {
    // By name: the tokens of each key, of which no two have one in common.
    let mut all: HashMap<KeyName, Vec<(BTreeSet<usize>, Encrypts)>> = HashMap::new();
    let token = tokens(&config.key_managers);
    for store in &config.keystores {
        let tokens: BTreeSet<usize> = store.key_managers.iter().map(|&at| token[at]).collect();
        for (name, mut encrypts) in names(store, managers) {
            let known = all.entry(name).or_default();
            let mut tokens = tokens.clone();
            known.retain_mut(|(others, other)| {
                let same = !others.is_disjoint(&tokens);
                if same {
                    tokens.append(others);
                    encrypts.merge(std::mem::take(other));
                }
                !same
            });
            known.push((tokens, encrypts));
        }
    }
    let named = |tokens: BTreeSet<usize>| -> BTreeSet<String> {
        let managers = config.key_managers.iter().zip(&token);
        let hold = managers.filter(|(_, at)| tokens.contains(at));
        hold.map(|(manager, _)| manager.name.clone()).collect()
    };
    let keys = all
        .into_iter()
        .flat_map(|(name, keys)| keys.into_iter().map(move |key| (name.clone(), key)));
    keys.map(|(name, (tokens, encrypts))| Configured {
        key_managers: named(tokens),
        name,
        encrypts,
    })
    .collect()
}

/// For each key manager the index of the first one over the same token or file.
fn tokens(managers: &[config::KeyManager]) -> Vec<usize> {
    let same = |one: &config::KeyManager, other: &config::KeyManager| match (&one.kind, &other.kind)
    {
        (Kind::Pkcs11(one), Kind::Pkcs11(other)) => {
            one.module == other.module && one.token == other.token
        }
        (Kind::Local { key_file: one }, Kind::Local { key_file: other }) => one == other,
        (Kind::Wrapped(one), Kind::Wrapped(other)) => one.folder == other.folder,
        _ => false,
    };
    let first = |at: usize| (0..at).find(|&before| same(&managers[before], &managers[at]));
    (0..managers.len()).map(|at| first(at).unwrap_or(at)).collect()
}

/// The names of a key store's keys, and where in it each encrypts.
fn names(store: &KeyStore, managers: &[Arc<KeyManager>]) -> BTreeMap<KeyName, Encrypts> {
    let of_store = || store.key_managers.iter().filter_map(|&at| managers.get(at));
    let keeper = of_store().find(|manager| manager.keeps_versions());
    let mut names: BTreeMap<KeyName, Encrypts> = BTreeMap::new();
    for key in &store.keys {
        for (name, state, promoted) in versions(key, keeper) {
            let encrypts = names.entry(name).or_default();
            if state == VersionState::Primary {
                encrypts.merge(Encrypts {
                    keys: vec![format!("key {:?} of key store {:?}", key.id, store.path_prefix)],
                    promoted,
                    rate: rate(store, key),
                });
            }
        }
    }
    // The keys' quotas together allow no more than that of their key store.
    if let Some(of_store) = store.quota.and_then(|quota| quota.rate) {
        for encrypts in names.values_mut() {
            encrypts.rate = encrypts.rate.map(|rate| smaller(rate, of_store));
        }
    }
    names
}

/// The versions of a key that encrypt with the key itself; one that has a key for each message has
/// no budget to use up.
fn versions(
    key: &Key,
    keeper: Option<&Arc<KeyManager>>,
) -> Vec<(KeyName, VersionState, Option<i64>)> {
    if let Some(keeper) = keeper {
        let label: Arc<str> = key.label().into();
        let kept = keeper.versions(&label).unwrap_or_default().into_iter();
        return kept
            .filter(|kept| kept.cipher == Cipher::Direct && kept.state != VersionState::Destroyed)
            .map(|kept| {
                let name = KeyName { label: label.clone(), version: Some(kept.number) };
                (name, kept.state, kept.promoted)
            })
            .collect();
    }
    let configured = key.versions.iter().filter(|version| !version.label.is_empty());
    configured
        .map(|version| {
            let name = KeyName { label: version.label.as_str().into(), version: None };
            (name, version.state, version.promoted)
        })
        .collect()
}

fn rate(store: &KeyStore, key: &Key) -> Option<Rate> {
    let of = |bounds: Option<crate::policy::quota::Bounds>| bounds.and_then(|bounds| bounds.rate);
    match (of(key.quota), of(store.quota)) {
        (Some(key), Some(store)) => Some(smaller(key, store)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{SMALL, read};
    use crate::key_manager::{Fault, InProcess, Job, ManagedVersion, ManagerInfo, Outcome};

    const KEYS: &str = "[[keystore.key]]\nid = \"foo\"\n";

    /// Key managers `a` to `d`, and key stores over them.
    fn configuration(stores: &[(&str, &str)]) -> Config {
        let (head, _) = SMALL.split_once("[[keystore]]").expect("a key store");
        let manager = |name| {
            format!(
                "[[key_manager]]\nname = \"{name}\"\nkind = \"local\"\nkey_file = \"{name}.json\"\n"
            )
        };
        let managers: String = ["a", "b", "c", "d"].map(manager).concat();
        let credential = "[[keystore.credential]]\naccess_key_id = \"AAAAAAAAAAAAAAAAAAAA\"\n\
            secret_access_key = { file = \"secrets/key\" }\n";
        let store = |(n, (managers, rest)): (usize, &(&str, &str))| {
            let (quota, keys) = rest.split_once('|').unwrap_or(("", rest));
            format!(
                "[[keystore]]\npath_prefix = \"/{n}\"\nkey_manager = [{managers}]\n{quota}\n\
                 {credential}{keys}\n"
            )
        };
        let stores: String = stores.iter().enumerate().map(store).collect();
        read(&format!("{head}{managers}{stores}")).expect("valid")
    }

    fn managers(keys: &[Configured]) -> Vec<String> {
        let joined = |key: &Configured| Vec::from_iter(key.key_managers.clone()).join("+");
        let mut all: Vec<_> = keys.iter().map(joined).collect();
        all.sort();
        all
    }

    #[test]
    fn replicas_and_key_stores_with_one_label_are_one_key() {
        let of = |stores: &[&str]| {
            let stores: Vec<_> = stores.iter().map(|managers| (*managers, KEYS)).collect();
            managers(&keys(&configuration(&stores), &[]))
        };
        assert_eq!(of(&["\"a\"", "\"b\""]), ["a", "b"]);
        assert_eq!(of(&["\"a\"", "\"a\""]), ["a"]);
        assert_eq!(of(&["\"a\", \"b\"", "\"c\""]), ["a+b", "c"]);
        assert_eq!(of(&["\"a\", \"b\"", "\"c\", \"d\"", "\"b\", \"c\""]), ["a+b+c+d"]);
    }

    #[test]
    fn two_key_managers_over_one_token_are_one_key() {
        let mut config = configuration(&[("\"a\"", KEYS), ("\"b\"", KEYS)]);
        let at = |config: &Config, name: &str| {
            config.key_managers.iter().position(|manager| manager.name == name).expect("there")
        };
        let (a, b) = (at(&config, "a"), at(&config, "b"));
        config.key_managers[b].kind = config.key_managers[a].kind.clone();
        assert_eq!(managers(&keys(&config, &[])), ["a+b"]);
    }

    fn bound(stores: &[(&str, &str)], until: i64) -> Option<u64> {
        let all = keys(&configuration(stores), &[]);
        all.iter().find(|key| &*key.name.label == "new").expect("there").encrypts.bound(until)
    }

    #[test]
    fn quotas_bound_how_often_a_key_has_encrypted() {
        let version = |promoted: &str, quota: &str| {
            format!(
                "[[keystore.key]]\nid = \"foo\"\n{quota}\n[[keystore.key.version]]\nnumber = 0\n\
                 label = \"new\"\nstate = \"primary\"\n{promoted}\n[[keystore.key.version]]\n\
                 number = 1\nlabel = \"next\"\nstate = \"staged\"\n"
            )
        };
        let promoted = "promoted = 1970-01-01T01:00:00+01:00";
        let quota = "quota = { requests_per_second = 10, burst = 5 }";
        let one = version(promoted, quota);
        assert_eq!(bound(&[("\"a\"", &one)], 100), Some(2 * (10 * 100 + 5)));
        assert_eq!(bound(&[("\"a\"", &one)], -100), Some(2 * 5));
        assert_eq!(bound(&[("\"a\"", &version("", quota))], 100), None);
        assert_eq!(bound(&[("\"a\"", &version(promoted, ""))], 100), None);
        // Another key store with the same key: both count, and one without a quota bounds nothing.
        let both = [("\"a\"", &*one), ("\"a\", \"b\"", &*one)];
        assert_eq!(bound(&both, 100), Some(4 * (10 * 100 + 5)));
        let open = version(promoted, "");
        assert_eq!(bound(&[("\"a\"", &one), ("\"a\"", &open)], 100), None);
        // The key store's holds for all its keys together.
        let of_store = format!("quota = {{ requests_per_second = 3, burst = 1 }}|{one}");
        assert_eq!(bound(&[("\"a\"", &of_store)], 100), Some(2 * (3 * 100 + 1)));
    }

    /// Keeps versions: 3 and 4 encrypt with the key itself, 5 with a key for each message.
    struct Keeper;

    impl InProcess for Keeper {
        fn execute(&self, _job: Job) -> Outcome {
            Err(Fault::Busy)
        }

        fn info(&self) -> ManagerInfo {
            ManagerInfo::default()
        }

        fn labels(&self) -> Vec<String> {
            Vec::new()
        }

        fn keeps_versions(&self) -> bool {
            true
        }

        fn versions(&self, label: &str) -> Option<Vec<ManagedVersion>> {
            use {Cipher::*, VersionState::*};
            let promoted = Some(7);
            let kept = |(number, state, cipher)| ManagedVersion { number, state, cipher, promoted };
            let all = [(2, Destroyed, Direct), (3, DecryptOnly, Direct), (4, Primary, Direct)];
            let derived = kept((5, Staged, Derived));
            (label == "foo").then(|| all.map(kept).into_iter().chain([derived]).collect())
        }
    }

    #[test]
    fn versions_that_a_key_manager_keeps_are_keys_of_their_own() {
        let unknown = "[[keystore.key]]\nid = \"sealed\"\n";
        let config = configuration(&[("\"a\"", &format!("{KEYS}{unknown}"))]);
        let at = config.keystores[0].key_managers[0];
        let keeper = |_| Arc::new(KeyManager::in_process("a", Arc::new(Keeper)));
        let mut all = keys(&config, &Vec::from_iter((0..=at).map(keeper)));
        all.sort_by_key(|key| key.name.clone());
        let found: Vec<_> =
            all.iter().map(|key| (key.name.to_string(), key.encrypts.promoted)).collect();
        let expected = [("\"foo\" version 3", None), ("\"foo\" version 4", Some(7))];
        assert_eq!(found, expected.map(|(name, promoted)| (name.to_owned(), promoted)));
    }

    #[test]
    fn what_does_not_encrypt_is_known_too() {
        let versions = "[[keystore.key]]\nid = \"foo\"\n[[keystore.key.version]]\nnumber = 0\n\
            state = \"destroyed\"\n[[keystore.key.version]]\nnumber = 1\nlabel = \"old\"\n\
            state = \"decrypt_only\"\n[[keystore.key.version]]\nnumber = 2\nlabel = \"new\"\n\
            state = \"primary\"\n";
        let mut all = keys(&configuration(&[("\"a\"", versions)]), &[]);
        all.sort_by_key(|key| key.name.clone());
        let found: Vec<_> =
            all.iter().map(|key| (&*key.name.label, key.encrypts.keys.len())).collect();
        assert_eq!(found, [("new", 1), ("old", 0)]);
    }
}
