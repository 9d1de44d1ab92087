//! What `/status` shows of a wrapped key manager: whether its keys may be used, and its files.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::control::state::State;
use crate::control::unsealing::Unsealing;
use crate::key_manager::wrapped::Closed;

/// One wrapped key manager, as it is now.
#[derive(Debug, Serialize)]
pub(super) struct UnsealingStatus {
    name: String,
    /// `open`, `not_opened`, `hsm_away`, `hsm_refuses` or `sealed`.
    state: &'static str,
    why: Option<String>,
    /// How long its HSM has not answered, while its keys are used all the same.
    hsm_absent_seconds: Option<u64>,
    hsm_absent_max_seconds: u64,
    /// Where keys are in memory.
    memory: String,
    keys: Vec<KeyFile>,
    refused_files: Vec<RefusedFile>,
}

#[derive(Debug, Serialize)]
struct KeyFile {
    label: Arc<str>,
    epoch: u64,
    sha256: String,
}

#[derive(Debug, Serialize)]
struct RefusedFile {
    label: Arc<str>,
    why: String,
}

impl UnsealingStatus {
    pub(super) fn of_all(state: &State, now: Instant) -> Vec<UnsealingStatus> {
        state.unsealing.load().iter().map(|unsealing| UnsealingStatus::of(unsealing, now)).collect()
    }

    fn of(unsealing: &Unsealing, now: Instant) -> UnsealingStatus {
        let (table, absence) = (unsealing.keys.table(), unsealing.absence(now));
        let (state, why) = match table.closed() {
            None => ("open", absence.as_ref().map(|(_, why)| why.clone())),
            Some(closed) => (name(closed), Some(closed.why().to_owned())),
        };
        let mut keys: Vec<KeyFile> = table
            .keys()
            .map(|(label, key)| KeyFile {
                label: label.clone(),
                epoch: key.epoch.number,
                sha256: key.epoch.fingerprint.clone(),
            })
            .collect();
        keys.sort_by(|a, b| a.label.cmp(&b.label));
        let refused = table.refused();
        UnsealingStatus {
            name: unsealing.name.clone(),
            state,
            why,
            hsm_absent_seconds: absence.map(|(time, _)| time.as_secs()),
            hsm_absent_max_seconds: unsealing.means.load().settings.hsm_absent_max.as_secs(),
            memory: unsealing.keys.protection().to_string(),
            keys,
            refused_files: refused
                .map(|(label, why)| RefusedFile { label: label.clone(), why: why.to_owned() })
                .collect(),
        }
    }
}

fn name(closed: &Closed) -> &'static str {
    match closed {
        Closed::NotOpened(_) => "not_opened",
        Closed::Away(_) => "hsm_away",
        Closed::Refused(_) => "hsm_refuses",
        Closed::Sealed(_) => "sealed",
    }
}
