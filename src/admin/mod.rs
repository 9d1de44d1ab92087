//! What is read from outside the API: health for load balancers, metrics, status. Changes nothing.

mod host;
mod key_manager_status;
pub mod listener;
mod metrics;
pub mod status;
