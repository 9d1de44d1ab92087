//! What is read from outside the API: health for load balancers, metrics, status. Changes nothing.

mod history;
mod host;
mod key_manager_status;
mod listener;
mod metrics;
mod page;
mod process;
mod status;
mod unsealing_status;

use crate::control::admin_hooks::AdminHooks;

/// For `control`, which starts the listener and answers `xksd status`.
pub const HOOKS: AdminHooks = AdminHooks {
    answer: listener::answer_to,
    status: |state| serde_json::to_value(status::Status::of(state)).unwrap_or_default(),
};
