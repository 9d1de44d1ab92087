//! `[[key_manager]]` of `kind = "wrapped"`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use secret_memory::Wanted;

use super::reader::{Section, Value};
use crate::key_manager::wrapped::key_file::{LABEL_FORM, is_label};
use crate::limits::{HSM_ABSENT_SECONDS_MAX, RECHECK_SECONDS};

/// A key manager whose keys lie in files, wrapped by an HSM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// Where the files are.
    pub folder: PathBuf,
    /// Names of the key managers that open them.
    pub unseal_with: Vec<String>,
    /// Label of the key in the HSM that wraps.
    pub master: String,
    /// How often the HSM must show that it still opens them.
    pub recheck: Duration,
    /// For how long keys are used while it is away.
    pub hsm_absent_max: Duration,
    /// Whether they may lie in locked memory where there is no secret memory.
    pub memory: Wanted,
    /// By label: files with a lower epoch are refused.
    pub min_epoch: BTreeMap<String, u64>,
}

/// As it stands in the configuration.
pub(super) fn word(memory: Wanted) -> &'static str {
    match memory {
        Wanted::Prefer => "prefer",
        Wanted::Require => "require",
    }
}

pub(super) fn wrapped(section: &Section<'_>) -> Option<Wrapped> {
    let folder = section.must("folder", "the directory with the key files", Value::path);
    let unseal_with =
        section.must("unseal_with", "names of pkcs11 key managers, for example [\"hsm-a\"]", |v| {
            v.distinct_strings(Value::string)
        });
    let master = section.must("master", "the label of the key in the HSM that wraps", |v| {
        super::key_version::label(v).map(ToOwned::to_owned)
    });
    let recheck = section.or("recheck_s", 10, |v| v.integer("seconds", RECHECK_SECONDS));
    let absent =
        section.or("hsm_absent_max_s", 900, |v| v.integer("seconds", 0..=HSM_ABSENT_SECONDS_MAX));
    let memory = section.or("secret_memory", Wanted::Prefer, memory);
    let min_epoch = section.or("min_epoch", BTreeMap::new(), min_epoch);
    Some(Wrapped {
        folder: folder?,
        unseal_with: unseal_with?,
        master: master?,
        recheck: Duration::from_secs(recheck?),
        hsm_absent_max: Duration::from_secs(absent?),
        memory: memory?,
        min_epoch: min_epoch?,
    })
}

fn memory(value: &Value<'_>) -> Option<Wanted> {
    let of_word =
        |text: &str| [Wanted::Prefer, Wanted::Require].into_iter().find(|w| word(*w) == text);
    of_word(value.string_where("\"prefer\" or \"require\"", |text| of_word(text).is_some())?)
}

fn min_epoch(value: &Value<'_>) -> Option<BTreeMap<String, u64>> {
    let mut epochs = Some(BTreeMap::new());
    // All are looked at, so that each can report its problem.
    for (label, value) in value.entries()? {
        let epoch = match is_label(label) {
            true => value.integer("", 1..=u64::MAX),
            false => value.refuse(LABEL_FORM),
        };
        match (epoch, &mut epochs) {
            (Some(epoch), Some(epochs)) => {
                epochs.insert(label.to_owned(), epoch);
            }
            (_, epochs) => *epochs = None,
        }
    }
    epochs
}
