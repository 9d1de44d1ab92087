//! The audit trail: who used which key, provably. A record is a line of JSON and a leaf of a Merkle
//! tree, whose root is signed.
//!
//! [`record`] is what a line says, [`tree`] and [`checkpoint`] are pure, [`layout`] names the
//! files. [`recovery`] opens a trail, [`store`] writes it; [`reader`] goes over its records.
//! [`trail`] is the way of a record from a shard to the disk, which shards find through
//! [`recording`]. [`verify`] fills a [`report`].

pub mod checkpoint;
pub mod consistency;
pub mod cosignature;
pub mod layout;
pub mod note;
pub mod proof;
pub mod reader;
pub mod record;
pub mod recording;
pub mod recovery;
pub mod report;
mod retired;
pub mod search;
pub mod store;
pub mod trail;
pub mod tree;
pub mod verify;
pub mod waiter;
pub mod witness;
pub mod witnessed;

#[cfg(test)]
mod tests;
