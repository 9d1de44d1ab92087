//! What a configuration says, in words for the log: all of it at the start, and at a reload what
//! changed. Who may use which key, from when on. Secrets are compared and never shown.
//!
//! What of each key is said and what waits for a start is in the tables of the sections (`table`).

use super::table::Setting;
use super::{Config, Credential, Key, KeyManager, KeyStore, Problem};
use super::{audit, fleet, key_manager, keystore, server, tls, witness};
use crate::policy::Mode;
use crate::tls::Certificate;

/// So many trust anchors are named; a bundle of public authorities has more.
const ANCHORS_SAID_MAX: usize = 20;

/// What the files of `[tls]` hold.
#[derive(Clone, Copy, Debug)]
pub struct Certificates<'a> {
    /// The server's own, then those above it.
    pub server: &'a [Certificate],
    /// The authorities of clients; none where any client may connect.
    pub trust_anchors: &'a [Certificate],
}

impl<'a> From<&'a crate::tls::Server> for Certificates<'a> {
    fn from(tls: &'a crate::tls::Server) -> Self {
        Self { server: tls.certificates(), trust_anchors: tls.trust_anchors() }
    }
}

/// A line for each section, certificate, key manager, key store, credential and key.
pub fn at_start(config: &Config, certificates: Certificates<'_>) -> Vec<String> {
    let mut said = Vec::from_iter(certificate_change(&[], certificates.server));
    said.extend(who_may_connect(config, certificates.trust_anchors));
    said.extend(section("server", server::KEYS, &config.server));
    said.extend(section("tls", tls::KEYS, &config.tls));
    if let Some(client) = &config.tls.client {
        said.extend(section("tls.client", tls::CLIENT_KEYS, client));
    }
    said.extend(section("admin", server::ADMIN_KEYS, &config.admin));
    said.extend(section("audit", audit::KEYS, &config.audit));
    said.extend(section("witness", witness::KEYS, &config.witness));
    said.extend(section("fleet", fleet::KEYS, &config.fleet));
    said.extend(section("fleet.etcd", fleet::ETCD_KEYS, &config.fleet));
    for manager in &config.key_managers {
        let keys = key_manager::ALL_KEYS;
        let words: Vec<String> = keys.iter().flat_map(|keys| all_words(keys, manager)).collect();
        said.push(format!("key manager {:?}: {}", manager.name, words.join(", ")));
    }
    said.extend(key_stores(None, config));
    said
}

/// What is served, without what may differ from machine to machine.
pub fn served(config: &Config) -> Vec<String> {
    key_stores(None, config)
}

/// A line for each change from `old` to `new`, in the order of the configuration. Who may connect
/// is said as a whole where anything of it changed.
pub fn at_reload(
    old: (&Config, Certificates<'_>),
    new: (&Config, Certificates<'_>),
) -> Vec<String> {
    let mut said = changes("server", server::KEYS, &old.0.server, &new.0.server);
    said.extend(changes("tls", tls::KEYS, &old.0.tls, &new.0.tls));
    if let (Some(old), Some(new)) = (&old.0.tls.client, &new.0.tls.client) {
        said.extend(changes("tls.client", tls::CLIENT_KEYS, old, new));
    }
    said.extend(changes("admin", server::ADMIN_KEYS, &old.0.admin, &new.0.admin));
    said.extend(changes("audit", audit::KEYS, &old.0.audit, &new.0.audit));
    said.extend(changes("witness", witness::KEYS, &old.0.witness, &new.0.witness));
    said.extend(fleet_changes(old.0, new.0));
    said.extend(certificate_change(old.1.server, new.1.server));
    let may_connect = who_may_connect(new.0, new.1.trust_anchors);
    if old.1.trust_anchors != new.1.trust_anchors
        || may_connect != who_may_connect(old.0, old.1.trust_anchors)
    {
        said.extend(may_connect);
    }
    said.extend(of_key_managers_and_stores(old.0, new.0));
    said
}

/// How the others are reached. A file that is named as before may hold something else.
pub fn fleet_changes(old: &Config, new: &Config) -> Vec<String> {
    let mut said = changes("fleet", fleet::KEYS, &old.fleet, &new.fleet);
    said.extend(changes("fleet.etcd", fleet::ETCD_KEYS, &old.fleet, &new.fleet));
    let (Some(before), Some(now)) = (&old.fleet, &new.fleet) else { return said };
    let before = before.files();
    let differs = |path| {
        // A file that is no longer named here is that of what waits for a start.
        old.files.get(path).zip(new.files.get(path)).is_some_and(|(before, now)| before != now)
    };
    let files = now.files().into_iter().filter(|file| before.contains(file) && differs(file.1));
    said.extend(files.map(|(key, path)| format!("fleet.{key}: {} has changed", path.display())));
    said
}

/// Those lines of [`at_reload`] that tell of less protection.
pub fn weakened(old: &Config, new: &Config) -> Vec<String> {
    let mut said = weaker("audit", audit::KEYS, &old.audit, &new.audit);
    said.extend(weaker("witness", witness::KEYS, &old.witness, &new.witness));
    said
}

/// As [`at_reload`], of these.
pub fn of_key_managers_and_stores(old: &Config, new: &Config) -> Vec<String> {
    let mut said = key_managers(old, new);
    said.extend(key_stores(Some(old), new));
    said
}

/// Gives the new configuration what runs in place of what waits for a start, so that the one in
/// force tells the truth and the next reload compares with what runs, too. Gives a line for each.
pub fn keep_running(new: &mut Config, running: &Config) -> Vec<String> {
    let mut waiting = keep("server", server::KEYS, &mut new.server, &running.server);
    // Where there is none, a trail can begin.
    if running.audit.is_some() {
        waiting.extend(keep("audit", audit::KEYS, &mut new.audit, &running.audit));
    }
    waiting.extend(keep_fleet(new, running));
    for manager in &mut new.key_managers {
        let mut before = running.key_managers.iter();
        let before = before.find(|before| before.name == manager.name);
        let same_kind = |before: &&KeyManager| before.kind.name() == manager.kind.name();
        if let Some(before) = before.filter(same_kind) {
            let path = format!("key_manager {:?}", manager.name);
            waiting.extend(keep(&path, key_manager::PKCS11_KEYS, manager, before));
        }
    }
    waiting
}

/// One that is new is taken over as it is.
fn keep_fleet(new: &mut Config, running: &Config) -> Vec<String> {
    if running.fleet.is_none() {
        return Vec::new();
    }
    if fleet::is_of_one_kind(&running.fleet, &new.fleet) {
        let mut waiting = keep("fleet", fleet::KEYS, &mut new.fleet, &running.fleet);
        waiting.extend(keep("fleet.etcd", fleet::ETCD_KEYS, &mut new.fleet, &running.fleet));
        return waiting;
    }
    let mut waiting = changes("fleet", fleet::KEYS, &running.fleet, &new.fleet);
    waiting.extend(changes("fleet.etcd", fleet::ETCD_KEYS, &running.fleet, &new.fleet));
    new.fleet.clone_from(&running.fleet);
    waiting.iter().map(|change| waits(change)).collect()
}

/// Whether nothing but the versions of keys differs.
pub fn only_key_versions(running: &Config, new: &Config) -> bool {
    let mut same = new.clone();
    same.sha256.clone_from(&running.sha256);
    same.warnings.clone_from(&running.warnings);
    same.files.clone_from(&running.files);
    same.texts.clone_from(&running.texts);
    let before = running.keystores.iter().flat_map(|store| &store.keys);
    let keys = same.keystores.iter_mut().flat_map(|store| &mut store.keys);
    for (key, before) in keys.zip(before) {
        key.versions.clone_from(&before.versions);
        key.versions_are_stated = before.versions_are_stated;
    }
    same == *running && new.keystores != running.keystores
}

/// Where [`omissions`] finds that client certificates would no longer be asked for.
pub const CLIENT_AUTH: &str = "tls.client";

/// Where [`omissions`] finds that the audit trail would end.
pub const AUDIT: &str = "audit";

/// What the new configuration leaves out and must not: that would let in whom the running one keeps
/// out, or end the record of it.
pub fn omissions(running: &Config, new: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    guard("tls", tls::KEYS, &running.tls, &new.tls, &mut problems);
    if running.audit.is_some() && new.audit.is_none() {
        let why = "missing, and an audit trail is kept now. If it is to end with the next start, \
                   run: xksd reload --config FILE --accept-loss-of-audit";
        problems.push(Problem::of_key(AUDIT, why.to_owned()));
    }
    let has_etcd = |config: &Config| config.fleet.as_ref().is_some_and(|f| f.etcd().is_some());
    if has_etcd(running) && !has_etcd(new) {
        let why = "missing, and without it this instance forgets what the fleet has blocked. If \
                   it is to leave the fleet: docs/fleet.md, \"Leave the fleet\"";
        problems.push(Problem::of_key("fleet.etcd", why.to_owned()));
    }
    for (s, store) in new.keystores.iter().enumerate() {
        let same = |before: &&KeyStore| before.path_prefix == store.path_prefix;
        let Some(before) = running.keystores.iter().find(same) else { continue };
        let path = format!("keystore[{s}]");
        guard(&path, keystore::KEYS, before, store, &mut problems);
        for (k, key) in store.keys.iter().enumerate() {
            let Some(before) = before.keys.iter().find(|before| before.id == key.id) else {
                continue;
            };
            guard(&format!("{path}.key[{k}]"), keystore::KEY_KEYS, before, key, &mut problems);
        }
    }
    problems
}

/// `forbid` policies that were in force and are not there any more, where policies still are: who
/// cuts a file of them short does not mean to permit more. By name: what one says is the
/// operator's.
pub fn lost_forbids(running: &Config, new: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (s, store) in new.keystores.iter().enumerate() {
        let same = |before: &&KeyStore| before.path_prefix == store.path_prefix;
        let before = running.keystores.iter().find(same).and_then(|store| store.policy.as_ref());
        let (Some(before), Some(policy)) = (before, &store.policy) else { continue };
        if [before, policy].iter().any(|policy| policy.mode != Some(Mode::Enforce)) {
            continue;
        }
        let is_there = |id: &str| policy.compiled.0.list().iter().any(|p| p.forbids && p.id == id);
        let before = before.compiled.0.list().iter();
        let lost: Vec<String> = before
            .filter(|policy| policy.forbids && !is_there(&policy.id))
            .map(|policy| format!("{:?}", policy.id))
            .collect();
        if !lost.is_empty() {
            let why = format!(
                "forbids less: {} in force now and missing in the new files. If that is meant, \
                 run: xksd reload --accept-loss-of-forbids",
                lost.join(", ")
            );
            problems.push(Problem::of_key(format!("keystore[{s}].policy"), why));
        }
    }
    problems
}

fn guard<T>(path: &str, keys: &[Setting<T>], running: &T, new: &T, problems: &mut Vec<Problem>) {
    let missing = keys.iter().filter_map(|key| Some((key.name, key.must_stay(running, new)?)));
    problems.extend(missing.map(|(name, why)| Problem::of_key(format!("{path}.{name}"), why)));
}

/// The server's certificates where they are not the `old` ones: its own first, then those above it.
fn certificate_change(old: &[Certificate], new: &[Certificate]) -> Option<String> {
    let said = || new.iter().map(ToString::to_string).collect::<Vec<_>>().join("; above it ");
    (old != new).then(|| format!("server certificate is {}", said()))
}

fn who_may_connect(config: &Config, trust_anchors: &[Certificate]) -> Vec<String> {
    let Some(client) = &config.tls.client else {
        return vec!["any client may connect: no client certificate is asked for".to_owned()];
    };
    let names: Vec<String> =
        client.subject_common_names.iter().map(|name| format!("{name:?}")).collect();
    let mut said = vec![format!(
        "clients may connect with a certificate of the subject CN {} from one of {} authorities",
        names.join(" or "),
        trust_anchors.len()
    )];
    said.extend(trust_anchors.iter().take(ANCHORS_SAID_MAX).map(|anchor| {
        format!(
            "trust anchor of clients: {:?}, SHA-256 {}",
            anchor.subject_name.shown, anchor.fingerprint
        )
    }));
    if trust_anchors.len() > ANCHORS_SAID_MAX {
        said.push(format!(
            "and {} more trust anchors of clients",
            trust_anchors.len() - ANCHORS_SAID_MAX
        ));
    }
    said
}

/// The values of a section on one line.
fn section<T>(path: &str, keys: &[Setting<T>], section: &T) -> Option<String> {
    let words = all_words(keys, section);
    (!words.is_empty()).then(|| format!("{path}: {}", words.join(", ")))
}

fn all_words<T>(keys: &[Setting<T>], section: &T) -> Vec<String> {
    keys.iter().filter_map(|key| key.words(section)).collect()
}

/// A line for each key of a section that changed.
fn changes<T>(path: &str, keys: &[Setting<T>], old: &T, new: &T) -> Vec<String> {
    let lines = keys.iter().filter_map(|key| key.change(old, new));
    lines.map(|line| format!("{path}.{line}")).collect()
}

/// As [`changes`], those for the worse.
fn weaker<T>(path: &str, keys: &[Setting<T>], old: &T, new: &T) -> Vec<String> {
    let weaker = keys.iter().filter(|key| key.is_weaker(old, new));
    weaker.filter_map(|key| key.change(old, new)).map(|line| format!("{path}.{line}")).collect()
}

fn waits(change: &str) -> String {
    format!("{change}: in force from the next start only")
}

fn keep<T>(path: &str, keys: &[Setting<T>], new: &mut T, running: &T) -> Vec<String> {
    let mut waiting = Vec::new();
    let mut kept = Vec::new();
    for key in keys {
        let Some(keep) = key.keep else { continue };
        if let Some(change) = key.change(running, new) {
            waiting.push(waits(&format!("{path}.{change}")));
            kept.push(keep);
        }
    }
    // Not before all were compared: one may keep more than its own key.
    kept.into_iter().for_each(|keep| keep(new, running));
    waiting
}

fn key_managers(old: &Config, new: &Config) -> Vec<String> {
    let mut said = Vec::new();
    compare(
        Some(&old.key_managers),
        &new.key_managers,
        |manager| &manager.name,
        |manager, change| {
            let name = format!("key manager {:?}", manager.name);
            let words = |keys: &&[Setting<KeyManager>]| all_words(keys, manager);
            match change {
                Change::Removed => said.push(format!("{name} removed")),
                Change::New(how) => {
                    let words = key_manager::ALL_KEYS.iter().flat_map(words).collect::<Vec<_>>();
                    said.push(format!("{name}{how}: {}", words.join(", ")));
                }
                Change::Stayed(before) => {
                    let keys = key_manager::ALL_KEYS.into_iter().flatten();
                    let changes = keys.filter_map(|key| key.change(before, manager));
                    said.extend(changes.map(|change| format!("{name}: {change}")));
                }
            }
        },
    );
    said
}

fn key_stores(old: Option<&Config>, new: &Config) -> Vec<String> {
    let mut said = Vec::new();
    let before = old.map(|old| &old.keystores[..]);
    compare(
        before,
        &new.keystores,
        |store| &store.path_prefix,
        |store, change| {
            let name = format!("key store {:?}", store.path_prefix);
            let before = match change {
                Change::Removed => return said.push(format!("{name} removed")),
                Change::New(how) => {
                    let managers = format!("key_manager is {:?}", managers(new, store));
                    let words = [vec![managers], all_words(keystore::KEYS, store)].concat();
                    said.push(format!("{name}{how}: {}", words.join(", ")));
                    None
                }
                Change::Stayed(before) => Some(before),
            };
            if let (Some(before), Some(old)) = (before, old) {
                let (was, is) = (managers(old, before), managers(new, store));
                if was != is {
                    said.push(format!("{name}: key_manager is {is:?}, was {was:?}"));
                }
                let changed = keystore::KEYS.iter().filter_map(|key| key.change(before, store));
                said.extend(changed.map(|line| format!("{name}: {line}")));
            }
            let inside = elements(before, store, old.is_none());
            said.extend(inside.into_iter().map(|line| format!("{name}: {line}")));
        },
    );
    said
}

/// Names of a key store's key managers.
pub fn managers<'a>(config: &'a Config, store: &KeyStore) -> Vec<&'a str> {
    store
        .key_managers
        .iter()
        .filter_map(|index| config.key_managers.get(*index))
        .map(|manager| manager.name.as_str())
        .collect()
}

/// Credentials and keys of a key store; `old` is `None` for one that was not there.
fn elements(old: Option<&KeyStore>, new: &KeyStore, at_start: bool) -> Vec<String> {
    let mut said = Vec::new();
    let none = !at_start;
    compare(
        old.map(|old| &old.credentials[..]).or(none.then_some(&[])),
        &new.credentials,
        |credential: &Credential| &credential.access_key_id,
        |credential, change| {
            let name = format!("credential {}", credential.access_key_id);
            said.extend(element(&name, keystore::CREDENTIAL_KEYS, credential, change));
        },
    );
    compare(
        old.map(|old| &old.keys[..]).or(none.then_some(&[])),
        &new.keys,
        |key: &Key| &key.id,
        |key, change| {
            let name = format!("key {:?}", key.id);
            said.extend(element(&name, keystore::KEY_KEYS, key, change));
        },
    );
    said
}

fn element<T>(name: &str, keys: &[Setting<T>], element: &T, change: Change<'_, T>) -> Vec<String> {
    match change {
        Change::Removed => vec![format!("{name} removed")],
        Change::New(how) => {
            let words = all_words(keys, element);
            let colon = if words.is_empty() { "" } else { ": " };
            vec![format!("{name}{how}{colon}{}", words.join(", "))]
        }
        Change::Stayed(before) => {
            let changes = keys.iter().filter_map(|key| key.change(before, element));
            changes.map(|line| format!("{name}: {line}")).collect()
        }
    }
}

enum Change<'a, T> {
    /// ` added`, or nothing at the start.
    New(&'static str),
    Removed,
    /// As it was before.
    Stayed(&'a T),
}

/// Calls `say` for each element of `new` and for those of `old` that are gone, by what names them.
/// Without `old` it is the start.
fn compare<T>(
    old: Option<&[T]>,
    new: &[T],
    name: impl Fn(&T) -> &String,
    mut say: impl FnMut(&T, Change<'_, T>),
) {
    let how = if old.is_some() { " added" } else { "" };
    let old = old.unwrap_or(&[]);
    for element in new {
        let before = old.iter().find(|before| name(before) == name(element));
        say(element, before.map_or(Change::New(how), Change::Stayed));
    }
    for gone in old.iter().filter(|before| !new.iter().any(|element| name(element) == name(before)))
    {
        say(gone, Change::Removed);
    }
}
