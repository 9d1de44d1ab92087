//! Whether other instances have a version of a key: their admin listeners say.

use serde_json::Value;

use super::super::Failure;
use super::super::instance::Instance;

/// Refuses when an instance does not have the version of the key, staged or in use.
pub(super) fn refuse_without(
    instances: &[Instance],
    label: &str,
    version: u16,
) -> Result<(), Failure> {
    let wrong: Vec<String> = instances
        .iter()
        .filter_map(|instance| {
            let has = |status: Value| why_not(&status, label, version);
            let lacks = instance.get("/status").and_then(has);
            lacks.err().map(|why| format!("instance {}: {why}", instance.url))
        })
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!("{}\nnothing was changed", wrong.join("\n"))))
}

/// What `/status` says of the version.
fn why_not(status: &Value, label: &str, version: u16) -> Result<(), String> {
    let stores = status["key_stores"].as_array().into_iter().flatten();
    let keys = stores.flat_map(|store| store["key_versions"].as_array().into_iter().flatten());
    let versions = keys.flat_map(|key| key["versions"].as_array().into_iter().flatten());
    let mut of_label = versions.filter(|found| found["label"] == label).peekable();
    if of_label.peek().is_none() {
        return Err(format!("it has no key {label:?} in use"));
    }
    let found = of_label.find(|found| found["number"] == version);
    match found.and_then(|found| found["state"].as_str()) {
        Some("staged" | "primary" | "decrypt_only") => Ok(()),
        Some(state) => Err(format!("version {version} of {label:?} is {state} there")),
        None => Err(format!("it does not have version {version} of {label:?} yet")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_instance_has_a_version_or_it_is_said_why_not() {
        let of = |state: &str| {
            let versions = json!([
                { "number": 0, "label": "foo", "state": "primary" },
                { "number": 1, "label": "foo", "state": state },
            ]);
            json!({ "key_stores": [{ "key_versions": [{ "key": "a", "versions": versions }] }] })
        };
        for state in ["staged", "primary", "decrypt_only"] {
            assert_eq!(why_not(&of(state), "foo", 1), Ok(()));
        }
        for (status, version, why) in [
            (of("disabled"), 1, "is disabled there"),
            (of("staged"), 2, "does not have version 2"),
            (json!({}), 1, "no key \"foo\""),
        ] {
            assert!(why_not(&status, "foo", version).unwrap_err().contains(why), "{why}");
        }
    }
}
