//! What a token holds, for `xksd keys`.

use std::collections::HashMap;

use cryptoki_sys::{CK_FALSE, CK_OBJECT_HANDLE, CKA_EXTRACTABLE, CKA_SENSITIVE};

use super::attributes::today;
use super::keys::{Key, KeyCache};
use super::module::OpenSession;
use super::search;
use crate::hex::hex;
use crate::key_manager::{Fault, KeyListing, TokenKeys};

/// Searches the token, and keeps in `cache` what jobs that follow then need not search for.
pub(super) fn of(session: &OpenSession, cache: &KeyCache) -> Result<TokenKeys, Fault> {
    let today = today();
    let version = cache.version();
    let keys = search::all(session)?
        .into_iter()
        .map(|handle| search::read_what_can_be(session, handle))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.fault())?;
    remember(cache, &keys, version);
    let listing = keys
        .into_iter()
        .map(|key| {
            let [sensitive, extractable] = exposure(session, key.handle);
            KeyListing {
                label: String::from_utf8_lossy(&key.attributes.label).into_owned(),
                id: hex(&key.attributes.id),
                description: key.attributes.describe(today),
                sensitive,
                extractable,
                start_date: key.attributes.start.text(),
                end_date: key.attributes.end.text(),
                unreadable: key.attributes.unreadable.map(|unreadable| unreadable.to_string()),
            }
        })
        .collect();
    Ok(TokenKeys::new(listing))
}

fn remember(cache: &KeyCache, keys: &[Key], version: u64) {
    let mut labels: HashMap<&[u8], usize> = HashMap::new();
    for key in keys {
        *labels.entry(&key.attributes.label).or_default() += 1;
    }
    for key in keys.iter().filter(|key| key.attributes.unreadable.is_none()) {
        if let Ok(label) = std::str::from_utf8(&key.attributes.label)
            && labels.get(label.as_bytes()) == Some(&1)
        {
            cache.insert(&label.into(), key, version);
        }
    }
}

/// CKA_SENSITIVE and CKA_EXTRACTABLE. Asked for here and not with what serving needs: a module that
/// does not say must not lose its keys for it.
fn exposure(session: &OpenSession, key: CK_OBJECT_HANDLE) -> [Option<bool>; 2] {
    let wanted = [(CKA_SENSITIVE, 1), (CKA_EXTRACTABLE, 1)];
    let values = session.module.functions.attributes(session.handle(), key, &wanted);
    let mut values = values.unwrap_or_default().into_iter();
    [(); 2].map(|()| {
        let value = values.next()?.ok()??;
        value.first().map(|byte| *byte != CK_FALSE)
    })
}
