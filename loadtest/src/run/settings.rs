//! What to run.

use std::sync::Arc;

use crate::criteria::Criteria;
use crate::generator::transport::Transport;
use crate::report::subject::Description;
use crate::target::Target;
use crate::workload::Shape;
use crate::workload::schedule::Plan;

/// What to run.
#[derive(Clone)]
pub struct Run {
    /// Whom.
    pub target: Arc<Target>,
    /// What.
    pub shape: Shape,
    /// When.
    pub plan: Arc<Plan>,
    /// How.
    pub transport: Transport,
    /// Connections that do nothing, besides.
    pub idle: usize,
    /// Threads.
    pub workers: usize,
    /// Cores to pin them to, in turn.
    pub cores: Vec<usize>,
    /// What must hold.
    pub criteria: Criteria,
    /// The load in words.
    pub load: String,
    /// What is said of the test for its report.
    pub described: Description,
    /// The command.
    pub command: String,
}
