//! How far the invocation budgets of keys are used on this instance.

use crate::config::Config;
use crate::control::budgets::file::{FILE, SavedKey, parse};
use crate::file;
use crate::limits::BUDGETS_FILE_BYTES_MAX;
use crate::policy::budget::{percent, share};

/// What the state directory says.
pub(super) struct Budgets {
    saved: Vec<SavedKey>,
    share: u64,
}

impl Budgets {
    /// What can be read: this may be another user's, and a running xksd writes it.
    pub(super) fn read(config: &Config) -> Budgets {
        let path = config.server.state_directory.join(FILE);
        let text = file::read(&path, BUDGETS_FILE_BYTES_MAX).ok();
        let saved = text.and_then(|text| parse(&text.bytes).ok()).unwrap_or_default();
        Budgets { saved, share: share(config.server.instances) }
    }

    /// A line for each key of this label in this key manager.
    pub(super) fn lines(&self, key_manager: &str, label: &str) -> Vec<String> {
        let is_it = |key: &&SavedKey| {
            *key.label == *label && key.key_managers.iter().any(|name| name == key_manager)
        };
        let line = |key: &SavedKey| {
            let (name, used, share) = (key.name(), key.encryptions, self.share);
            let percent = percent(used, share);
            format!("{name} has encrypted up to {used} times here: {percent:.1} % of {share}")
        };
        self.saved.iter().filter(is_it).map(line).collect()
    }
}
