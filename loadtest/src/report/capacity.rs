//! What a search for the capacity found.

use serde::{Deserialize, Serialize};

use super::step::Step;
use crate::observe::bottleneck::Bottleneck;

/// What was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Capacity {
    /// The highest rate that held, and held again for the longer time; `None`: not even the lowest
    /// did.
    pub rate: Option<f64>,
    /// The lowest rate that did not hold; `None`: all up to the upper limit did.
    pub failed_at: Option<f64>,
    /// What kept it from more, at the lowest rate that did not hold.
    pub bottleneck: Option<Bottleneck>,
    /// HSM sessions that the found rate needs; 0 where they cannot be seen.
    pub sessions_needed: u64,
    /// Whether they were what requests waited for, so that it needs more than that.
    #[serde(default)]
    pub sessions_full: bool,
    /// Every trial, in the order in which they were run.
    pub trials: Vec<Step>,
}
