//! What the log says of keys that their key manager refuses, or that fail where others work:
//! requests find them out, and xksd tries them again also where no request comes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::control::expected::ExpectedKey;
use crate::key_manager::RefusedKey;
use crate::telemetry::Level;

/// The keys of one key manager that the log has named, and why they fail.
#[derive(Default)]
pub(super) struct RefusedKeys(BTreeMap<String, String>);

impl RefusedKeys {
    /// What is new for the log: of the keys that key stores expect, those that are refused now.
    pub(super) fn changes(
        &mut self,
        expected: &[ExpectedKey],
        refused: &[RefusedKey],
        name: &Arc<str>,
    ) -> Vec<(Level, String)> {
        let mut now = BTreeMap::new();
        for key in expected {
            if let Some(refused) = refused.iter().find(|refused| refused.label == key.key.label) {
                now.insert(key.what.clone(), refused.why.clone());
            }
        }
        let mut news = Vec::new();
        for (what, why) in &now {
            if self.0.get(what) != Some(why) {
                let reported = format!("{what} fails in key manager {name:?}: {why}");
                news.push((Level::Warn, reported));
            }
        }
        for what in self.0.keys().filter(|what| !now.contains_key(*what)) {
            news.push((Level::Info, format!("{what} works in key manager {name:?} again")));
        }
        self.0 = now;
        news
    }

    /// The keys, as the log named them.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::key_manager::KeyRef;

    #[test]
    fn a_refused_key_is_told_once_and_so_is_its_return() {
        let key = |id: &str, label: &str| ExpectedKey {
            key: KeyRef::first(label),
            what: format!("key {id}"),
            replicated: false,
        };
        // Two names for one key of the HSM, one for another; and one that nobody expects.
        let expected = [key("a", "one"), key("b", "one"), key("c", "two")];
        let refused = |label: &str, why: &str| RefusedKey {
            label: label.into(),
            why: why.to_owned(),
            since: Instant::now(),
        };
        let (mut keys, name) = (RefusedKeys::default(), "hsm".into());
        let mut reported = |refused: &[RefusedKey]| -> Vec<String> {
            let news = keys.changes(&expected, refused, &name);
            news.into_iter().map(|(_, reported)| reported).collect()
        };
        assert_eq!(reported(&[]), [""; 0]);
        let one = refused("one", "CKR_MECHANISM_INVALID");
        assert_eq!(
            reported(&[one.clone(), refused("three", "x")]),
            [
                "key a fails in key manager \"hsm\": CKR_MECHANISM_INVALID",
                "key b fails in key manager \"hsm\": CKR_MECHANISM_INVALID"
            ]
        );
        assert_eq!(reported(&[one]), [""; 0]);
        assert_eq!(
            reported(&[refused("two", "y")]),
            [
                "key c fails in key manager \"hsm\": y",
                "key a works in key manager \"hsm\" again",
                "key b works in key manager \"hsm\" again"
            ]
        );
        assert_eq!(keys.names().collect::<Vec<_>>(), ["key c"]);
    }
}
