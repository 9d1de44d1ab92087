//! The keys that a token holds, for `xksd keys`.

use super::{Answer, Fault, KeyDescription, KeyUsage, Outcome};
use crate::limits::KEYS_OF_A_LABEL_MAX;

/// A secret key on a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyListing {
    /// CKA_LABEL; bytes that are not UTF-8 are replaced.
    pub label: String,
    /// CKA_ID in hexadecimal.
    pub id: String,
    /// What it is and may do.
    pub description: KeyDescription,
    /// CKA_SENSITIVE; `None` if the module does not say.
    pub sensitive: Option<bool>,
    /// CKA_EXTRACTABLE; `None` if the module does not say.
    pub extractable: Option<bool>,
    /// CKA_START_DATE as `2026-03-01`.
    pub start_date: Option<String>,
    /// CKA_END_DATE, the last day on which the key works.
    pub end_date: Option<String>,
    /// Why the module cannot tell everything of it.
    pub unreadable: Option<String>,
}

/// All secret keys on a token, sorted by label and id.
#[derive(Clone, Debug, Default)]
pub struct TokenKeys(Vec<KeyListing>);

impl TokenKeys {
    pub(super) fn new(mut keys: Vec<KeyListing>) -> TokenKeys {
        keys.sort_by(|a, b| (&a.label, &a.id).cmp(&(&b.label, &b.id)));
        TokenKeys(keys)
    }

    /// Those of that label.
    pub fn of_label(&self, label: &str) -> &[KeyListing] {
        let start = self.0.partition_point(|key| *key.label < *label);
        let end = self.0.partition_point(|key| *key.label <= *label);
        self.0.get(start..end).unwrap_or_default()
    }

    /// As a session answers [`Task::Describe`](super::Task::Describe).
    pub fn describe(&self, label: &str) -> Outcome {
        match self.of_label(label) {
            [] => Err(Fault::KeyNotFound { detail: no_key(label) }),
            [KeyListing { unreadable: Some(why), .. }] => {
                Err(Fault::Device { detail: why.clone() })
            }
            [key] => Ok(Answer::Described(key.description)),
            keys => Err(Fault::KeyNotFound { detail: several_keys(label, keys.len()) }),
        }
    }
}

impl std::ops::Deref for TokenKeys {
    type Target = [KeyListing];

    fn deref(&self) -> &[KeyListing] {
        &self.0
    }
}

impl KeyListing {
    /// By which ways the key, or others of its HSM, can get out of it or be exchanged: none for a
    /// key as `docs/hsm-vendors.md` wants it.
    pub fn exposures(&self) -> Vec<String> {
        let mut exposures = Vec::new();
        match self.extractable {
            Some(false) => {}
            Some(true) => exposures.push("it can leave the HSM (CKA_EXTRACTABLE)".to_owned()),
            None => exposures.push(
                "the HSM does not say whether the key can leave it (CKA_EXTRACTABLE)".to_owned(),
            ),
        }
        match self.sensitive {
            Some(true) => {}
            Some(false) => exposures.push("it is not marked secret (not CKA_SENSITIVE)".to_owned()),
            None => exposures.push(
                "the HSM does not say whether the key is marked secret (CKA_SENSITIVE)".to_owned(),
            ),
        }
        if self.description.usage.contains(KeyUsage::Wrap) {
            exposures.push("it can carry other keys out of the HSM (CKA_WRAP)".to_owned());
        }
        if self.description.usage.contains(KeyUsage::Unwrap) {
            exposures.push("it can bring keys into the HSM (CKA_UNWRAP)".to_owned());
        }
        exposures
    }
}

/// What the operator reads of a label without a key.
pub(super) fn no_key(label: &str) -> String {
    format!("no secret key labelled \"{label}\" on the token")
}

/// What the operator reads of a label that several keys have.
pub(super) fn several_keys(label: &str, count: usize) -> String {
    let or_more = if count >= KEYS_OF_A_LABEL_MAX { " or more" } else { "" };
    format!(
        "{count}{or_more} secret keys labelled \"{label}\" on the token: which of them is meant \
         cannot be known"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_manager::KeySpec;

    fn description<const N: usize>(besides: [KeyUsage; N]) -> KeyDescription {
        let usage = [KeyUsage::Encrypt, KeyUsage::Decrypt].into_iter().chain(besides).collect();
        KeyDescription { spec: KeySpec::AES_256, usage, enabled: true }
    }

    #[test]
    fn a_key_that_is_as_it_should_be_has_no_exposures() {
        let good = KeyListing {
            label: "foo".to_owned(),
            id: String::new(),
            description: description([]),
            sensitive: Some(true),
            extractable: Some(false),
            start_date: None,
            end_date: None,
            unreadable: None,
        };
        assert!(good.exposures().is_empty());
        for (other, attribute) in [
            (KeyListing { extractable: Some(true), ..good.clone() }, "CKA_EXTRACTABLE"),
            (KeyListing { extractable: None, ..good.clone() }, "CKA_EXTRACTABLE"),
            (KeyListing { sensitive: Some(false), ..good.clone() }, "not CKA_SENSITIVE"),
            (KeyListing { sensitive: None, ..good.clone() }, "CKA_SENSITIVE"),
            (KeyListing { description: description([KeyUsage::Wrap]), ..good.clone() }, "CKA_WRAP"),
            (
                KeyListing { description: description([KeyUsage::Unwrap]), ..good.clone() },
                "CKA_UNWRAP",
            ),
        ] {
            let exposures = other.exposures();
            assert!(
                exposures.len() == 1 && exposures[0].contains(&format!("({attribute})")),
                "{exposures:?}"
            );
        }
    }

    #[test]
    fn a_label_names_one_key_or_none() {
        let key = |label: &str, id: &str| KeyListing {
            label: label.to_owned(),
            id: id.to_owned(),
            description: description([]),
            sensitive: Some(true),
            extractable: Some(false),
            start_date: None,
            end_date: None,
            unreadable: (label == "broken").then(|| "why".to_owned()),
        };
        let of = [("twin", "2"), ("a", ""), ("twin", "1"), ("broken", ""), ("zz", "")];
        let keys = TokenKeys::new(of.map(|(label, id)| key(label, id)).to_vec());
        let ids: Vec<_> = keys.of_label("twin").iter().map(|key| &*key.id).collect();
        assert_eq!(ids, ["1", "2"]);
        assert!(
            matches!(keys.describe("a"), Ok(Answer::Described(key)) if key.spec == KeySpec::AES_256)
        );
        assert!(matches!(keys.describe("zz"), Ok(Answer::Described(_))));
        let told = |label| keys.describe(label).expect_err("cannot serve").to_string();
        assert!(told("b").contains("no secret key labelled \"b\""));
        assert!(told("twin").starts_with("2 secret keys labelled \"twin\""));
        assert_eq!(told("broken"), "why");
        assert!(TokenKeys::default().of_label("a").is_empty());
    }
}
