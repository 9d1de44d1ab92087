//! The commands as a person runs them, the configuration on disk, and `tuning/check`.

mod commands;
mod config_files;
mod key;
mod policy;
mod serving;
mod tuning;
