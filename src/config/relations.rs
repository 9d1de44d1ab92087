//! What must or should hold between sections.

use super::key_manager::KeyManager;
use super::keystore::KeyStore;
use super::problem::quoted;
use super::reader::Section;

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
