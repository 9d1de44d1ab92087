//! What became of reloads: of the last one, and of files that were refused.

use std::sync::Arc;
use std::time::SystemTime;

use crate::config::files::Files;

/// What became of the last reload, for `/status` and `/metrics`: who cuts AWS off by one must see
/// that it was taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastReload {
    /// When a configuration was taken over last; the start counts as one.
    pub succeeded_at: SystemTime,
    /// The first line of why the last reload was refused; `None` where it was not. As the log's,
    /// without anything secret.
    pub refused: Option<String>,
    /// What the configuration that was taken over last asks for and is in force from the next start
    /// only, a line each, as the log's. Nothing at the start.
    pub waiting_for_restart: Vec<String>,
    /// What it asks for and could not be had, a line each: another reload tries it again.
    pub failed: Vec<String>,
}

impl LastReload {
    /// Now, and nothing was refused.
    pub fn success(waiting_for_restart: Vec<String>, failed: Vec<String>) -> Self {
        Self { succeeded_at: SystemTime::now(), refused: None, waiting_for_restart, failed }
    }
}

/// Files that were refused: not to be tried again as they are.
pub struct RefusedFiles {
    /// What was on disk then: what the configuration names, and its texts.
    pub found: Files,
    /// Why.
    pub why: String,
    /// What was told of it.
    pub told: Arc<LastReload>,
}
