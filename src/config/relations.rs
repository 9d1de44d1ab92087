//! What must or should hold between sections.

use std::net::SocketAddr;

use super::key_manager::KeyManager;
use super::keystore::KeyStore;
use super::problem::quoted;
use super::reader::Section;
use super::server::collision;

/// Refuses listeners on the port of one before them.
pub(super) fn refuse_collisions(root: &Section<'_>, listeners: &[(&str, Option<SocketAddr>)]) {
    for (at, (name, listen)) in listeners.iter().enumerate() {
        let Some(listen) = listen else { continue };
        let before = listeners[..at].iter().filter_map(|(name, other)| Some((name, (*other)?)));
        for (other, address) in before.filter(|(_, address)| collision(*address, *listen)) {
            if let Some(section) = root.optional(name) {
                let message = format!("listens on the port of {other}.listen, {address}");
                section.refuse::<()>(message);
            }
        }
    }
}

/// Warns of key managers that no key store uses.
pub(super) fn warn_of_unused(root: &Section<'_>, managers: &[KeyManager], stores: &[KeyStore]) {
    for (i, manager) in managers.iter().enumerate() {
        let opens = |other: &KeyManager| {
            other.wrapped().is_some_and(|wrapped| wrapped.unseal_with.contains(&manager.name))
        };
        if !stores.iter().any(|store| store.key_managers.contains(&i))
            && !managers.iter().any(opens)
        {
            root.warn_at(
                &format!("key_manager[{i}]"),
                &format!("no key store uses {:?}", manager.name),
            );
        }
    }
}

/// Warns of configured keys that are not in the file of a local key manager of their key store. No
/// problem: the server starts, and serves the others.
pub(super) fn warn_of_missing_keys(
    root: &Section<'_>,
    managers: &[KeyManager],
    stores: &[KeyStore],
) {
    for (i, manager) in managers.iter().enumerate() {
        let Some(key_file) = manager.kind.key_file() else { continue };
        let Ok(Some(labels)) = root.reader.sources.key_file_labels(key_file) else { continue };
        let users = stores.iter().enumerate().filter(|(_, store)| store.key_managers.contains(&i));
        for (s, store) in users {
            let used = store.keys.iter().enumerate();
            let used = used.flat_map(|(k, key)| key.usable().map(move |version| (k, version)));
            for (k, version) in used.filter(|(_, version)| !labels.contains(&version.label)) {
                let message = format!(
                    "there is no key with the label {} in {}, the key file of {:?}",
                    quoted(&version.label),
                    key_file.display(),
                    manager.name
                );
                root.warn_at(&format!("keystore[{s}].key[{k}]"), &message);
            }
        }
    }
}

/// A wrapped key manager is opened by HSMs.
pub(super) fn refuse_wrong_unsealers(root: &Section<'_>, managers: &[KeyManager]) {
    for (at, manager) in managers.iter().enumerate() {
        let names = manager.wrapped().map_or(&[][..], |wrapped| &wrapped.unseal_with);
        for name in names {
            let known = managers.iter().find(|other| other.name == *name);
            let problem = match known {
                Some(known) if known.pkcs11().is_some() => continue,
                Some(_) => {
                    format!("{} is not of kind \"pkcs11\": no HSM is behind it", quoted(name))
                }
                None => format!("there is no key manager {}", quoted(name)),
            };
            root.problem_at(&format!("key_manager[{at}].unseal_with"), &problem);
        }
    }
}

/// What must hold of key stores whose key manager keeps the versions itself.
pub(super) fn refuse_mixed(root: &Section<'_>, managers: &[KeyManager], stores: &[KeyStore]) {
    for (s, store) in stores.iter().enumerate() {
        let of_store = store.key_managers.iter().filter_map(|&index| managers.get(index));
        let Some(keeper) = of_store.clone().find(|manager| manager.wrapped().is_some()) else {
            continue;
        };
        if of_store.count() > 1 {
            let message = format!(
                "{} is of kind \"wrapped\": it is the only one of its key store. Its keys are in \
                 no other; several HSMs stand in its unseal_with",
                quoted(&keeper.name)
            );
            root.problem_at(&format!("keystore[{s}].key_manager"), &message);
        }
        for (k, key) in store.keys.iter().enumerate().filter(|(_, key)| key.versions_are_stated) {
            let message = format!(
                "the versions of {} stand in its key file: {} is of kind \"wrapped\"",
                quoted(&key.id),
                quoted(&keeper.name)
            );
            root.problem_at(&format!("keystore[{s}].key[{k}].version"), &message);
        }
    }
}
