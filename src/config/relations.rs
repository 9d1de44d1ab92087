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
        if !stores.iter().any(|store| store.key_managers.contains(&i)) {
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
