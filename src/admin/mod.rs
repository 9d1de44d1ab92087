//! What is read from outside the API: health for load balancers, metrics, status. Changes nothing.

pub mod listener;
mod metrics;
pub mod status;
