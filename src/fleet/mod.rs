//! What the instances of a fleet share, as values: sealed documents and the order among them, what
//! an instance says of itself, and how they differ.
//!
//! Pure: nothing here knows where a document comes from. `control::fleet` brings them.

pub mod document;
pub mod key_managers;
pub mod sealed;
pub mod status;
pub mod summary;

pub use document::{Content, Document, Verdict};
pub use sealed::FleetKey;
pub use summary::Summary;
