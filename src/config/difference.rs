//! What is served and to whom, and what a reload changed of it, in words for the log: who may use
//! which key from now on, and who no longer. Secrets are compared, never told.

use super::{Config, Credential, Key, KeyStore, TlsClient};
use crate::tls::Certificate;

/// A line for each key store, credential and key that is there at the start, and for the
/// certificates of server and clients.
pub fn at_start(config: &Config, certificates: &[Certificate]) -> Vec<String> {
    let mut told = Vec::from_iter(certificate_change(&[], certificates));
    told.push(
        config
            .tls
            .client
            .as_ref()
            .map_or_else(|| "client certificates are not asked for".to_owned(), asked_for),
    );
    told.extend(key_stores(None, config));
    told
}

/// A line for each change from `old` to `new` in what is served and to whom, in the order of the
/// configuration.
pub fn changes(old: &Config, new: &Config) -> Vec<String> {
    let mut told = Vec::new();
    if old.server.request_budget != new.server.request_budget {
        told.push(format!("server.request_budget_ms is {}", new.server.request_budget.as_millis()));
    }
    if old.server.regions != new.server.regions {
        told.push(format!("server.regions is {:?}", new.server.regions));
    }
    match (&old.tls.client, &new.tls.client) {
        (Some(_), None) => told.push("client certificates are no longer asked for".to_owned()),
        (before, Some(client)) if before.as_ref() != Some(client) => told.push(asked_for(client)),
        _ => {}
    }
    told.extend(key_stores(Some(old), new));
    told
}

/// The server's certificates where they are not the `old` ones: its own first, then those above it.
pub fn certificate_change(old: &[Certificate], new: &[Certificate]) -> Option<String> {
    let told = || new.iter().map(ToString::to_string).collect::<Vec<_>>().join("; above it ");
    (old != new).then(|| format!("server certificate is {}", told()))
}

fn asked_for(client: &TlsClient) -> String {
    format!(
        "client certificates are asked for: subject common names {:?}, trust anchors {}",
        client.subject_common_names,
        client.trust_anchors.display()
    )
}

fn key_stores(old: Option<&Config>, new: &Config) -> Vec<String> {
    let mut told = Vec::new();
    compare(
        old.map_or(&[], |old| &old.keystores),
        &new.keystores,
        |store| &store.path_prefix,
        |store, change| {
            let name = &store.path_prefix;
            let before = match change {
                Change::Removed => return told.push(format!("key store {name:?} removed")),
                Change::Stayed(before) => Some(before),
                Change::Added => None,
            };
            let managers = managers(new, store);
            match before {
                None => told.push(format!(
                    "key store {name:?} added, {}, key managers {managers:?}",
                    switched(store.enabled)
                )),
                Some(before) if old.is_some_and(|old| self::managers(old, before) != managers) => {
                    told.push(format!("key store {name:?}: key managers are {managers:?}"));
                }
                Some(_) => {}
            }
            told.extend(
                key_store(before, store)
                    .into_iter()
                    .map(|what| format!("key store {name:?}: {what}")),
            );
        },
    );
    told
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

/// `old` is `None` for a key store that was not there.
fn key_store(old: Option<&KeyStore>, new: &KeyStore) -> Vec<String> {
    let mut told = Vec::new();
    if old.is_some_and(|old| old.enabled != new.enabled) {
        told.push(switched(new.enabled).to_owned());
    }
    if old.map_or(&[][..], |old| &old.accept_foreign_ciphertext) != new.accept_foreign_ciphertext {
        told.push(format!("accept_foreign_ciphertext is {:?}", new.accept_foreign_ciphertext));
    }
    compare(
        old.map_or(&[], |old| &old.credentials),
        &new.credentials,
        |credential| &credential.access_key_id,
        |credential, change| {
            let what = match change {
                Change::Added => "added",
                Change::Removed => "removed",
                Change::Stayed(Credential { secret_access_key, .. })
                    if *secret_access_key != credential.secret_access_key =>
                {
                    "has another secret"
                }
                Change::Stayed(_) => return,
            };
            told.push(format!("credential {} {what}", credential.access_key_id));
        },
    );
    compare(
        old.map_or(&[], |old| &old.keys),
        &new.keys,
        |key| &key.id,
        |key, change| match change {
            Change::Added if key.label == key.id => {
                told.push(format!("key {:?} added, {}", key.id, switched(key.enabled)))
            }
            Change::Added => told.push(format!(
                "key {:?} added, the HSM's {:?}, {}",
                key.id,
                key.label,
                switched(key.enabled)
            )),
            Change::Removed => told.push(format!("key {:?} removed", key.id)),
            Change::Stayed(Key { label, enabled, .. }) => {
                if *label != key.label {
                    told.push(format!(
                        "key {:?} is the HSM's {:?}, no longer {label:?}",
                        key.id, key.label
                    ));
                }
                if *enabled != key.enabled {
                    told.push(format!("key {:?} {}", key.id, switched(key.enabled)));
                }
            }
        },
    );
    told
}

fn switched(enabled: bool) -> &'static str {
    if enabled { "enabled" } else { "disabled" }
}

enum Change<'a, T> {
    Added,
    Removed,
    /// As it was before.
    Stayed(&'a T),
}

/// Calls `tell` for each element of `new` and for those of `old` that are gone, by what names them.
fn compare<T>(
    old: &[T],
    new: &[T],
    name: impl Fn(&T) -> &String,
    mut tell: impl FnMut(&T, Change<'_, T>),
) {
    for element in new {
        let before = old.iter().find(|before| name(before) == name(element));
        tell(element, before.map_or(Change::Added, Change::Stayed));
    }
    for gone in old.iter().filter(|before| !new.iter().any(|element| name(element) == name(before)))
    {
        tell(gone, Change::Removed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{SMALL, read};

    /// What is told of `SMALL` after each of these replacements.
    fn told(edits: &[(&str, &str)]) -> Vec<String> {
        let text = edits.iter().fold(SMALL.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from:?}");
            text.replacen(from, to, 1)
        });
        changes(&read(SMALL).expect("valid"), &read(&text).expect("valid"))
    }

    #[test]
    fn all_is_told_at_the_start() {
        assert_eq!(
            at_start(&read(SMALL).expect("valid"), &[certificate("xks.example.com", "0A")]),
            [
                "server certificate is \"xks.example.com\", serial 0A, valid until 1970-01-01 \
                 00:00:00 UTC",
                "client certificates are not asked for",
                "key store \"/a\" added, enabled, key managers [\"hsm-a\"]",
                "key store \"/a\": credential ABCDEFGHIJKLMNOPQR27 added",
                "key store \"/a\": key \"foo\" added, enabled"
            ]
        );
    }

    #[test]
    fn what_stays_is_not_told() {
        assert_eq!(told(&[]), [""; 0]);
    }

    fn certificate(subject: &str, serial: &str) -> Certificate {
        Certificate {
            subject: subject.to_owned(),
            serial: serial.to_owned(),
            not_after: time::OffsetDateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn another_certificate_is_told() {
        let before = [certificate("a", "01"), certificate("CA", "02")];
        assert_eq!(certificate_change(&before, &before), None);
        let told = |own, above| {
            certificate_change(&before, &[certificate("a", own), certificate("CA", above)])
        };
        let until = "valid until 1970-01-01 00:00:00 UTC";
        for (own, above) in [("03", "02"), ("01", "03")] {
            let expected = format!(
                "server certificate is \"a\", serial {own}, {until}; above it \"CA\", serial \
                 {above}, {until}"
            );
            assert_eq!(told(own, above), Some(expected));
        }
    }

    #[test]
    fn who_is_cut_off_and_who_comes_in_is_told() {
        let store = "key_manager = [\"hsm-a\"]\n[[keystore.credential]]";
        let disabled = store.replace('\n', "\nenabled = false\n");
        assert_eq!(told(&[(store, &disabled)]), ["key store \"/a\": disabled"]);
        assert_eq!(
            told(&[("id = \"foo\"", "id = \"foo\"\nenabled = false")]),
            ["key store \"/a\": key \"foo\" disabled"]
        );
        assert_eq!(
            told(&[("ABCDEFGHIJKLMNOPQR27", "BBCDEFGHIJKLMNOPQR27")]),
            [
                "key store \"/a\": credential BBCDEFGHIJKLMNOPQR27 added",
                "key store \"/a\": credential ABCDEFGHIJKLMNOPQR27 removed"
            ]
        );
        assert_eq!(
            told(&[("id = \"foo\"", "id = \"bar\"")]),
            [
                "key store \"/a\": key \"bar\" added, enabled",
                "key store \"/a\": key \"foo\" removed"
            ]
        );
        assert_eq!(
            told(&[("id = \"foo\"", "id = \"foo\"\nlabel = \"other\"")]),
            ["key store \"/a\": key \"foo\" is the HSM's \"other\", no longer \"foo\""]
        );
        assert_eq!(
            told(&[("\"/a\"", "\"/b\""), ("id = \"foo\"", "id = \"foo\"\nlabel = \"other\"")]),
            [
                "key store \"/b\" added, enabled, key managers [\"hsm-a\"]",
                "key store \"/b\": credential ABCDEFGHIJKLMNOPQR27 added",
                "key store \"/b\": key \"foo\" added, the HSM's \"other\", enabled",
                "key store \"/a\" removed"
            ]
        );
        assert_eq!(
            told(&[("[\"us-east-1\"]", "[\"eu-west-1\"]")]),
            ["server.regions is [\"eu-west-1\"]"]
        );
        let foreign = store.replace('\n', "\naccept_foreign_ciphertext = [\"aws-sample\"]\n");
        assert_eq!(
            told(&[(store, &foreign)]),
            ["key store \"/a\": accept_foreign_ciphertext is [AwsSample]"]
        );
    }

    #[test]
    fn another_secret_is_told_and_not_shown() {
        let secret = "z".repeat(43);
        let told = told(&[("{ file = \"secrets/key\" }", &format!("{{ value = \"{secret}\" }}"))]);
        assert_eq!(told, ["key store \"/a\": credential ABCDEFGHIJKLMNOPQR27 has another secret"]);
    }

    #[test]
    fn client_certificates_are_told() {
        let client = "[tls.client]\ntrust_anchors = \"ca.pem\"\nsubject_common_names = \
            [\"kms\"]\n[[key_manager]]";
        let with = read(&SMALL.replacen("[[key_manager]]", client, 1)).expect("valid");
        let without = read(SMALL).expect("valid");
        assert_eq!(
            changes(&without, &with),
            ["client certificates are asked for: subject common names [\"kms\"], trust anchors \
                 /etc/xksd/ca.pem"]
        );
        assert_eq!(changes(&with, &without), ["client certificates are no longer asked for"]);
        assert_eq!(changes(&with, &with), [""; 0]);
    }
}
