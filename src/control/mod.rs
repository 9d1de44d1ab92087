//! The control plane, on the main thread and its helpers: everything that is not on a request's
//! way.

pub mod admin_hooks;
pub mod attendants;
pub mod attending;
pub mod audit;
pub mod block_shown;
pub mod blocks;
mod budget_keeper;
pub mod budgets;
pub mod build;
pub mod challenges;
pub mod commands;
pub mod connections;
mod drain;
pub mod expected;
pub mod fleet;
pub mod fleet_commands;
pub mod fleet_size;
mod fleet_thread;
pub mod instance;
pub mod lifecycle;
mod probes;
mod reload;
pub mod serving;
mod shards;
mod signals;
pub mod socket;
mod start;
pub mod state;
pub mod state_dir;
mod syslog;
pub mod system;
mod unsealer;
pub mod unsealing;
mod version_reread;
mod watchdog;
pub mod witness;
