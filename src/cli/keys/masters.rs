//! The masters of wrapped key managers, in the HSMs that open their key files.

use std::collections::BTreeSet;

use super::{Holder, print};
use crate::api::response::key_spec;
use crate::cli::Failure;
use crate::config::{Config, KeyManager, Wrapped};
use crate::key_manager::wrapped::{Folder, edit};
use crate::key_manager::{Answer, KeySpec, KeyUsage, TokenKeys};

/// Prints how the masters of each wrapped key manager that an HSM opens are in this HSM.
pub(super) fn tell(config: &Config, hsm: &str, keys: &TokenKeys) -> Result<(), Failure> {
    for (name, wrapped) in wrapped_by(config, hsm) {
        for master in masters(wrapped) {
            let verdict = match keys.of_label(&master) {
                [] => "not here".to_owned(),
                _ => match why_it_cannot_open(keys, &master) {
                    Some(why) => format!("CANNOT OPEN KEY FILES: {why}"),
                    None => opens_but(keys, &master),
                },
            };
            print(&format!("  -> master {master:?} of key manager {name}: {verdict}\n"))?;
        }
    }
    Ok(())
}

/// The wrapped key managers whose configured master no HSM has.
pub(super) fn missing(config: &Config, holders: &[Holder]) -> Vec<String> {
    let wrapped = config.key_managers.iter().filter_map(|m| Some((&m.name, m.wrapped()?)));
    let is_missing = |wrapped: &Wrapped| {
        wrapped.unseal_with.iter().all(|hsm| {
            let keys = holders.iter().find(|holder| holder.name == *hsm);
            // Of one that could not be opened nothing is known.
            let keys = keys.and_then(|holder| holder.listed.as_ref());
            keys.is_some_and(|keys| why_it_cannot_open(keys, &wrapped.master).is_some())
        })
    };
    let line = |(name, wrapped): (&String, &Wrapped)| {
        let master = &wrapped.master;
        format!("key manager {name}: no HSM has a master {master:?} that opens key files")
    };
    wrapped.filter(|(_, wrapped)| is_missing(wrapped)).map(line).collect()
}

fn wrapped_by<'a>(
    config: &'a Config,
    hsm: &'a str,
) -> impl Iterator<Item = (&'a str, &'a Wrapped)> {
    let named = |manager: &'a KeyManager| Some((manager.name.as_str(), manager.wrapped()?));
    let is_opened =
        move |(_, wrapped): &(&str, &Wrapped)| wrapped.unseal_with.iter().any(|n| n == hsm);
    config.key_managers.iter().filter_map(named).filter(is_opened)
}

/// That of the configuration, and those that key files name.
fn masters(wrapped: &Wrapped) -> BTreeSet<String> {
    let folder = Folder::new(&wrapped.folder);
    // What cannot be read is told beside the keys.
    let labels = folder.scan().unwrap_or_default().into_keys();
    let files = labels.filter_map(|label| folder.read(&label).ok()?);
    let mut masters: BTreeSet<String> = files.flat_map(|file| edit::masters(&file)).collect();
    masters.insert(wrapped.master.clone());
    masters
}

fn why_it_cannot_open(keys: &TokenKeys, master: &str) -> Option<String> {
    match keys.describe(master) {
        Ok(Answer::Described(key)) if key.spec != KeySpec::AES_256 => {
            Some(format!("it is {} and not {}", key_spec(key.spec), key_spec(KeySpec::AES_256)))
        }
        Ok(Answer::Described(key)) if !key.usage.contains(KeyUsage::Decrypt) => {
            Some("it does not allow decryption (CKA_DECRYPT)".to_owned())
        }
        Ok(Answer::Described(key)) if !key.enabled => {
            Some("today is outside its start and end date".to_owned())
        }
        Ok(_) => None,
        Err(fault) => Some(fault.to_string()),
    }
}

/// Of one that can.
fn opens_but(keys: &TokenKeys, master: &str) -> String {
    let mut but = Vec::new();
    for key in keys.of_label(master) {
        if !key.description.usage.contains(KeyUsage::Encrypt) {
            but.push("it cannot wrap new keys (not CKA_ENCRYPT)".to_owned());
        }
        but.extend(key.exposures());
        let others = key.description.usage.beyond_encryption();
        let others: Vec<_> =
            others.into_iter().filter(|name| !["CKA_WRAP", "CKA_UNWRAP"].contains(name)).collect();
        if !others.is_empty() {
            but.push(format!("it can be used for other things ({})", others.join(", ")));
        }
    }
    match &but[..] {
        [] => "opens key files".to_owned(),
        but => format!("opens key files, but {}", but.join("; ")),
    }
}
