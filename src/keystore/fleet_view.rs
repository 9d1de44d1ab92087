//! What is known of all instances that serve the same key stores. The control plane writes it, a
//! health call reads it.

use std::sync::atomic::AtomicU32;

use arc_swap::ArcSwap;

use crate::fleet::key_managers::Others;

/// The fleet, as AWS KMS is shown it.
#[derive(Default)]
pub struct FleetView {
    /// How many instances there are, this one among them.
    pub size: AtomicU32,
    /// Key managers of the others, as they said lately.
    pub others: ArcSwap<Others>,
}
